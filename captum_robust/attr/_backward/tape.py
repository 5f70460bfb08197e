"""What a forward pass does to its inputs, call by call, for explanations that walk it backwards.

A rule that replaces the backward pass of a layer must not replace it in the derivative of the
explanation as well. So nothing is hooked into autograd: the forward pass is the user's own, with
its true graph; a :class:`Tape` writes down its calls; and :meth:`Tape.propagate` walks them in
reverse, by rules made of ordinary differentiable operations on the tensors of the true graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode

from captum_robust._utils.forward import attach_graph
from captum_robust._utils.overwrite import overwrite, overwrite_directly
from captum_robust.attr._backward.unsupported import refusal
from captum_robust.attr.softplus import smoothed

Bounds = tuple[Tensor, Tensor]


def names(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


class Node:
    """A value of the forward pass that depends on the inputs."""

    def __init__(
        self,
        tensor: Tensor,
        source: Step | None,
        bounds: Bounds | None = None,
        position: int = 0,
    ) -> None:
        self.source = source
        """The call that made it; None for an input."""
        self.position = position
        """Which of the tensors that the call returned."""
        self.bounds = bounds
        """The box that an input lies in."""
        self.consumers: list[Step] = []
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
            raise refusal(_CHANGED)
        return self.tensor


@dataclass(eq=False)
class Step:
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

    def again(self, *tensors: Tensor) -> Any:
        """The call on other values of ``inputs``."""
        stand_in = {id(old): new for old, new in zip(self.tensors, tensors, strict=True)}
        args, kwargs = _replaced((self.args, self.kwargs), stand_in)
        return self.func(*args, **kwargs)

    def again_for(self, output: Node, *tensors: Tensor) -> Tensor:
        """What of :meth:`again` stands where ``output`` did."""
        return list(_tensors((self.again(*tensors),)))[output.position]

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


Shares = Iterable[tuple[Node, Tensor]]
"""What each value gets of the relevance of a call's result."""

Rule = Callable[[Step, list["Tensor | None"], bool], Shares]
"""From a call, the relevance of its outputs and ``create_graph`` to the shares of its inputs."""


def plain_backward(step: Step, above: list[Tensor | None], create_graph: bool) -> Shares:
    """The rule that gives the gradient."""
    return zip(step.inputs, step.backward(above, create_graph), strict=True)


class Tape(TorchFunctionMode):
    """Context manager that writes down every call that depends on ``inputs``.

    Args:
        inputs: Floating-point tensors that require gradients.
        check: Called with each such call once it is made; may raise.
        bounds: The box of each input.

    Raises:
        TypeError: In the block, where a value depends on the inputs in a way that no function mode
            sees, or is changed in place in such a way.
    """

    def __init__(
        self,
        inputs: tuple[Tensor, ...],
        check: Callable[[Step], None] = lambda step: None,
        bounds: tuple[Bounds | None, ...] | None = None,
    ) -> None:
        super().__init__()
        # Aliases, so that their nodes in the graph belong to this pass alone.
        self.inputs = tuple(x.view_as(x) for x in inputs)
        self.steps: list[Step] = []
        self._check = check
        self._nodes: dict[int, tuple[Tensor, Node]] = {}  # the tensors are kept, so ids stay theirs
        self._starts = {x.grad_fn for x in self.inputs}
        boxes = (None,) * len(inputs) if bounds is None else bounds
        self._sources = [Node(x, None, box) for x, box in zip(self.inputs, boxes, strict=True)]
        for node in self._sources:
            self._nodes[id(node.tensor)] = (node.tensor, node)

    def node_of(self, tensor: Tensor) -> Node | None:
        """The value that ``tensor`` is, if it depends on the inputs."""
        known = self._nodes.get(id(tensor))
        if known is not None:
            if not known[1].is_intact():
                raise refusal(_CHANGED)
            return known[1]
        if tensor.requires_grad and tensor.grad_fn is not None and self._is_reached(tensor):
            raise refusal(_UNSEEN)
        return None

    def propagate(self, output: Tensor, rule: Rule, create_graph: bool) -> tuple[Tensor, ...]:
        """Walk the calls in reverse, from ones at ``output`` to the inputs."""
        start = self.node_of(output)
        if start is None:
            raise ValueError("forward_func: its output does not depend on the inputs.")
        relevance = {start: torch.ones_like(output)}
        for step in reversed(self.steps):
            above = [relevance.pop(node, None) for node in step.outputs]
            if all(r is None for r in above):
                continue
            for node, share in rule(step, above, create_graph):
                known = relevance.get(node)
                relevance[node] = share if known is None else known + share
        found = [
            relevance[node].to(node.tensor) if node in relevance else torch.zeros_like(node.tensor)
            for node in self._sources
        ]
        if create_graph:
            return tuple(map(attach_graph, found, self.inputs))
        return tuple(r.detach() for r in found)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Make the call and write it down; called by torch with this mode switched off."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _QUESTIONS:
            return func(*args, **kwargs)
        if all(self.node_of(t) is None for t in _tensors((args, kwargs))):
            return func(*args, **kwargs)
        if func is overwrite:
            return self._overwrite(args[0], args[1], activation_is_seen=True)
        if "dropout" in name and kwargs.get("inplace") and kwargs.get("training") is False:
            return args[0] if args else kwargs["input"]  # writes what is there
        if kwargs.get("inplace") or _is_in_place(name):
            return self._in_place(func, name, args, kwargs)
        if name == "__setitem__" or kwargs.get("out") is not None:
            raise refusal(_WRITES.format(name))
        return self._call(func, name, args, kwargs)

    def _call(
        self, func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        given = {id(t): t for t in _tensors((args, kwargs))}
        nodes = {key: node for key, t in given.items() if (node := self.node_of(t)) is not None}
        tensors = [given[key] for key in nodes]
        if len(nodes) > 1:
            # One may be made of another: copies end the graph of this call at its own inputs.
            copies = {id(t): t.clone() for t in tensors}
            args, kwargs = _replaced((args, kwargs), copies)
            tensors = list(copies.values())
        edges = [get_gradient_edge(t) for t in tensors]
        if func is smoothed:  # stands for the activation that it smooths
            name = args[3]
        if not name.startswith("__"):
            name = name.strip("_")  # F.threshold is called _threshold
        result = func(*args, **kwargs)
        step = Step(name, func, args, kwargs, list(nodes.values()), tensors, edges)
        # Some calls hand back what they were given, such as a dropout in evaluation mode.
        returned = enumerate(_tensors((result,)))
        made = [(i, t) for i, t in returned if t.requires_grad and id(t) not in nodes]
        if made:
            self._check(step)
            step.outputs = [Node(t, step, position=i) for i, t in made]
            self.steps.append(step)
            for node in step.inputs:
                node.consumers.append(step)
            for node in step.outputs:
                self._nodes[id(node.tensor)] = (node.tensor, node)
        return result

    def _in_place(
        self, func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Tensor:
        """An operation in place, as one that is not, whose result is written back."""
        bare = f"__{name[3:]}" if name.startswith("__i") else name.removesuffix("_")
        if kwargs.get("inplace"):
            bare, kwargs = name, {**kwargs, "inplace": False}
        else:
            homes = [home for home in (Tensor, torch, F) if hasattr(home, bare)]
            if not homes:
                raise refusal(_WRITES.format(name))
            func = getattr(homes[0], bare)
        z = args[0] if args else kwargs["input"]
        if self.node_of(z) is None:
            raise refusal(_WRITES.format(name))

        def call(old: Tensor) -> Tensor:
            out_of_place = _replaced((args, kwargs), {id(z): old})
            return self._call(func, bare, *out_of_place)

        return self._overwrite(z, call)

    def _overwrite(
        self, z: Tensor, activation: Callable[[Tensor], Tensor], activation_is_seen: bool = False
    ) -> Tensor:
        """``overwrite``, where the value that ``z`` had lives on in a tensor of its own."""
        before = self.node_of(z)
        assert before is not None
        after: list[Node] = []

        def run(old: Tensor) -> Tensor:
            before.rebind(old)
            self._nodes[id(old)] = (old, before)
            if activation_is_seen:  # it calls torch, and nobody has written that down
                with self:
                    new = activation(old)
            else:
                new = activation(old)
            node = self._nodes.pop(id(new))[1]
            after.append(node)
            return new

        overwrite_directly(z, run)
        # Not the tensor that ``z`` took the memory from: it would change with ``z``.
        after[0].rebind(z)
        self._nodes[id(z)] = (z, after[0])
        return z

    def _is_reached(self, tensor: Tensor) -> bool:
        """Whether the inputs are in the graph of ``tensor``."""
        seen: set[Any] = {None}
        ahead: list[Any] = [tensor.grad_fn]
        while ahead:
            node = ahead.pop()
            if node in self._starts:
                return True
            if node not in seen:
                seen.add(node)
                ahead += [following for following, _ in node.next_functions]
        return False


_CHANGED = (
    "a value is changed in place by code that cannot be seen, or through a view of it. Change it "
    "out of place."
)
_UNSEEN = (
    "a value is made of the inputs by code that cannot be seen, such as a custom "
    "torch.autograd.Function or a scripted block. Write it with torch's functions."
)
_WRITES = "{} writes into a tensor that is explained. Make a new tensor in its place."

# They only ask about a tensor, or the way it is kept.
_QUESTIONS = names(
    "dim size numel stride is_floating_point is_complex is_contiguous requires_grad_ retain_grad "
    "register_hook storage_offset data_ptr element_size get_device __len__ __hash__ __repr__ "
    "__format__ ndimension nelement __bool__ item tolist"
)


def _is_in_place(name: str) -> bool:
    if name.startswith("__"):
        return name.startswith("__i") and name not in ("__index__", "__int__", "__invert__")
    return name.endswith("_")


def _tensors(values: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists and dictionaries."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (tuple, list)):
        for value in values:
            yield from _tensors(value)
    elif isinstance(values, dict):
        yield from _tensors(tuple(values.values()))


def _replaced(values: Any, stand_in: dict[int, Tensor]) -> Any:
    if isinstance(values, Tensor):
        return stand_in.get(id(values), values)
    if type(values) in (tuple, list):
        return type(values)(_replaced(value, stand_in) for value in values)
    if type(values) is dict:
        return {key: _replaced(value, stand_in) for key, value in values.items()}
    return values
