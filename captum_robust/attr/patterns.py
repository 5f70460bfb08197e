"""Patterns: which direction of its input a neuron answers to, learned from data."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from captum_robust._utils.batching import widest
from captum_robust._utils.checks import check_inputs
from captum_robust._utils.eager import require_eager
from captum_robust._utils.forward import logits_of
from captum_robust._utils.model_state import preserve_model
from captum_robust.attr._backward.backward_pass import GradientPass
from captum_robust.attr._backward.call import Call, Node
from captum_robust.attr._backward.operations import PRODUCTS, RESHAPES, ROUTES, SUMS
from captum_robust.attr._backward.tape import Tape
from captum_robust.attr._backward.unsupported import Unsupported, unsupported


class Patterns(Mapping[str, Tensor]):
    """One tensor for each weight of a model, under the weight's name and in its shape.

    A mapping that is not changed. :func:`learn_patterns` makes it.

    Args:
        patterns: The tensors, by the names of ``model.named_parameters()``.

    Example:
        >>> import torch
        >>> from captum_robust.attr import Patterns
        >>> patterns = Patterns({"0.weight": torch.eye(2)})
        >>> list(patterns), patterns["0.weight"].shape
        (['0.weight'], torch.Size([2, 2]))
    """

    def __init__(self, patterns: Mapping[str, Tensor]) -> None:
        self._patterns = dict(patterns)

    def save(self, path: str | PathLike[str]) -> None:
        """Write a file ``.npz`` of plain numbers."""
        arrays = {name: p.detach().cpu().float().numpy() for name, p in self.items()}
        with open(path, "wb") as file:  # savez would add an ending to the name
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Patterns:
        """Read what :meth:`save` has written; a file cannot run code.

        Raises:
            ValueError: The file holds something else than finite numbers.
        """
        try:
            with np.load(path, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
        except (ValueError, AttributeError, TypeError, EOFError, BadZipFile, zlib.error) as error:
            raise ValueError(
                f"path: {path} is not a file that Patterns.save has written."
            ) from error
        strange = [name for name, array in arrays.items() if array.dtype.kind != "f"]
        if strange:
            raise ValueError(
                f"path: {strange[0]!r} in it is not an array of floating-point numbers."
            )
        bad = [name for name, array in arrays.items() if not np.isfinite(array).all()]
        if bad:
            raise ValueError(f"path: {bad[0]!r} in it has NaN or Inf.")
        return cls({name: torch.from_numpy(array) for name, array in arrays.items()})

    def __getitem__(self, name: str) -> Tensor:
        return self._patterns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._patterns)

    def __len__(self) -> int:
        return len(self._patterns)

    def __repr__(self) -> str:
        return f"Patterns({', '.join(self)})"


def learn_patterns(
    model: nn.Module, loader: Iterable[Any], show_progress: bool = False
) -> Patterns:
    r"""Learn the pattern of every layer by the two-component estimator.

    .. math:: a_+ = \frac{E_+[x y] - E_+[x]\,E[y]}{w^\top (E_+[x y] - E_+[x]\,E[y])}

    for a neuron :math:`y = w^\top x`, with :math:`E_+` over the inputs at which the rectifier that
    follows lets it through, and E over all. Where no rectifier follows, :math:`E_+` is E; so, too,
    where other values are added in before it, as at the end of a residual block, or a function with
    several results stands between. A batch norm after the layer is one layer with it. Sums are kept
    in float64 and no batch is kept, so any number of images will do; a few thousand do well.

    Args:
        model: A network of linear layers and convolutions. It is run in evaluation mode and left as
            it is.
        loader: Batches of images, or tuples that begin with one, such as a ``DataLoader`` gives.
        show_progress: Whether to show a bar on standard error.

    Returns:
        The patterns, one for each weight, in its shape, dtype and device; 0 for a neuron that is
        never active.

    Raises:
        TypeError: ``model`` is not a module, is scripted, compiled or parallel, hides calls, or
            holds a layer that cannot have a pattern, which the message names.
        ValueError: ``loader`` is empty, or holds NaN or Inf.

    References:
        Kindermans et al. 2018, "Learning how to explain neural networks", Section 4.

    Example:
        >>> import torch
        >>> from captum_robust.attr import learn_patterns
        >>> signal = torch.tensor([[-1.0], [0.0], [1.0]]) * torch.tensor([1.0, 1.0])
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[2.0, -1.0]]))
        >>> learn_patterns(model, [signal])["weight"]
        tensor([[1., 1.]])
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}.")
    require_eager(model, "model", why="the calls in it cannot be seen from outside")
    names = {id(p): name for name, p in model.named_parameters()}
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    statistics: dict[str, _Statistics] = {}
    with preserve_model(model), torch.inference_mode(False), torch.enable_grad():
        model.eval()
        for batch in tqdm(loader, desc="learn_patterns", disable=not show_progress):
            images = batch[0] if isinstance(batch, (tuple, list)) else batch
            check_inputs(images)
            tape = Tape((images.detach().to(device).requires_grad_(),), _LayersWithPatterns(model))
            try:
                with tape:
                    logits_of(model(*tape.inputs))
            except Unsupported as error:
                raise TypeError(str(error)) from None
            for call in tape.calls:
                name = names.get(id(call.weight)) if call.is_layer else None
                if name is not None:
                    statistics.setdefault(name, _Statistics(call.weight)).add(call)
            tape.forget()
    if not statistics:
        raise ValueError("loader is empty, or model has no linear layer and no convolution.")
    return Patterns({name: known.pattern() for name, known in statistics.items()})


_TRANSPOSED = (
    "transposed convolutions have no patterns. Explain the network with GuidedBackprop or "
    "RelevancePropagation."
)

COMPUTED = (
    "the weight of {!r} is not a parameter of the model, so it has no pattern. Where weight_norm "
    "or another parametrisation computes it, make it a plain weight first: "
    "torch.nn.utils.remove_weight_norm(module), or torch.nn.utils.parametrize."
    "remove_parametrizations(module, 'weight')."
)


class _LayersWithPatterns(GradientPass):
    """Refuses layers that cannot have a pattern."""

    def __init__(self, model: nn.Module) -> None:
        self._stored = {id(t) for t in (*model.parameters(), *model.buffers())}

    def check(self, call: Call) -> None:
        if not call.is_layer:
            return
        if call.name.startswith("conv_transpose"):
            raise unsupported(_TRANSPOSED)
        if id(call.weight) not in self._stored:
            raise unsupported(COMPUTED.format(call.name))


class _Statistics:
    """Sums over all that one layer has seen."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight.detach()
        wide = widest(weight.device)
        self.xy, self.x = (torch.zeros_like(self.weight, dtype=wide) for _ in range(2))
        self.n_plus, self.y = (self.xy.new_zeros(len(weight)) for _ in range(2))
        self.n = 0

    def add(self, call: Call) -> None:
        """Add one call of the layer."""
        wide = self.xy.dtype
        node = call.outputs[0]
        x, y = (t.detach().to(wide) for t in (call.inputs[0].value, node.value))
        answer = _answer(node)
        passes = torch.ones_like(y) if answer is None else (answer.detach() > 0).to(wide)
        weight = self.weight.to(wide, copy=True).requires_grad_()
        # The derivative by the weight is the sum of x_i G_j over all places of the layer.
        product = call.applied(x, weight)
        for total, g in ((self.xy, y * passes), (self.x, passes)):
            total += torch.autograd.grad(product, weight, g, retain_graph=True)[0]
        unit = -1 if call.name == "linear" else y.dim() - call.inputs[0].tensor[0].dim()
        others = [d for d in range(y.dim()) if d != unit % y.dim()]
        self.n += y.numel() // len(self.y)
        self.y += y.sum(others)
        self.n_plus += passes.sum(others)

    def pattern(self) -> Tensor:
        """The pattern, in the shape and dtype of the weight."""
        inner = [1] * (self.weight.dim() - 1)
        n_plus = self.n_plus.clamp(min=1).view(-1, *inner)
        product = self.x * (self.y / self.n).view(-1, *inner)
        covariance = (self.xy - product) / n_plus
        scale = (self.weight * covariance).flatten(1).sum(1).view(-1, *inner)
        # What is left of inputs that never change is rounding.
        size = self.weight.abs() * (self.xy.abs() + product.abs()) / n_plus
        rounding = 100 * torch.finfo(scale.dtype).eps * size.flatten(1).sum(1).view(-1, *inner)
        known = scale.abs() > rounding
        pattern = torch.where(known, covariance / torch.where(known, scale, 1.0), 0.0)
        return pattern.to(self.weight)


def _answer(node: Node) -> Tensor | None:
    """The values whose sign says whether a rectifier lets ``node`` through; None without one."""
    for call in node.consumers:
        if call.is_activation or _is_spelled_out(call):
            return node.value
        if len(call.inputs) != 1 or len(call.outputs) != 1:
            continue
        if call.name in SUMS | PRODUCTS | {"batch_norm"}:
            found = _answer(call.outputs[0])
            if found is not None and found.shape == node.tensor.shape:
                return found
        elif call.name in ROUTES:
            found = _answer(call.outputs[0])
            if found is not None:
                return found.reshape(node.value.shape) if call.name in RESHAPES else node.value
    return None


def _is_spelled_out(call: Call) -> bool:
    """Whether a call computed what a rectifier would: ``maximum(y, 0)``, ``where(y > 0, y, 0)``."""
    if call.name not in _MAY_RECTIFY or len(call.inputs) != 1 or len(call.outputs) != 1:
        return False
    before, after = call.inputs[0].value.detach(), call.outputs[0].value.detach()
    return before.shape == after.shape and torch.equal(after, before.clamp(min=0))


_MAY_RECTIFY = {"maximum", "max", "where", "masked_fill", "mul", "__mul__", "__rmul__", "written"}
