"""Operations and their rules of relevance propagation: one table, one class for each rule.

All are made of ordinary differentiable operations. Their own rectifiers are called in a way that
beta smoothing does not take for those of the network.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from captum_robust.attr._backward.boxes import bounds_of, is_average
from captum_robust.attr._backward.call import Call, Node, Shares
from captum_robust.attr._backward.lrp_layers import (
    negative,
    positive,
    shares_by_products,
    through_layer,
    through_matrix,
    through_normalisation,
    wide,
)
from captum_robust.attr._backward.operations import (
    AVERAGES,
    DIVISIONS,
    ELEMENTWISE,
    GATES,
    LAYERS,
    LENGTHS,
    MATRIX_PRODUCTS,
    NORMALISATIONS,
    PRODUCTS,
    ROUTES,
    SCALED_SUMS,
    SCALINGS,
    SOFTMAX,
    SUMS,
)
from captum_robust.attr.propagation_rules import PropagationRule, nothing, quotient


@dataclass(frozen=True)
class Settings:
    """What a user chooses."""

    rule: PropagationRule
    """How neurons divide their relevance."""
    dense_rule: PropagationRule | None = None
    """How those of linear layers and products with a constant matrix do; None: the same."""
    attention_weights: bool = True
    """Whether attention weights take half of the relevance of their product."""

    def rule_of(self, call: Call) -> PropagationRule:
        """The rule of a layer."""
        is_dense = call.name == "linear" or call.name in MATRIX_PRODUCTS
        return self.dense_rule if is_dense and self.dense_rule is not None else self.rule


class OperationRule(ABC):
    """How the relevance of a call's result goes to what the call was given."""

    def applies(self, call: Call) -> bool:
        """Whether this is the rule of a call of such a name, with these arguments."""
        return True

    @abstractmethod
    def shares(
        self, call: Call, relevance: Tensor, settings: Settings, create_graph: bool
    ) -> Shares:
        """What each input gets."""


class Route(OperationRule):
    """Numbers are handed on, and relevance goes back the same way."""

    def shares(
        self, call: Call, relevance: Tensor, settings: Settings, create_graph: bool
    ) -> Shares:
        """The gradient, of calls with a single result."""
        return call.gradient_shares([relevance], create_graph)


class PassOn(OperationRule):
    """Functions of one number pass on what they get."""

    def applies(self, call: Call) -> bool:
        """With one operand that depends on the inputs."""
        return len(call.inputs) == 1

    def shares(
        self, call: Call, relevance: Tensor, settings: Settings, create_graph: bool
    ) -> Shares:
        """The same; summed, where the value was repeated."""
        return [_whole(call.inputs[0], relevance)]


class BatchNorm(PassOn):
    """One layer with the layer before it; where there is none, relevance passes through."""

    def shares(
        self, call: Call, relevance: Tensor, settings: Settings, create_graph: bool
    ) -> Shares:
        """Those of the inputs of the layer, if there is one."""
        layer = call.layer_below
        # With statistics of the batch the slope is not a constant; only its sign is.
        needs_slope = layer is not None and not settings.rule_of(layer).ignores_negative
        if layer is None or (needs_slope and call.uses_batch_statistics):
            return super().shares(call, relevance, settings, create_graph)
        return [through_layer(layer, relevance, settings.rule_of(layer), call, create_graph)]


class Layer(OperationRule):
    """An input times a weight."""

    def applies(self, call: Call) -> bool:
        """With a weight that does not depend on the inputs."""
        return call.is_layer

    def shares(
        self, call: Call, relevance: Tensor, settings: Settings, create_graph: bool
    ) -> Shares:
        """By the rule that the user chose; zB in bounds."""
        return [through_layer(call, relevance, settings.rule_of(call), None, create_graph)]


class ConstantMatrix(OperationRule):
    """A product with a matrix that does not depend on the inputs is a layer, too."""

    def applies(self, call: Call) -> bool:
        """With one factor that depends on the inputs."""
        return call.is_product_with_constant

    def shares(
        self, call: Call, relevance: Tensor, settings: Settings, create_graph: bool
    ) -> Shares:
        """By the rule that the user chose."""
        return [through_matrix(call, relevance, settings.rule_of(call), create_graph)]


class Product(OperationRule):
    """Each factor of a product of two values gets half (Achtibat et al. 2024, Prop. 3.3)."""

    def applies(self, call: Call) -> bool:
        """With two factors, both of which depend on the inputs."""
        return len(call.inputs) == 2 and sum(map(call.depends, call.factors)) == 2

    def shares(
        self, call: Call, relevance: Tensor, settings: Settings, create_graph: bool
    ) -> Shares:
        """Half each; all to the values, where attention weights are to take nothing."""
        share = [0.5, 0.5]
        if not settings.attention_weights:
            weights = [is_made_by(node, SOFTMAX, ROUTES | ELEMENTWISE) for node in call.inputs]
            if sum(weights) == 1:
                share = [0.0 if is_weight else 1.0 for is_weight in weights]
        if call.name in PRODUCTS:
            return [
                _whole(node, part * relevance)
                for node, part in zip(call.inputs, share, strict=True)
            ]
        return shares_by_products(call, relevance, share, create_graph)


class Square(OperationRule):
    """A matrix times itself, transposed or not."""

    def applies(self, call: Call) -> bool:
        """Where both factors are one value."""
        return len(call.inputs) == 1 and sum(map(call.depends, call.factors)) == 2

    def shares(
        self, call: Call, relevance: Tensor, settings: Settings, create_graph: bool
    ) -> Shares:
        """Half for each place where it stands."""
        return shares_by_products(call, relevance, [0.5], create_graph)


class Gated(OperationRule):
    """All of the relevance of a product with a gate goes to the signal."""

    def applies(self, call: Call) -> bool:
        """With one gate: a sigmoid, or one over a size."""
        return len(call.inputs) == 2 and sum(map(_is_gate, call.inputs)) == 1

    def shares(
        self, call: Call, relevance: Tensor, settings: Settings, create_graph: bool
    ) -> Shares:
        """All to the factor that is not the gate."""
        return [_whole(node, relevance) for node in call.inputs if not _is_gate(node)]


class Division(OperationRule):
    """A divisor only scales: all goes to the numerator, as in a normalisation."""

    def applies(self, call: Call) -> bool:
        """With a numerator that depends on the inputs."""
        return call.name in DIVISIONS and len(call.inputs) == 2 and call.depends(call.first_operand)

    def shares(
        self, call: Call, relevance: Tensor, settings: Settings, create_graph: bool
    ) -> Shares:
        """All to the numerator."""
        (place,) = (i for i, t in enumerate(call.tensors) if t is call.first_operand)
        return [_whole(call.inputs[place], relevance)]


class Average(OperationRule):
    """A layer whose weights are not negative."""

    def applies(self, call: Call) -> bool:
        """Where they are not."""
        return len(call.inputs) == 1 and is_average(call)

    def shares(
        self, call: Call, relevance: Tensor, settings: Settings, create_graph: bool
    ) -> Shares:
        """By the rule that the user chose, of what is above the lower bound."""
        (node,) = call.inputs
        x, box = wide(node.value), bounds_of(node)
        if box is not None:
            x = x - box[0]
        parts = positive(x), negative(x)
        values = [call.again(part) for part in parts]
        ratios = settings.rule.ratios(relevance, values[0], values[1], None)
        slopes = [
            torch.autograd.grad(z, part, ratio, create_graph=create_graph)[0]
            for z, part, ratio in zip(values, parts, ratios, strict=True)
        ]
        shares = parts[0] * slopes[0] + parts[1] * slopes[1]
        none = (values[0] - values[1]).detach() < nothing(values[0])
        if settings.rule.shares_evenly and bool(none.any()):
            ones = torch.ones_like(x.detach()).requires_grad_()
            total = call.again(ones)
            even = torch.where(none, relevance, 0.0).to(total.dtype) / total
            shares = shares + torch.autograd.grad(total, ones, even, create_graph=create_graph)[0]
        return [(node, shares)]


class Sum(OperationRule):
    """Two summands are two contributions."""

    def applies(self, call: Call) -> bool:
        """With two values; a constant takes nothing."""
        return len(call.inputs) == 2

    def shares(
        self, call: Call, relevance: Tensor, settings: Settings, create_graph: bool
    ) -> Shares:
        """By the rule that the user chose."""
        in_order = call.first_operand is call.tensors[0]  # unlike sub(other=b, input=a)
        nodes = call.inputs if in_order else call.inputs[::-1]
        a, b = (wide(node.value) for node in nodes)
        factor = call.kwargs.get("alpha", 1)
        if call.name in ("__rsub__", "rsub"):
            a = -factor * a
        else:
            b = (factor if "add" in call.name else -factor) * b
        pluses, minuses = (positive(a), positive(b)), (negative(a), negative(b))
        totals = torch.add(*pluses), torch.add(*minuses)
        by_plus, by_minus = settings.rule.ratios(relevance, *totals, None)
        even: Tensor | float = 0.0
        if settings.rule.shares_evenly:
            none = (totals[0] - totals[1]).detach() < nothing(totals[0])
            even = torch.where(none, relevance, 0.0) / 2
        return [
            _whole(node, plus * by_plus + minus * by_minus + even)
            for node, plus, minus in zip(nodes, pluses, minuses, strict=True)
        ]


class Normalisation(PassOn):
    """Layer, group and instance norm pass on what they get (Achtibat et al. 2024, Prop. 3.4).

    The standard deviation only scales. The mean is a sum, of which each feature has a small part:
    where relevance goes by signed values (:class:`EpsilonRule`), the rule of a layer is applied to
    (x - mean) * slope, with the standard deviation in the slope; where it does not, the feature
    itself gets all.
    """

    def shares(
        self, call: Call, relevance: Tensor, settings: Settings, create_graph: bool
    ) -> Shares:
        """The same, or by the rule that the user chose."""
        if not settings.rule.keeps_signs or _has_constant_mean(call):
            return super().shares(call, relevance, settings, create_graph)
        return [through_normalisation(call, relevance, settings.rule)]


class Length(OperationRule):
    """A length is the sum of x times its derivative: each summand is a contribution."""

    def applies(self, call: Call) -> bool:
        """Of one value."""
        return len(call.inputs) == 1

    def shares(
        self, call: Call, relevance: Tensor, settings: Settings, create_graph: bool
    ) -> Shares:
        """The value times the gradient, over the result."""
        ratio = quotient(relevance, call.outputs[0].value)
        ((node, slope),) = call.gradient_shares([ratio], create_graph)
        return [(node, node.value * slope)]


class Softmax(PassOn):
    r"""R_i = x_i (R_i - s_i sum_j R_j), Achtibat et al. 2024, Prop. 3.1.

    The first-order expansion of the softmax s at its logits x. What the expansion leaves over,
    s - s'x, takes its part of the relevance: this rule does not conserve.
    """

    def shares(
        self, call: Call, relevance: Tensor, settings: Settings, create_graph: bool
    ) -> Shares:
        """As above; a logit that is masked, at minus infinity, gets nothing."""
        dim = call.kwargs.get("dim", call.args[1] if len(call.args) > 1 else -1)
        (node,), s = call.inputs, call.outputs[0].value
        x = torch.where(node.value > -torch.inf, node.value, 0.0)
        return [(node, x * (relevance - s * relevance.sum(dim, keepdim=True)))]


def rule_for(call: Call) -> OperationRule | None:
    """The rule of a call; None if it has none."""
    return next((rule for rule in RULES.get(call.name, ()) if rule.applies(call)), None)


def is_made_by(node: Node, makers: frozenset[str], through: frozenset[str]) -> bool:
    """Whether one of ``makers`` made a value, but for functions that hand it on."""
    call = node.source
    while call is not None and call.name in through and len(call.inputs) == 1:
        if call.name in makers:
            return True
        call = call.inputs[0].source
    return call is not None and call.name in makers


def _is_gate(node: Node) -> bool:
    return is_made_by(node, GATES | {"rsqrt", "reciprocal"}, ROUTES)


def _has_constant_mean(call: Call) -> bool:
    """Whether an instance norm uses its running statistics."""
    given = call.args[5] if len(call.args) > 5 else True
    return call.name == "instance_norm" and not call.kwargs.get("use_input_stats", given)


def _whole(node: Node, relevance: Tensor) -> tuple[Node, Tensor]:
    """All of the relevance, for a value that may have been repeated."""
    return node, relevance.sum_to_size(node.tensor.shape)


def _table(*entries: tuple[frozenset[str], OperationRule]) -> dict[str, list[OperationRule]]:
    table: dict[str, list[OperationRule]] = {}
    for group, rule in entries:
        for name in group:
            table.setdefault(name, []).append(rule)
    return table


RULES = _table(
    (ROUTES, Route()),
    (LAYERS, Layer()),
    (frozenset({"batch_norm"}), BatchNorm()),
    (ELEMENTWISE | SUMS | PRODUCTS | SCALINGS | SCALED_SUMS, PassOn()),
    (SUMS, Sum()),
    (PRODUCTS - DIVISIONS, Gated()),
    (PRODUCTS - DIVISIONS, Product()),
    (DIVISIONS, Division()),
    (AVERAGES, Average()),
    (MATRIX_PRODUCTS, ConstantMatrix()),
    (MATRIX_PRODUCTS, Product()),
    (MATRIX_PRODUCTS, Square()),
    (NORMALISATIONS, Normalisation()),
    (LENGTHS, Length()),
    (SOFTMAX, Softmax()),
)
"""The rules of each operation; of several the first that applies."""
