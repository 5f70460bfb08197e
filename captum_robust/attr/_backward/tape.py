r"""What a forward pass does to its inputs, call by call, for explanations that walk it backwards.

A rule that replaces the backward pass of a layer must not replace it in the derivative of the
explanation as well. So nothing is hooked into autograd: the forward pass is the user's own, with
its true graph; a :class:`Tape` writes down its calls; and :meth:`Tape.propagate` walks them in
reverse, by rules made of ordinary differentiable operations on the tensors of the true graph.

A map of it::

    x --[conv2d]--> a --[relu]--> b --[linear]--> y       Call: one arrow; Node: one value
                         \---------[add]-------/

Each call knows the nodes that it was given and made, each node the call that made it. The tape
finds the node of a tensor by the tensor's identity. That fails where a tensor changes in place, so
the tape runs such an operation out of place and writes the result back (:meth:`Tape._write`): the
old value lives on in a tensor of its own, and the tensor that the model holds gets a new node.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from captum_robust._utils.forward import attach_graph
from captum_robust._utils.function_mode import FunctionMode
from captum_robust._utils.overwrite import overwrite, overwrite_directly
from captum_robust.attr._backward.backward_pass import BackwardPass, GradientPass
from captum_robust.attr._backward.call import CHANGED, Call, Node, replaced, tensors_in
from captum_robust.attr._backward.operations import names
from captum_robust.attr._backward.unsupported import unsupported
from captum_robust.attr._backward.writes import (
    is_write,
    places_of,
    read_view,
    write_of,
    write_view,
)


class _Held(NamedTuple):
    """A value, and the tensor of the model that holds it; kept, so that its id stays its own."""

    tensor: Tensor
    version: int
    node: Node


class Tape(FunctionMode):
    """Context manager that writes down every call that depends on ``inputs``.

    Args:
        inputs: Floating-point tensors that require gradients.
        backward: It checks each call once it is made, and says in which box each input lies.

    Raises:
        Unsupported: In the block, where a value depends on the inputs in a way that no function
            mode sees, or is changed in place in such a way.
    """

    def __init__(self, inputs: tuple[Tensor, ...], backward: BackwardPass | None = None) -> None:
        super().__init__()
        # Copies, so that their nodes in the graph belong to this pass alone, and so that a model
        # may change them in place.
        self.inputs = tuple(x.clone() for x in inputs)
        self.calls: list[Call] = []
        self._backward = GradientPass() if backward is None else backward
        self._held: dict[int, _Held] = {}  # by the id of the tensor
        self._views: dict[int, list[Tensor]] = {}  # by the id of the tensor that they are views of
        self._starts = {x.grad_fn for x in self.inputs}
        boxes = self._backward.bounds(inputs)
        self._sources = [Node(x, None, box) for x, box in zip(self.inputs, boxes, strict=True)]
        for node in self._sources:
            self._register(node.tensor, node)

    def node_of(self, tensor: Tensor) -> Node | None:
        """The value that ``tensor`` is, if it depends on the inputs."""
        known = self._held.get(id(tensor))
        if known is not None:
            if tensor._version != known.version:
                raise unsupported(CHANGED)
            return known.node
        if not tensor.requires_grad or tensor.grad_fn is None or not self._is_reached(tensor):
            return None
        base = tensor._base if tensor._is_view() else None
        if base is None or id(base) not in self._held:
            raise unsupported(_NOT_RECORDED)
        # A view of what was changed in place: it shows the new numbers.
        shown = self._call(read_view, "read_view", (base, places_of(tensor, base)), {})
        return self._hold(tensor, shown)

    def propagate(
        self, output: Tensor, create_graph: bool, start: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Walk the calls in reverse, from ``start`` (None: ones) at ``output`` to the inputs."""
        node = self.node_of(output)
        if node is None:
            raise ValueError("forward_func: its output does not depend on the inputs.")
        relevance = {node: torch.ones_like(output) if start is None else start}
        for call in reversed(self.calls):
            above = [relevance.pop(node, None) for node in call.outputs]
            if all(r is None for r in above):
                continue
            for node, share in self._backward.distribute(call, above, create_graph):
                known = relevance.get(node)
                relevance[node] = share if known is None else known + share
        found = [
            relevance[node].to(node.tensor) if node in relevance else torch.zeros_like(node.tensor)
            for node in self._sources
        ]
        if create_graph:
            return tuple(map(attach_graph, found, self.inputs))
        return tuple(r.detach() for r in found)

    def forget(self) -> None:
        """Let go of what was written down.

        Values and calls know each other in circles, which would keep the memory of the forward
        pass until Python next looks for such circles.
        """
        for call in self.calls:
            call.outputs.clear()
            for node in call.inputs:
                node.consumers.clear()

    def call(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> object:
        """Make the call and write it down; called by torch with this mode switched off."""
        name = getattr(func, "__name__", "")
        if name in _QUESTIONS:
            return func(*args, **kwargs)
        if all(self.node_of(t) is None for t in tensors_in((args, kwargs))):
            return func(*args, **kwargs)
        if func is overwrite:  # it calls torch, and nobody has written that down

            def seen(old: Tensor) -> Tensor:
                with self:
                    return args[1](old)

            return self._write(args[0], seen)
        if "dropout" in name and kwargs.get("inplace") and kwargs.get("training") is False:
            return args[0] if args else kwargs["input"]  # writes what is there
        if is_write(name, kwargs):
            return self._in_place(func, name, args, kwargs)
        if name in self._backward.expansions:
            with self:
                return self._backward.expansions[name](*args, **kwargs)
        return self._call(func, name, args, kwargs)

    def _call(
        self, func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        given = {id(t): t for t in tensors_in((args, kwargs))}
        nodes = {key: node for key, t in given.items() if (node := self.node_of(t)) is not None}
        tensors = [given[key] for key in nodes]
        if len(nodes) > 1:
            # One may be made of another: copies end the graph of this call at its own inputs.
            copies = {id(t): t.clone() for t in tensors}
            args, kwargs = replaced((args, kwargs), copies)
            tensors = list(copies.values())
        edges = [get_gradient_edge(t) for t in tensors]
        smooth_form_of = getattr(func, "smooth_form_of", None)
        if smooth_form_of is not None:  # stands for the activation that it smooths
            name = smooth_form_of(*args, **kwargs)
        if not name.startswith("__"):
            name = name.strip("_")  # F.threshold is called _threshold
        result = func(*args, **kwargs)
        call = Call(name, func, args, kwargs, list(nodes.values()), tensors, edges)
        call.is_smooth_form = smooth_form_of is not None
        # Some calls hand back what they were given, such as a dropout in evaluation mode.
        returned = enumerate(tensors_in((result,)))
        made = [(i, t) for i, t in returned if t.requires_grad and id(t) not in nodes]
        if made:
            self._backward.check(call)
            call.outputs = [Node(t, call, position=i) for i, t in made]
            self.calls.append(call)
            for node in call.inputs:
                node.consumers.append(call)
            for node in call.outputs:
                self._register(node.tensor, node)
        return result

    def _register(self, tensor: Tensor, node: Node) -> None:
        self._held[id(tensor)] = _Held(tensor, tensor._version, node)
        if tensor._is_view():
            self._views.setdefault(id(tensor._base), []).append(tensor)

    def _hold(self, tensor: Tensor, result: Tensor) -> Node | None:
        """Let ``tensor`` hold the value of ``result``; to rules, ``result`` still is the value.

        The graph of ``tensor`` need not go through the call that made ``result``.
        """
        known = self._held.get(id(result))
        if known is None:
            return None
        self._register(tensor, known.node)
        return known.node

    # --- Operations in place.

    def _in_place(
        self, func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """An operation in place, as one that is not, whose result is written back."""
        write = write_of(func, name, args, kwargs)
        if write is None:
            raise unsupported(_WRITES.format(name))
        z = write.target
        stand_in: dict[int, Tensor] = {}

        def call(old: Tensor) -> Tensor:
            arguments = replaced((write.args, write.kwargs), {**stand_in, id(z): old})
            return self._call(write.func, write.name, *arguments)

        if write.only_reshapes:
            return self._write(z, call, lambda new: func(*args, **kwargs), stand_in)
        self._write(z, call, None, stand_in)
        return None if name == "__setitem__" else z

    def _write(
        self,
        z: Tensor,
        compute: Callable[[Tensor], Tensor],
        put: Callable[[Tensor], Any] | None = None,
        stand_in: dict[int, Tensor] | None = None,
    ) -> Tensor:
        """Give ``z`` the value ``compute(old value)``, as everybody who shares its memory sees it.

        The values until now live on in tensors of their own. Those that share the memory of ``z``
        are it, the tensor that it is a view of (its base), and that tensor's other views. The base
        is written down anew; views of it are once they are used again (:meth:`node_of`).

        Args:
            z: The tensor.
            compute: A function whose calls are written down.
            put: Writes the result into ``z``; None: its numbers are copied.
            stand_in: Is given the tensors that hold the values until now, by the ids of those that
                did.
        """
        base = z._base if z._is_view() else z
        assert base is not None
        others = [t for t in (base, *self._views.get(id(base), ())) if t is not z]
        is_alone = base is z and not any(id(t) in self._held for t in others)
        if is_alone and put is None and id(z) in self._held:
            return self._write_alone(z, compute)
        kept = {} if stand_in is None else stand_in
        for t in (*others, z):
            kept[id(t)] = self._move(t, t.clone())
        self._views[id(base)] = []
        new = compute(kept[id(z)])
        whole = kept[id(base)]
        if base is not z and put is None:
            whole = self._call(write_view, "write_view", (whole, new, places_of(z, base)), {})
        if put is None:
            _copy_into(z, new)
        else:
            put(new)
        self._hold(z, new)
        if base is not z:
            self._hold(base, whole)
        return z

    def _write_alone(self, z: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """:meth:`_write` where nobody shares the memory, and so nothing need be copied."""
        after: list[_Held | None] = []

        def run(old: Tensor) -> Tensor:
            new = compute(self._move(z, old))
            after.append(self._held.pop(id(new), None))
            return new

        overwrite_directly(z, run)
        if after[0] is not None:
            # Not the tensor that ``z`` took the memory from: it would change with ``z``.
            after[0].node.rebind(z)
            self._register(z, after[0].node)
        return z

    def _move(self, tensor: Tensor, copy: Tensor) -> Tensor:
        """Let ``copy`` hold the value that ``tensor`` will hold no more."""
        known = self._held.pop(id(tensor), None)
        if known is not None:
            if known.node.tensor is tensor:
                known.node.rebind(copy)
            self._register(copy, known.node)
        return copy

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


def _copy_into(z: Tensor, new: Tensor) -> None:
    try:
        z.copy_(new)
    except RuntimeError as error:
        raise unsupported(_NOT_WRITABLE.format(str(error).partition(". ")[0])) from None


_NOT_WRITABLE = (
    "a value is changed in place where torch does not allow it ({}). Change it out of place, or "
    "clone it first."
)
_NOT_RECORDED = (
    "a value is made of the inputs by code that the tape cannot record, such as a custom "
    "torch.autograd.Function or a scripted block. Write it with torch's functions."
)
_WRITES = "{} writes into a tensor that is explained. Make a new tensor instead."

# They only ask about a tensor, or the way it is kept.
_QUESTIONS = names(
    "dim size numel stride is_floating_point is_complex is_contiguous requires_grad_ retain_grad "
    "register_hook storage_offset data_ptr element_size get_device __len__ __hash__ __repr__ "
    "__format__ ndimension nelement __bool__ item tolist"
)
