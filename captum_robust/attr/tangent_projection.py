"""Explanations without what points away from the data: the projection on their tangent space."""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch
from captum.attr import Attribution
from captum.log import log_usage
from torch import Tensor

from captum_robust._utils.attributions import absolute_by_default, attribute_detached
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

    Neighbours are found by Euclidean distances: bring the columns of a table to one scale first.
    Directions in which the neighbours do not vary belong to no tangent space, and are left out
    even where ``n_dims`` is larger.

    Args:
        attribution_method: The Captum explanation.
        data: Examples of the kind that is explained, (M, ...), such as the training set.
        n_dims: d, the dimension of the manifold, at most the number of features; with as many the
            explanation stays as it is.
        n_neighbors: k, larger than ``n_dims``; None: three times as many, or all of the data.

    Raises:
        TypeError: ``attribution_method`` is not a Captum ``Attribution``, ``data`` not a
            floating-point tensor.
        ValueError: ``data`` has NaN or fewer points than neighbours, or there are not more
            neighbours than dimensions, or more dimensions than features.

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
        if n_dims > data[0].numel():
            raise ValueError(
                f"n_dims must be at most the {data[0].numel()} features of the data, got {n_dims}."
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
            **kwargs: Of the method's ``attribute``. With ``abs``, True by default in Saliency, the
                projection of signed values is made absolute.

        Returns:
            Like ``inputs``.

        Raises:
            TypeError: ``inputs`` is a tuple.
            ValueError: The inputs, or the attributions, have another shape than the data.
        """
        self._check(inputs)
        args, kwargs, absolute = self._signed(args, kwargs)
        phi = attribute_detached(self.attribution_method, inputs, *args, **kwargs)
        projected = self.project(phi, inputs)
        return projected.abs() if absolute else projected

    def attribute_with_graph(self, inputs: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Like :meth:`attribute`, with a graph: almost everywhere the neighbours stay the same."""
        self._check(inputs)
        args, kwargs, absolute = self._signed(args, kwargs)
        phi = differentiable(self.attribution_method)(inputs, *args, **kwargs)
        projected = self.project(phi, inputs)
        return projected.abs() if absolute else projected

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
        """Principal directions of the neighbours, V': (N, d, features).

        The rows are orthonormal; where the neighbours vary in fewer directions, the last are 0.
        """
        # From the middle of the data: distances lose no digits to numbers far from 0.
        wide = torch.float32 if inputs.device.type == "mps" else torch.float64
        data = self.data.to(inputs.device, wide).flatten(1)
        middle = data.mean(0)
        points = (inputs.detach().to(wide).flatten(1) - middle).float()
        data = (data - middle).float()
        rows = max(1, _DISTANCES_AT_ONCE // len(data))
        found = []
        for part in points.split(rows):
            distances = torch.cdist(part, data, compute_mode="donot_use_mm_for_euclid_dist")
            nearest = distances.topk(self.n_neighbors, largest=False).indices
            around = data[nearest]
            rounding = torch.finfo(around.dtype).eps * max(around.shape[1:])
            noise = rounding * around.flatten(1).norm(dim=1)[:, None, None]
            around = around - around.mean(1, keepdim=True)
            _, sizes, directions = torch.linalg.svd(around, full_matrices=False)
            varies = sizes.unsqueeze(2) > noise  # else the direction is arbitrary
            found.append((directions * varies)[:, : self.n_dims])
        return torch.cat(found)

    def _signed(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any], bool]:
        """The arguments for signed values, and whether absolute ones are asked for.

        A magnitude points nowhere, so that there is nothing to project.
        """
        by_default = absolute_by_default(self.attribution_method)
        if by_default is None:
            return args, kwargs, False
        names = list(signature(self.attribution_method.attribute).parameters)[1:]  # after inputs
        place = names.index("abs") if "abs" in names else len(args)
        if place < len(args):
            return (*args[:place], False, *args[place + 1 :]), kwargs, args[place] is True
        return args, {**kwargs, "abs": False}, kwargs.get("abs", by_default) is True

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
