"""Torch's functions by name, in the groups that explanations by rules tell apart."""

from __future__ import annotations


def names(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


LAYERS = names("linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d")
"""Layers of an input, a weight and a bias, in this order."""

MATRIX_PRODUCTS = names("matmul __matmul__ __rmatmul__ mm bmm mv einsum")
"""Products of two tensors, either of which may depend on the inputs."""

RECURRENT = names("lstm lstm_cell gru gru_cell rnn_tanh rnn_tanh_cell rnn_relu rnn_relu_cell")
"""Whole recurrent layers in one call."""

FUSED_PRODUCTS = RECURRENT | names(
    "addmm addbmm baddbmm addmv bilinear tensordot multi_head_attention_forward"
)
"""Further calls that multiply by a weight."""

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

DIVISIONS = names("div __div__ __truediv__ true_divide divide")

PRODUCTS = names("mul __mul__ __rmul__ multiply") | DIVISIONS

AVERAGES = names(
    "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d "
    "mean sum interpolate upsample upsample_nearest upsample_bilinear"
)
"""Linear functions whose weights are not negative."""

NORMALISATIONS = names("layer_norm group_norm instance_norm")
"""The features of an example less their mean, over their standard deviation."""

SCALINGS = names("rms_norm normalize")
"""The features of an example over their length."""

LENGTHS = names("norm vector_norm linalg_vector_norm linalg_norm std")
"""Homogeneous functions: twice the input gives twice the result."""

SCALED_SUMS = names("addcmul addcdiv lerp")
"""Affine functions, where one value alone depends on the inputs."""

SOFTMAX = names("softmax")

ROUTES = names(
    "view view_as reshape reshape_as flatten unflatten ravel permute transpose t movedim swapaxes "
    "swapdims squeeze unsqueeze contiguous clone cat concat concatenate stack hstack vstack chunk "
    "split split_with_sizes tensor_split unbind __getitem__ select narrow index_select gather "
    "take_along_dim pad expand expand_as repeat tile repeat_interleave broadcast_to roll flip "
    "pixel_shuffle pixel_unshuffle channel_shuffle max_pool1d max_pool2d max_pool3d "
    "max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices adaptive_max_pool1d "
    "adaptive_max_pool2d adaptive_max_pool3d max amax maximum to float double half bfloat16 type "
    "type_as cpu cuda __get__ unfold where masked_fill masked_select written copied filled "
    "read_view write_view scatter slice_scatter select_scatter index_fill index_copy index_put "
    "masked_scatter diagonal tril triu rot90"
)
"""Functions that only copy or move numbers: relevance follows them as a gradient does."""

RESHAPES = names(
    "view view_as reshape reshape_as flatten unflatten ravel squeeze unsqueeze contiguous clone"
)
"""Those of them that keep every number and their order."""
