"""Torch's functions by name, as explanations that walk a network backwards tell them apart."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_robust.attr._backward.tape import Node, Step, names
from captum_robust.attr.softplus import smoothed

WEIGHTED = names("linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d")
"""Layers of an input, a weight and a bias, in this order."""

MATRIX_PRODUCTS = names(
    "matmul __matmul__ __rmatmul__ mm bmm mv addmm addbmm baddbmm addmv einsum bilinear tensordot "
    "multi_head_attention_forward lstm lstm_cell gru gru_cell rnn_tanh rnn_tanh_cell rnn_relu "
    "rnn_relu_cell"
)
"""Layers of a weight that are spelled in another way."""

RECTIFIERS = names(
    "relu relu6 leaky_relu prelu rrelu hardtanh hardswish softshrink threshold clamp clip clamp_min"
)
"""What beta smoothing knows as rectifiers (a ``clamp`` at 0), but for gates."""

SMOOTH_RECTIFIERS = names("softplus elu celu selu gelu silu mish")
"""Activations that look like a rectifier from afar."""

GATES = names("sigmoid hardsigmoid")
"""Activations whose product with a signal lets it pass in part."""

ELEMENTWISE = (
    RECTIFIERS
    | SMOOTH_RECTIFIERS
    | GATES
    | names(
        "clamp_max tanh logsigmoid softsign tanhshrink hardshrink neg __neg__ negative abs exp "
        "log log1p expm1 sqrt rsqrt square pow __pow__ sin cos reciprocal __rdiv__ __rtruediv__ "
        "dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout "
        "batch_norm"
    )
)
"""Functions of one number of the input to one number of the output."""

SUMS = names("add __add__ __radd__ sub __sub__ subtract __rsub__ rsub")

PRODUCTS = names("mul __mul__ __rmul__ multiply div __div__ __truediv__ true_divide divide")

AVERAGES = names(
    "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d "
    "mean sum interpolate upsample upsample_nearest upsample_bilinear"
)
"""Linear functions whose weights are not negative."""

ROUTES = names(
    "view view_as reshape reshape_as flatten unflatten ravel permute transpose t movedim swapaxes "
    "swapdims squeeze unsqueeze contiguous clone cat concat concatenate stack hstack vstack chunk "
    "split tensor_split unbind __getitem__ select narrow index_select gather take_along_dim pad "
    "expand expand_as repeat tile repeat_interleave broadcast_to roll flip pixel_shuffle "
    "pixel_unshuffle channel_shuffle max_pool1d max_pool2d max_pool3d max_pool1d_with_indices "
    "max_pool2d_with_indices max_pool3d_with_indices adaptive_max_pool1d adaptive_max_pool2d "
    "adaptive_max_pool3d max amax maximum to float double half bfloat16 type cpu cuda __get__ "
    "unfold where masked_fill"
)
"""Functions that hand numbers on, each as it is, to where they are asked for."""

RESHAPES = names(
    "view view_as reshape reshape_as flatten unflatten ravel squeeze unsqueeze contiguous clone"
)
"""Those of them that keep every number and their order."""


def is_activation(step: Step) -> bool:
    """Whether the call is a rectifier, or looks like one from afar."""
    if step.func is not smoothed and step.name in ("clamp", "clip", "clamp_min"):
        low = step.kwargs.get("min", step.args[1] if len(step.args) > 1 else None)
        return isinstance(low, (int, float)) and low == 0
    return step.name in RECTIFIERS or step.name in SMOOTH_RECTIFIERS


def weight_of(step: Step) -> Tensor:
    """The weight of a :data:`WEIGHTED` call."""
    return step.kwargs["weight"] if "weight" in step.kwargs else step.args[1]


def first_operand(step: Step) -> object:
    """What the call was given first, by place or as ``input``."""
    return step.kwargs.get("input", step.args[0] if step.args else None)


def is_weighted(step: Step) -> bool:
    """Whether the call is a layer whose input, and not its weight, depends on the inputs."""
    if step.name not in WEIGHTED or len(step.inputs) != 1:
        return False
    return not any(weight_of(step) is t for t in step.tensors)


def apply_weight(step: Step, x: Tensor, weight: Tensor) -> Tensor:
    """A :data:`WEIGHTED` call with another input and weight, and without its bias."""
    kwargs = {k: v for k, v in step.kwargs.items() if k not in ("input", "weight", "bias")}
    # Under autocast the layer ran on a copy of the weight in another precision.
    return step.func(x, weight.to(x.dtype), None, *step.args[3:], **kwargs)


def batch_norm_slope_sign(step: Step) -> Tensor | None:
    """The sign of the slope of each channel of a ``batch_norm`` call; None where all are 1."""
    place = 1 if step.func is torch.batch_norm else 3  # of torch, and of torch.nn.functional
    weight = step.kwargs.get("weight", step.args[place] if len(step.args) > place else None)
    return None if weight is None else weight.sign()


def layer_below(node: Node) -> Step | None:
    """The weighted call that ``node`` is the result of, itself or through a batch norm."""
    step = node.source
    if step is not None and step.name == "batch_norm":
        step = step.inputs[0].source
    return step if step is not None and is_weighted(step) else None
