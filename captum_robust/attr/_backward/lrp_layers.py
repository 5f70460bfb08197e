"""Relevance through what is linear in its input: layers, products of matrices, normalisations.

All of them need sums over contributions z_ij = x_i w_ij without the matrix of z_ij. Two shapes of
one trick give these: the layer applied to x gives sum_i x_i w_ij, and its gradient with respect to
x, times x, gives sum_j x_i w_ij r_j.

z+ and zB take contributions that are never negative, from parts (x_i, w_ij) of one sign: x with
w^+, and negative x with w^-; or x - l with w^+ and x - h with w^-. Nothing cancels.

Rules of both signs take z_j = sum_i z_ij and a_j = sum_i |z_ij|, which is the layer applied to |x|
and |w|. So z_j^+ = (z_j + a_j) / 2, z_j^- = (z_j - a_j) / 2, and likewise
z_ij^+ r^+ + z_ij^- r^- = z_ij (r^+ + r^-) / 2 + |z_ij| (r^+ - r^-) / 2.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from captum_robust._utils.call_arguments import by_name
from captum_robust.attr._backward.boxes import bounds_of
from captum_robust.attr._backward.call import Call, Node, Shares, replaced
from captum_robust.attr.propagation_rules import PropagationRule, nothing, quotient

Apply = Callable[[Tensor, Tensor], Tensor]
"""A layer without a bias, of an input and a weight."""

_EPSILON = 1e-6


def through_layer(
    call: Call, relevance: Tensor, rule: PropagationRule, norm: Call | None, create_graph: bool
) -> tuple[Node, Tensor]:
    """The relevance of the input of a layer, alone or as one with the batch norm behind it."""
    (node,) = call.inputs
    box = bounds_of(node)
    if box is not None or rule.ignores_negative:
        # Of a slope, only its sign stays in these ratios.
        signs = None if norm is None else norm.batch_norm_slope_sign
        weight = call.weight if signs is None else _scaled(call, call.weight, signs)
        if box is None:
            parts = _positive_parts(node.value, weight)
            return node, _by_parts(call.applied, parts, relevance, rule, create_graph)
        parts = [
            (node.value - box[0], positive(weight)),
            (node.value - box[1], negative(weight)),
        ]
        return node, _by_parts(call.applied, parts, relevance, None, create_graph)
    weight, bias = _with_norm(call, norm)
    bias = bias if rule.uses_bias else None
    x = node.value
    return node, _by_signs(call.applied, x, weight, bias, relevance, rule, create_graph)


def through_matrix(
    call: Call, relevance: Tensor, rule: PropagationRule, create_graph: bool
) -> tuple[Node, Tensor]:
    """The relevance of the factor of a matrix product that depends on the inputs."""
    (node,), (tensor,) = call.inputs, call.tensors
    (matrix,) = (t for t in call.factors if t is not tensor)

    def apply(x: Tensor, weight: Tensor) -> Tensor:
        stand_in = {id(tensor): x, id(matrix): weight.to(x.dtype)}
        args, kwargs = replaced((call.args, call.kwargs), stand_in)
        return call.func(*args, **kwargs)

    box = bounds_of(node)
    if box is not None:
        parts = [(node.value - box[0], positive(matrix)), (node.value - box[1], negative(matrix))]
        return node, _by_parts(apply, parts, relevance, None, create_graph)
    if rule.ignores_negative:
        parts = _positive_parts(node.value, matrix)
        return node, _by_parts(apply, parts, relevance, rule, create_graph)
    return node, _by_signs(apply, node.value, matrix, None, relevance, rule, create_graph)


def shares_by_products(
    call: Call, relevance: Tensor, shares: list[float], create_graph: bool
) -> Shares:
    """R_a = share * a * (the gradient by a of the product, of R / (product + epsilon))."""
    total = call.outputs[0].value
    ratio = relevance / (total + torch.where(total >= 0, _EPSILON, -_EPSILON))
    gradients = call.backward([ratio], create_graph)
    return [
        (node, share * node.value * gradient)
        for node, share, gradient in zip(call.inputs, shares, gradients, strict=True)
        if share
    ]


def _positive_parts(x: Tensor, weight: Tensor) -> list[tuple[Tensor, Tensor]]:
    if not bool((x.detach() < 0).any()):
        return [(x, positive(weight))]
    # At 0 they have the derivatives of the line above, for any neighbours in the batch.
    below, above = torch.where(x < 0, x, 0.0), torch.where(x < 0, 0.0, x)
    return [(above, positive(weight)), (below, negative(weight))]


def _by_parts(
    apply: Apply,
    parts: list[tuple[Tensor, Tensor]],
    relevance: Tensor,
    rule: PropagationRule | None,
    create_graph: bool,
) -> Tensor:
    """Shares of contributions that are the sum of x_i w_ij over the parts, and not negative."""
    points = [wide(x) for x, _ in parts]
    with torch.autocast(relevance.device.type, enabled=False):
        values = [apply(x, w) for x, (_, w) in zip(points, parts, strict=True)]
    total = reduce(torch.add, values)
    if rule is None:
        ratio = quotient(relevance, total)
    else:
        ratio, _ = rule.ratios(relevance, total, None, None)
    slopes = [
        torch.autograd.grad(z, x, ratio, create_graph=create_graph)[0]
        for z, x in zip(values, points, strict=True)
    ]
    return reduce(torch.add, [x * g for x, g in zip(points, slopes, strict=True)])


def _by_signs(
    apply: Apply,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    relevance: Tensor,
    rule: PropagationRule,
    create_graph: bool,
) -> Tensor:
    """Shares of contributions of both signs."""
    x = wide(x)
    size = x.abs()
    with torch.autocast(relevance.device.type, enabled=False):
        total, gross = apply(x, weight), apply(size, weight.abs())
    above, below = rule.ratios(
        relevance, (total + gross) / 2, (total - gross) / 2, None if bias is None else wide(bias)
    )
    net, by_size = (above + below) / 2, (above - below) / 2
    (slope,) = torch.autograd.grad(total, x, net, create_graph=create_graph)
    (size_slope,) = torch.autograd.grad(gross, size, by_size, create_graph=create_graph)
    shares = x * slope + size * size_slope
    none = gross.detach() < nothing(gross)
    if not rule.shares_evenly or not bool(none.any()):
        return shares
    ones = torch.ones_like(x.detach()).requires_grad_()
    n_inputs = apply(ones, torch.ones_like(weight.detach()))
    even = torch.where(none, relevance, 0.0).to(n_inputs.dtype) / n_inputs
    return shares + torch.autograd.grad(n_inputs, ones, even, create_graph=create_graph)[0]


def _with_norm(call: Call, norm: Call | None) -> tuple[Tensor, Tensor | None]:
    """The weight and the bias of a layer and the batch norm behind it, as one layer."""
    given = call.args[2] if len(call.args) > 2 else None
    bias = call.kwargs.get("bias", given)
    inner = 0 if call.name == "linear" else call.weight.dim() - 2
    if norm is None:
        return call.weight, None if bias is None else bias.view(-1, *[1] * inner)
    n_channels = norm.outputs[0].tensor.shape[1]
    zeros = call.weight.new_zeros(1, n_channels, *[1] * inner)
    at_zero = norm.again(zeros)
    slope = norm.again(zeros + 1) - at_zero
    shift = at_zero if bias is None else norm.again(bias.view_as(zeros))
    return _scaled(call, call.weight, slope.flatten()), shift


def _scaled(call: Call, weight: Tensor, slopes: Tensor) -> Tensor:
    """The weight with each output channel times a number."""
    if not call.name.startswith("conv_transpose"):
        return weight * slopes.view(-1, *[1] * (weight.dim() - 1))
    groups = len(slopes) // weight.shape[1]  # (in, out / groups, ...)
    by_group = slopes.view(groups, 1, -1, *[1] * (weight.dim() - 2))
    return (weight.unflatten(0, (groups, -1)) * by_group).flatten(0, 1)


# --- Normalisations. y_j = c_j (x_j - mean x) + b_j, c_j: weight over standard deviation, is a
# layer with the matrix w_ij = c_j (delta_ij - 1/n). Its sums have a closed form:
#   sum_i x_i w_ij     = c_j (x_j - mean x)
#   sum_i |x_i w_ij|   = |c_j| ((1 - 2/n) |x_j| + mean |x|)
# and, with the roles of i and j exchanged, so have the sums over j.


def through_normalisation(
    call: Call, relevance: Tensor, rule: PropagationRule
) -> tuple[Node, Tensor]:
    """The relevance of the input of a layer, group or instance norm."""
    (node,) = call.inputs
    value = wide(node.value)
    given = by_name(_NAMES[call.name], call.args, call.kwargs)
    rows = _rows_of(call.name, value, given)
    weight, bias = (_by_channel(call.name, value, given.get(of)) for of in ("weight", "bias"))
    x = value.reshape(rows)
    n = x.shape[-1]
    scale = (x.var(-1, unbiased=False, keepdim=True) + given.get("eps", 1e-5)).rsqrt()
    c = scale.expand_as(x) if weight is None else scale * weight.expand_as(value).reshape(rows)
    size = x.abs()

    def centred(t: Tensor) -> Tensor:
        return t - t.mean(-1, keepdim=True)

    def gross(t: Tensor) -> Tensor:
        return (1 - 2 / n) * t + t.mean(-1, keepdim=True)

    total, by_size = c * centred(x), c.abs() * gross(size)
    shift = None if bias is None else bias.expand_as(value).reshape(rows)
    above, below = rule.ratios(
        relevance.reshape(rows), (total + by_size) / 2, (total - by_size) / 2, shift
    )
    shares = x * centred(c * (above + below) / 2) + size * gross(c.abs() * (above - below) / 2)
    return node, shares.view_as(value)


_NAMES = {
    "layer_norm": ("input", "normalized_shape", "weight", "bias", "eps", "cudnn_enable"),
    "group_norm": ("input", "num_groups", "weight", "bias", "eps", "cudnn_enabled"),
    "instance_norm": (
        "input", "running_mean", "running_var", "weight", "bias", "use_input_stats", "momentum",
        "eps",
    ),
}  # fmt: skip


def _rows_of(name: str, x: Tensor, given: dict[str, Any]) -> tuple[int, ...]:
    """The shape of ``x`` in which each row is normalised by its own mean and deviation."""
    if name == "layer_norm":
        shape = given["normalized_shape"]
        n = 1 if isinstance(shape, int) else len(shape)
        return (*x.shape[: x.dim() - n], x.shape[x.dim() - n :].numel())
    n_groups = given["num_groups"] if name == "group_norm" else x.shape[1]
    return len(x), n_groups, x[0].numel() // n_groups


def _by_channel(name: str, x: Tensor, t: Tensor | None) -> Tensor | None:
    """A weight or a bias, which only in layer norm has the shape of the features."""
    return t if t is None or name == "layer_norm" else t.view(-1, *[1] * (x.dim() - 2))


def positive(x: Tensor) -> Tensor:
    """The positive part."""
    return torch.ops.aten.relu(x)


def negative(x: Tensor) -> Tensor:
    """The negative part, which is not above 0."""
    return -torch.ops.aten.relu(-x)


def wide(x: Tensor) -> Tensor:
    """In single precision: ratios to small totals are too large for float16."""
    return x.float() if x.dtype == torch.float16 else x
