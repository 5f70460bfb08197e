"""Relevance propagation as a backward pass: looks each call up in the table of operations."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from captum_robust.attr._backward.attention import EXPANSIONS
from captum_robust.attr._backward.backward_pass import BackwardPass
from captum_robust.attr._backward.call import Bounds, Call, Node, Shares
from captum_robust.attr._backward.lrp_rules import (
    OperationRule,
    Route,
    Settings,
    Softmax,
    rule_for,
)
from captum_robust.attr._backward.operations import MATRIX_PRODUCTS, PRODUCTS, RECURRENT
from captum_robust.attr._backward.unsupported import Unsupported, unsupported

_NO_RULE = "relevance propagation has no rule for {!r} of these arguments. {}"
_LOGITS = "relevance propagation explains logits: leave the {} out of the model."
_REMEDY = "Write it with layers that have a rule (see RelevancePropagation), or use the gradient."
_RECURRENT = "A recurrent layer is one call: explain with the gradient, or write the recurrence."


Boxes = Callable[[tuple[Tensor, ...]], tuple[Bounds | None, ...]]


class LayerwiseRelevance(BackwardPass):
    """The rules of the operations, in the box of the inputs.

    What has no rule is refused only where relevance reaches it, with the name that the module had
    when it ran.
    """

    expansions = EXPANSIONS

    def __init__(self, settings: Settings, boxes: Boxes) -> None:
        self._settings, self._boxes = settings, boxes
        self._rules: dict[Call, OperationRule] = {}
        self._errors: dict[Call, Unsupported] = {}

    def bounds(self, inputs: tuple[Tensor, ...]) -> tuple[Bounds | None, ...]:
        """The box that each input lies in."""
        return self._boxes(inputs)

    def check(self, call: Call) -> None:
        """Find the rule, or word the error, while the module that calls is known."""
        rule = rule_for(call)
        if rule is not None:
            self._rules[call] = rule
        if isinstance(rule, Softmax) or call.name in ("softmax", "log_softmax", "softmin"):
            self._errors[call] = unsupported(_LOGITS.format(call.name))
        elif rule is None:
            remedy = _RECURRENT if call.name in RECURRENT else _REMEDY
            self._errors[call] = unsupported(_NO_RULE.format(call.name, remedy))

    def distribute(self, call: Call, relevance: list[Tensor | None], create_graph: bool) -> Shares:
        """By the rule of the call."""
        rule = self._rules.get(call)
        if rule is None or (isinstance(rule, Softmax) and not _is_attention(call.outputs[0])):
            raise self._errors[call]
        if isinstance(rule, Route):
            return call.gradient_shares(relevance, create_graph)
        (above,) = relevance
        assert above is not None
        return rule.shares(call, above, self._settings, create_graph)


def _is_attention(weights: Node) -> bool:
    """Whether a softmax weighs values, and is not what the model returns."""
    ahead, seen = [weights], {weights}
    while ahead:
        for call in ahead.pop().consumers:
            if call.name in MATRIX_PRODUCTS or (call.name in PRODUCTS and len(call.inputs) > 1):
                return True
            ahead += [node for node in call.outputs if node not in seen]
            seen.update(call.outputs)
    return False
