"""The rules of layer-wise relevance propagation, made of ordinary differentiable operations.

Their own rectifier is called in a way that beta smoothing does not take for one of the network's.
"""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from captum_robust.attr._backward.operations import (
    AVERAGES,
    ELEMENTWISE,
    GATES,
    PRODUCTS,
    ROUTES,
    SUMS,
    apply_weight,
    batch_norm_slope_sign,
    first_operand,
    is_weighted,
    weight_of,
)
from captum_robust.attr._backward.tape import Bounds, Node, Shares, Step
from captum_robust.attr._backward.unsupported import refusal

_REFUSED = {
    "softmax": "Explain the logits: leave the softmax out of the model.",
    "log_softmax": "Explain the logits: leave the softmax out of the model.",
    "layer_norm": "It mixes the features of an example; explain with the gradient.",
    "group_norm": "It mixes the features of an example; explain with the gradient.",
    "instance_norm": "It mixes the features of an example; explain with the gradient.",
    "scaled_dot_product_attention": "For attention explain with the gradient.",
    "multi_head_attention_forward": "For attention explain with the gradient.",
}
_REMEDY = "Write it with layers that have a rule (see RelevancePropagation), or use the gradient."


def check(step: Step) -> None:
    """Refuse what has no rule."""
    if _kind(step) is None:
        remedy = _REFUSED.get(step.name, _REMEDY)
        message = f"relevance propagation has no rule for {step.name!r} of these arguments. "
        raise refusal(message + remedy)


def bounds_of(node: Node) -> Bounds | None:
    """The box of a value that is an input or an affine image of one; None of any other."""
    step = node.source
    if step is None:
        return node.bounds
    if not _keeps_boxes(step):
        return None
    boxes = [box for box in map(bounds_of, step.inputs) if box is not None]
    if len(boxes) < len(step.inputs):
        return None
    a, b = (step.again_for(node, *ends) for ends in zip(*boxes, strict=True))
    return torch.minimum(a, b), torch.maximum(a, b)


def _keeps_boxes(step: Step) -> bool:
    """Whether the call takes the corners of the boxes of its inputs to those of its result's."""
    if step.name in ROUTES:
        return True
    if len(step.inputs) != 1:
        return False
    if step.name in AVERAGES:
        return _is_average(step)
    if step.name in PRODUCTS:  # x / 2, and neither 2 / x nor x * x
        operands = [*step.args, *step.kwargs.values()]
        is_divisor = "div" in step.name and first_operand(step) is not step.tensors[0]
        return sum(o is step.tensors[0] for o in operands) == 1 and not is_divisor
    if step.name == "batch_norm":
        return not step.kwargs.get("training")
    return step.name in SUMS or step.name in ("neg", "__neg__")


def distribute(step: Step, above: list[Tensor | None], create_graph: bool) -> Shares:
    """The relevance of each input of a call."""
    kind = _kind(step)
    if kind == "route":
        return zip(step.inputs, step.backward(above, create_graph), strict=True)
    (relevance,) = above
    assert relevance is not None
    if kind == "weighted":
        return [_through_layer(step, relevance, None, create_graph)]
    node = step.inputs[0]
    if kind == "average":
        return [(node, _through_average(step, node, relevance, create_graph))]
    if kind == "sum":
        return _through_sum(step, relevance)
    if kind == "gated":
        (node,) = (n for n in step.inputs if not _is_gate(n))
    elif step.name == "batch_norm" and node.source is not None and is_weighted(node.source):
        # One layer with the convolution before it: only the sign of the slope stays in the rule.
        return [_through_layer(node.source, relevance, batch_norm_slope_sign(step), create_graph)]
    return [(node, relevance.sum_to_size(node.tensor.shape))]


def _kind(step: Step) -> str | None:
    one = len(step.inputs) == 1
    if step.name in ROUTES:
        return "route"
    if is_weighted(step):
        return "weighted"
    if step.name in SUMS:
        return "elementwise" if one else "sum"
    if step.name in PRODUCTS:
        if one:
            return "elementwise"
        return "gated" if sum(map(_is_gate, step.inputs)) == 1 else None
    if step.name in AVERAGES and one and _is_average(step):
        return "average"
    return "elementwise" if step.name in ELEMENTWISE and one else None


def _is_average(step: Step) -> bool:
    return "bicubic" not in step.kwargs.values()  # some of its weights are negative


def _is_gate(node: Node) -> bool:
    step = node.source
    while step is not None and step.name in ROUTES and len(step.inputs) == 1:
        step = step.inputs[0].source
    return step is not None and step.name in GATES


def _through_layer(
    step: Step, relevance: Tensor, signs: Tensor | None, create_graph: bool
) -> tuple[Node, Tensor]:
    (node,) = step.inputs
    weight = weight_of(step)
    if signs is not None:
        weight = _turned(step, weight, signs)
    box = bounds_of(node)
    if box is not None:
        return node, _z_bounded(step, weight, node.value, box, relevance, create_graph)
    return node, _z_plus(step, weight, node.value, relevance, create_graph)


def _z_plus(step: Step, weight: Tensor, x: Tensor, relevance: Tensor, create_graph: bool) -> Tensor:
    """R_i = sum_j (x_i w_ji)^+ / (sum_i (x_i w_ji)^+) R_j, Eq. 2 of Dombrowski et al."""
    parts = [(x, _positive(weight))]
    if bool((x.detach() < 0).any()):
        # At 0 they have the derivatives of the line above, whatever is beside it in the batch.
        below, above = torch.where(x < 0, x, 0.0), torch.where(x < 0, 0.0, x)
        parts = [(above, _positive(weight)), (below, _negative(weight))]
    return _weighted_shares(step, parts, relevance, create_graph)


def _z_bounded(
    step: Step, weight: Tensor, x: Tensor, box: Bounds, relevance: Tensor, create_graph: bool
) -> Tensor:
    """R_i = sum_j z_ij / (sum_i z_ij) R_j, z_ij = x_i w_ji - l_i w_ji^+ - h_i w_ji^-, Eq. 3.

    As (x_i - l_i) w_ji^+ + (x_i - h_i) w_ji^-: with no negative summand, nothing cancels.
    """
    low, high = box
    parts = [(x - low, _positive(weight)), (x - high, _negative(weight))]
    return _weighted_shares(step, parts, relevance, create_graph)


def _weighted_shares(
    step: Step,
    parts: list[tuple[Tensor, Tensor]],
    relevance: Tensor,
    create_graph: bool,
) -> Tensor:
    """Shares in proportion to z_ij, the sum of x_i w_ij over the parts."""
    points = [_wide(x) for x, _ in parts]
    with torch.autocast(relevance.device.type, enabled=False):
        values = [apply_weight(step, x, w) for x, (_, w) in zip(points, parts, strict=True)]
    ratio = _divide(relevance, reduce(torch.add, values))
    slopes = [
        torch.autograd.grad(z, x, ratio, create_graph=create_graph)[0]
        for z, x in zip(values, points, strict=True)
    ]
    return reduce(torch.add, [x * g for x, g in zip(points, slopes, strict=True)])


def _through_average(step: Step, node: Node, relevance: Tensor, create_graph: bool) -> Tensor:
    """In proportion to the positive parts; where there are none, to the negative ones."""
    x, box = _wide(node.value), bounds_of(node)
    if box is not None:
        x = x - box[0]
    plus, minus = _positive(x), _negative(x)
    values = [step.again(plus), step.again(minus)]
    ratios = _divide_by_either(relevance, *values)
    slopes = [
        torch.autograd.grad(z, part, ratio, create_graph=create_graph)[0]
        for z, part, ratio in zip(values, (plus, minus), ratios, strict=True)
    ]
    return plus * slopes[0] + minus * slopes[1]


def _through_sum(step: Step, relevance: Tensor) -> Shares:
    """As in an average, of the two summands."""
    in_order = first_operand(step) is step.tensors[0]  # unlike sub(other=b, input=a)
    nodes = step.inputs if in_order else step.inputs[::-1]
    a, b = (_wide(node.value) for node in nodes)
    factor = step.kwargs.get("alpha", 1)
    if step.name in ("__rsub__", "rsub"):
        a = -factor * a
    else:
        b = (factor if "add" in step.name else -factor) * b
    pluses, minuses = (_positive(a), _positive(b)), (_negative(a), _negative(b))
    by_plus, by_minus = _divide_by_either(relevance, torch.add(*pluses), torch.add(*minuses))
    for node, plus, minus in zip(nodes, pluses, minuses, strict=True):
        share = plus * by_plus + minus * by_minus
        yield node, share.sum_to_size(node.tensor.shape)


def _turned(step: Step, weight: Tensor, signs: Tensor) -> Tensor:
    """The weight with the sign of each output channel changed."""
    if not step.name.startswith("conv_transpose"):
        return weight * signs.view(-1, *[1] * (weight.dim() - 1))
    groups = len(signs) // weight.shape[1]  # (in, out / groups, ...)
    by_group = signs.view(groups, 1, -1, *[1] * (weight.dim() - 2))
    return (weight.unflatten(0, (groups, -1)) * by_group).flatten(0, 1)


def _positive(x: Tensor) -> Tensor:
    return torch.ops.aten.relu(x)


def _negative(x: Tensor) -> Tensor:
    return -torch.ops.aten.relu(-x)


def _divide(relevance: Tensor, total: Tensor) -> Tensor:
    """The ratio; 0 where nothing contributes, and so nothing can take the relevance."""
    ratio = relevance / torch.where(total.abs() >= _nothing(total), total, torch.inf)
    return ratio.to(total.dtype)  # parts of a model may run in another precision


def _divide_by_either(relevance: Tensor, plus: Tensor, minus: Tensor) -> tuple[Tensor, Tensor]:
    """The ratios to the positive total and, where that is 0, to the negative one."""
    none = plus < _nothing(plus)
    return _divide(relevance, plus), _divide(torch.where(none, relevance, 0.0), minus)


def _wide(x: Tensor) -> Tensor:
    """What float16 has no room for: ratios to small totals."""
    return x.float() if x.dtype == torch.float16 else x


def _nothing(total: Tensor) -> float:
    """The total below which nothing contributes: 6e-16 in single precision, 5e-124 in double.

    Softplus leaves a trace of every value that a rectifier makes 0. The derivatives of a ratio
    divide by the total again: they would overflow where the ratio itself does not yet.
    """
    return torch.finfo(total.dtype).tiny ** 0.4
