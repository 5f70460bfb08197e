"""Explanations without what points away from the data: the projection on their tangent space."""

from __future__ import annotations

from typing import Any

import torch
from captum.attr import Attribution
from captum.log import log_usage
from torch import Tensor

from captum_robust._utils.attributions import attribute_detached
from captum_robust._utils.checks import check_attribution, check_count, checked
from captum_robust.attr.differentiable import differentiable

# Distances of a chunk of inputs to all of the data, in numbers.
_DISTANCES_AT_ONCE = 2**24


class TangentProjection(Attribution):
    r"""An explanation projected on the tangent space of the data (Anders et al. 2020).

    .. math:: \hat{\phi}(x) = V V^\top \phi(x)

    with the first d principal directions V, orthonormal columns, of the k points of the data that
    are nearest to x: local PCA. A model can be manipulated so that its explanation is anything
    while its outputs on the data stay ("fairwashing"); what such a manipulation adds to a gradient
    is orthogonal to the data manifold, and the projection removes it. What the model says about
    moves off the manifold is removed too, also where it is honest.

    Args:
        attribution_method: The Captum explanation.
        data: Examples of the kind that is explained, (M, ...), such as the training set.
        n_dims: d, the dimension of the manifold.
        n_neighbors: k, larger than ``n_dims``; None: three times as many, or all of the data.

    Raises:
        TypeError: ``attribution_method`` is not a Captum ``Attribution``, ``data`` not a
            floating-point tensor.
        ValueError: ``data`` has NaN or fewer points than neighbours, or there are not more
            neighbours than dimensions.

    Example:
        >>> import torch
        >>> from captum.attr import Saliency
        >>> from captum_robust.attr import TangentProjection
        >>> data = torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])  # on a line
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[3.0, 1.0]]))
        >>> projected = TangentProjection(Saliency(model), data, n_dims=1)
        >>> projected.attribute(torch.tensor([[1.5, 1.5]]))
        tensor([[2.0000, 2.0000]])
    """

    def __init__(
        self,
        attribution_method: Attribution,
        data: Tensor,
        n_dims: int,
        n_neighbors: int | None = None,
    ) -> None:
        check_attribution(attribution_method)
        super().__init__(attribution_method.forward_func)
        check_count(n_dims=n_dims)
        _check_data(data)
        if n_neighbors is None:
            n_neighbors = min(3 * n_dims, len(data))
        check_count(n_neighbors=n_neighbors)
        if not n_dims < n_neighbors <= len(data):
            raise ValueError(
                f"n_neighbors must be larger than the {n_dims} dimensions and at most the "
                f"{len(data)} points of the data, got {n_neighbors}."
            )
        self.attribution_method, self.data = attribution_method, data.detach()
        self.n_dims, self.n_neighbors = n_dims, n_neighbors

    @log_usage()
    @checked
    def attribute(self, inputs: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Explain, and project.

        Args:
            inputs: (N, ...), of the shape of the data: one tensor.
            *args: Of the method's ``attribute``.
            **kwargs: Of the method's ``attribute``.

        Returns:
            Like ``inputs``.

        Raises:
            TypeError: ``inputs`` is a tuple.
            ValueError: The inputs, or the attributions, have another shape than the data.
        """
        self._check(inputs)
        phi = attribute_detached(self.attribution_method, inputs, *args, **kwargs)
        return self.project(phi, inputs)

    def attribute_with_graph(self, inputs: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Like :meth:`attribute`, with a graph: almost everywhere the neighbours stay the same."""
        self._check(inputs)
        return self.project(
            differentiable(self.attribution_method)(inputs, *args, **kwargs), inputs
        )

    def project(self, attributions: Tensor, inputs: Tensor) -> Tensor:
        """Attributions of any origin, projected on the tangent space at their inputs."""
        if attributions.shape != inputs.shape:
            raise ValueError(
                f"attribution_method gives the shape {tuple(attributions.shape)} for inputs of "
                f"{tuple(inputs.shape)}. Take an explanation of the inputs, not of a layer."
            )
        basis = self.tangent_basis(inputs).to(attributions.dtype)
        flat = attributions.flatten(1)
        inside = torch.einsum("ndf,nf->nd", basis, flat)
        return torch.einsum("ndf,nd->nf", basis, inside).view_as(attributions)

    @torch.no_grad()
    def tangent_basis(self, inputs: Tensor) -> Tensor:
        """Principal directions of the neighbours, V', orthonormal rows: (N, d, features)."""
        points = inputs.detach().flatten(1).float()
        data = self.data.to(points.device).flatten(1).float()
        rows = max(1, _DISTANCES_AT_ONCE // len(data))
        found = []
        for part in points.split(rows):
            nearest = torch.cdist(part, data).topk(self.n_neighbors, largest=False).indices
            around = data[nearest]
            around = around - around.mean(1, keepdim=True)
            found.append(torch.linalg.svd(around, full_matrices=False).Vh[:, : self.n_dims])
        return torch.cat(found)

    def _check(self, inputs: Any) -> None:
        if isinstance(inputs, tuple):
            raise TypeError(
                "inputs must be one tensor, of the kind of data. Pass what is not explained as "
                "additional_forward_args."
            )
        if inputs.shape[1:] != self.data.shape[1:]:
            raise ValueError(
                f"inputs must have the shape of the data, {tuple(self.data.shape[1:])}, got "
                f"{tuple(inputs.shape[1:])}."
            )

    def has_convergence_delta(self) -> bool:
        """False: a projection is not complete."""
        return False


def _check_data(data: Any) -> None:
    if not isinstance(data, Tensor) or not data.is_floating_point():
        kind = data.dtype if isinstance(data, Tensor) else type(data).__name__
        raise TypeError(f"data must be a floating-point tensor, got {kind}.")
    if data.dim() < 2 or len(data) < 2:
        raise ValueError(
            f"data must have two examples or more, (M, ...), got shape {tuple(data.shape)}."
        )
    if not bool(torch.isfinite(data).all()):
        raise ValueError("data has NaN or Inf. Find it with torch.isfinite(data).")
