"""What a tape writes down: the values of a forward pass, and the calls that made them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from captum_robust.attr._backward.operations import (
    DIVISIONS,
    LAYERS,
    MATRIX_PRODUCTS,
    RECTIFIERS,
    SMOOTH_RECTIFIERS,
)
from captum_robust.attr._backward.unsupported import unsupported

Bounds = tuple[Tensor, Tensor]
"""The least and the largest that a value can be."""

CHANGED = (
    "a value is changed in place by code that the tape cannot record. Change it out of place, with "
    "torch's functions."
)


class Node:
    """A value of the forward pass that depends on the inputs.

    A tensor that is changed in place holds several values, one after the other: each has a node of
    its own, and :meth:`rebind` moves the earlier ones to tensors that stay.
    """

    def __init__(
        self,
        tensor: Tensor,
        source: Call | None,
        bounds: Bounds | None = None,
        position: int = 0,
    ) -> None:
        self.source = source
        """The call that made it; None for an input."""
        self.position = position
        """Which of the tensors that the call returned."""
        self.bounds = bounds
        """The box that an input lies in."""
        self.consumers: list[Call] = []
        """The calls that were given it."""
        self.rebind(tensor)

    def rebind(self, tensor: Tensor) -> None:
        """Let the value be held by ``tensor`` from now on."""
        self.tensor = tensor
        self._version = tensor._version

    def is_intact(self) -> bool:
        """Whether ``tensor`` still holds the value."""
        return self.tensor._version == self._version

    @property
    def value(self) -> Tensor:
        """The tensor, with the graph of the forward pass."""
        if not self.is_intact():
            raise unsupported(CHANGED)
        return self.tensor


Shares = Iterable[tuple[Node, Tensor]]
"""What each value gets of the relevance of a call's result."""


@dataclass(eq=False)
class Call:
    """One call of the forward pass."""

    name: str
    """The function's name: "conv2d", "relu", "add"."""
    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: list[Node]
    """The values it was given that depend on the inputs, each once."""
    tensors: list[Tensor]
    """The tensors in ``args`` and ``kwargs`` that stand for ``inputs``."""
    edges: list[GradientEdge]
    """Where ``inputs`` enter the graph of the call."""
    outputs: list[Node] = field(default_factory=list)
    is_smooth_form: bool = False
    """Whether ``func`` computes the smooth form of the activation ``name``."""

    # --- What is asked of its arguments.

    @property
    def first_operand(self) -> object:
        """What the call was given first, by place or as ``input``."""
        return self.kwargs.get("input", self.args[0] if self.args else None)

    def depends(self, operand: object) -> bool:
        """Whether an argument is one of :attr:`inputs`."""
        return any(operand is t for t in self.tensors)

    @property
    def is_layer(self) -> bool:
        """Whether the call is a layer whose input, and not its weight, depends on the inputs."""
        return self.name in LAYERS and len(self.inputs) == 1 and not self.depends(self.weight)

    @property
    def weight(self) -> Tensor:
        """The weight of one of :data:`LAYERS`."""
        return self.kwargs["weight"] if "weight" in self.kwargs else self.args[1]

    def applied(self, x: Tensor, weight: Tensor) -> Tensor:
        """A layer with another input and weight, and without its bias."""
        kwargs = {k: v for k, v in self.kwargs.items() if k not in ("input", "weight", "bias")}
        # Under autocast the layer ran on a copy of the weight in another precision.
        return self.func(x, weight.to(x.dtype), None, *self.args[3:], **kwargs)

    @property
    def factors(self) -> list[Tensor]:
        """The tensors that a product of matrices multiplies."""
        return list(tensors_in((self.args, self.kwargs)))

    @property
    def is_product_with_constant(self) -> bool:
        """Whether the call multiplies one value by a matrix that does not depend on the inputs."""
        factors = self.factors if self.name in MATRIX_PRODUCTS else []
        return len(factors) == 2 and sum(map(self.depends, factors)) == 1

    @property
    def is_activation(self) -> bool:
        """Whether the call is a rectifier, or looks like one from afar."""
        if not self.is_smooth_form and self.name in ("clamp", "clip", "clamp_min"):
            low = self.kwargs.get("min", self.args[1] if len(self.args) > 1 else None)
            return isinstance(low, (int, float)) and low == 0
        return self.name in RECTIFIERS or self.name in SMOOTH_RECTIFIERS

    @property
    def is_scaling(self) -> bool:
        """Whether a product is one of a value and a constant: x / 2, but not 2 / x or x * x."""
        operands = [*self.args, *self.kwargs.values()]
        is_divisor = self.name in DIVISIONS and not self.depends(self.first_operand)
        return sum(o is self.tensors[0] for o in operands) == 1 and not is_divisor

    @property
    def batch_norm_slope_sign(self) -> Tensor | None:
        """The sign of the slope of each channel of a ``batch_norm``; None where all are 1."""
        place = 1 if self.func is torch.batch_norm else 3  # of torch, and of torch.nn.functional
        given = self.args[place] if len(self.args) > place else None
        weight = self.kwargs.get("weight", given)
        return None if weight is None else weight.sign()

    @property
    def uses_batch_statistics(self) -> bool:
        """Whether a ``batch_norm`` normalises by the batch instead of its running statistics."""
        place = 5
        given = self.args[place] if len(self.args) > place else False
        return bool(self.kwargs.get("training", given))

    @property
    def layer_below(self) -> Call | None:
        """The layer that this batch norm is one with, if it is one."""
        source = self.inputs[0].source if self.name == "batch_norm" else None
        if source is None or not source.is_layer:
            return None
        # Behind nn.Linear on (N, L, F) a batch norm has its channels along L.
        is_aligned = source.name != "linear" or self.inputs[0].tensor.dim() == 2
        return source if is_aligned else None

    # --- Running it again, forwards and backwards.

    def again(self, *tensors: Tensor) -> Any:
        """The call on other values of ``inputs``."""
        stand_in = {id(old): new for old, new in zip(self.tensors, tensors, strict=True)}
        args, kwargs = replaced((self.args, self.kwargs), stand_in)
        return self.func(*args, **kwargs)

    def again_for(self, output: Node, *tensors: Tensor) -> Tensor:
        """What of :meth:`again` stands where ``output`` did."""
        return list(tensors_in((self.again(*tensors),)))[output.position]

    def backward(self, above: list[Tensor | None], create_graph: bool) -> list[Tensor]:
        """The true backward pass of this call alone: the gradients of ``inputs``."""
        pairs = zip(self.outputs, above, strict=True)
        # Parts of a model may run in another precision.
        known = [(y.value, g.to(y.value.dtype)) for y, g in pairs if g is not None]
        outputs, gradients = zip(*known, strict=True)
        found = torch.autograd.grad(
            outputs, self.edges, gradients,
            create_graph=create_graph, retain_graph=True, allow_unused=True,
        )  # fmt: skip
        return [
            torch.zeros_like(x) if g is None else g
            for g, x in zip(found, self.tensors, strict=True)
        ]

    def gradient_shares(self, above: list[Tensor | None], create_graph: bool) -> Shares:
        """The shares that make the walk the gradient."""
        return zip(self.inputs, self.backward(above, create_graph), strict=True)


def tensors_in(values: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists and dictionaries."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (tuple, list)):
        for value in values:
            yield from tensors_in(value)
    elif isinstance(values, dict):
        yield from tensors_in(tuple(values.values()))


def replaced(values: Any, stand_in: dict[int, Tensor]) -> Any:
    """The nested values with other tensors, by the ``id`` of the old ones."""
    if isinstance(values, Tensor):
        return stand_in.get(id(values), values)
    if type(values) in (tuple, list):
        return type(values)(replaced(value, stand_in) for value in values)
    if type(values) is dict:
        return {key: replaced(value, stand_in) for key, value in values.items()}
    return values
