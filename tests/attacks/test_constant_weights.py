"""Layers of constant weights: torch's own, with all derivatives that are asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from captum_robust.attacks._constant_weights import (
    _BatchNorm,
    _Convolution,
    constant_weights,
)

CALLS: dict[str, tuple[Callable[..., Tensor], tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "1d": (torch.conv1d, (2, 4, 9), (6, 4, 3), {"stride": 2, "padding": 1}),
    "2d": (torch.conv2d, (2, 4, 7, 6), (6, 4, 3, 2), {"stride": (2, 1), "padding": (1, 0)}),
    "2d, dilated": (torch.conv2d, (2, 4, 9, 9), (2, 4, 3, 3), {"dilation": 2}),
    "2d, depthwise": (torch.conv2d, (2, 4, 7, 7), (4, 1, 3, 3), {"groups": 4, "padding": 1}),
    "3d": (torch.conv3d, (1, 2, 4, 4, 4), (2, 2, 2, 2, 2), {}),
    "1d, transposed": (torch.conv_transpose1d, (2, 4, 5), (4, 3, 3), {"stride": [2]}),
    "2d, transposed": (
        torch.conv_transpose2d,
        (2, 4, 5, 4),
        (4, 3, 3, 3),
        {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2, "dilation": 2},
    ),
    "3d, transposed": (torch.conv_transpose3d, (1, 2, 3, 3, 3), (2, 2, 2, 2, 2), {}),
}


def _draw(shape: tuple[int, ...], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _derivatives(func: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
    """The value, and derivatives of the first three orders."""
    found = [func(x.requires_grad_())]
    for _ in range(3):
        (slope,) = torch.autograd.grad((found[-1].sin() ** 2).sum(), x, create_graph=True)
        found.append(slope)
    return [f.detach() for f in found]


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("biased", [True, False])
def test_equals_torch(name: str, biased: bool) -> None:
    func, x_shape, w_shape, options = CALLS[name]
    weight = _draw(w_shape, 1)
    outputs = func(_draw(x_shape, 0), weight, None, **options).shape[1]
    bias = _draw((outputs,), 2) if biased else None

    def run(x: Tensor) -> Tensor:
        return func(x, weight, bias, **options)

    with constant_weights():
        assert type(run(_draw(x_shape, 0).requires_grad_()).grad_fn).__name__.startswith("_Conv")
        ours = _derivatives(run, _draw(x_shape, 0))
    for a, b in zip(ours, _derivatives(run, _draw(x_shape, 0)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("fast", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_gradcheck(name: str, fast: bool) -> None:
    func, x_shape, w_shape, options = CALLS[name]
    x, weight = _draw(x_shape, 0).requires_grad_(), _draw(w_shape, 1)
    with constant_weights():
        assert gradcheck(lambda x: func(x, weight, **options), x, fast_mode=fast)
        assert gradgradcheck(lambda x: func(x, weight, **options).sin(), x, fast_mode=fast)


NORMS = {
    "rows": (nn.BatchNorm1d(3), (4, 3)),
    "series": (nn.BatchNorm1d(3), (2, 3, 5)),
    "images": (nn.BatchNorm2d(3), (2, 3, 4, 4)),
    "volumes, no weights": (nn.BatchNorm3d(3, affine=False), (2, 3, 2, 2, 2)),
}


def _norm(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    """A batch norm in evaluation mode, whose statistics and weights are drawn."""
    layer, shape = NORMS[name]
    layer = layer.double().eval().requires_grad_(False)
    for i, (key, value) in enumerate(layer.state_dict().items()):
        if value.is_floating_point():
            drawn = _draw(tuple(value.shape), i)
            value.copy_(drawn.square() + 0.1 if key == "running_var" else drawn)
    return layer, shape


@pytest.mark.parametrize("name", NORMS)
def test_batch_norm_equals_torch(name: str) -> None:
    layer, shape = _norm(name)
    with constant_weights():
        assert isinstance(layer(_draw(shape, 0).requires_grad_()).grad_fn, _BatchNorm._backward_cls)
        ours = _derivatives(layer, _draw(shape, 0))
    for a, b in zip(ours, _derivatives(layer, _draw(shape, 0)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NORMS)
def test_batch_norm_gradcheck(name: str) -> None:
    layer, shape = _norm(name)
    x = _draw(shape, 0).requires_grad_()
    with constant_weights():
        assert gradcheck(layer, x)
        assert gradgradcheck(lambda x: layer(x).sin(), x)


@pytest.mark.parametrize("change", ["training", "no statistics", "learned", "other precision"])
def test_other_batch_norms_stay_torch_own(change: str) -> None:
    layer, shape = _norm("images")
    if change == "training":
        layer = layer.train()
    elif change == "no statistics":
        layer = nn.BatchNorm2d(3, track_running_stats=False).double().eval().requires_grad_(False)
    elif change == "learned":
        layer = nn.BatchNorm2d(3).double().eval()
    else:
        layer = layer.float()
    x = _draw(shape, 0).to(torch.bfloat16 if change == "other precision" else torch.float64)
    x.requires_grad_()
    expected = layer(x)
    with constant_weights():
        ours = layer(x)
    assert type(ours.grad_fn) is type(expected.grad_fn)
    assert torch.equal(ours, expected)


def test_modules_positional_arguments_and_channels_last() -> None:
    x = _draw((2, 3, 8, 8), 0).contiguous(memory_format=torch.channels_last).requires_grad_()
    layer = nn.Conv2d(3, 4, 3, 2, 1, bias=False).double().requires_grad_(False)
    with constant_weights():
        ours = layer(x)
    assert isinstance(ours.grad_fn, _Convolution._backward_cls)
    assert torch.equal(ours, layer(x))


def _weights_with_gradient(x: Tensor) -> Tensor:
    return torch.conv2d(x, _draw((2, 3, 3, 3), 1).requires_grad_())


def _weights_of_the_input(x: Tensor) -> Tensor:
    return torch.conv2d(x, x[:, :, :3, :3])


def _padding_by_name(x: Tensor) -> Tensor:
    return torch.conv2d(x, _draw((2, 3, 3, 3), 1), padding="same")


def _one_image(x: Tensor) -> Tensor:
    return torch.conv2d(x[0], _draw((2, 3, 3, 3), 1))


def _mixed_precision(x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return torch.conv2d(x.float(), _draw((2, 3, 3, 3), 1).float()).double()


def _vectorised(x: Tensor) -> Tensor:
    weight = _draw((2, 3, 3, 3), 1)
    return torch.func.vmap(torch.func.grad(lambda x: torch.conv2d(x[None], weight).sin().sum()))(x)


@pytest.mark.parametrize(
    "func",
    [
        _weights_with_gradient,
        _weights_of_the_input,
        _padding_by_name,
        _one_image,
        _mixed_precision,
        _vectorised,
    ],
)
def test_leaves_the_rest_to_torch(func: Callable[[Tensor], Tensor]) -> None:
    x = _draw((2, 3, 6, 6), 0).requires_grad_()
    with constant_weights():
        value = func(x)
        (slope,) = torch.autograd.grad(value.square().sum(), x)
    assert torch.equal(value, func(x))
    assert torch.equal(slope, torch.autograd.grad(func(x).square().sum(), x)[0])


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")  # torch's own
def test_forward_mode() -> None:
    x, weight = _draw((2, 3, 6, 6), 0), _draw((2, 3, 3, 3), 1)
    with constant_weights():
        _, tangent = torch.func.jvp(lambda x: torch.conv2d(x, weight), (x,), (x,))
    torch.testing.assert_close(tangent, torch.conv2d(x, weight))


def test_wrong_arguments_are_torchs_errors() -> None:
    with constant_weights(), pytest.raises(RuntimeError, match="channels"):
        torch.conv2d(_draw((2, 3, 6, 6), 0).requires_grad_(), _draw((2, 4, 3, 3), 1))
    with constant_weights(), pytest.raises(TypeError, match="conv2d"):
        torch.conv2d(_draw((2, 3, 6, 6), 0).requires_grad_(), nonsense=1)


class _Calls(TorchDispatchMode):
    """The kernels that run in a block."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_no_gradient_of_weights_is_computed() -> None:
    """What the context is for: two passes backward and two forward, where torch has one more."""
    x = _draw((2, 3, 8, 8), 0).requires_grad_()
    weight = _draw((4, 3, 3, 3), 1)

    def passes() -> int:
        with _Calls() as calls:
            value = torch.conv2d(x, weight).sin().sum()
            (slope,) = torch.autograd.grad(value, x, create_graph=True)
            torch.autograd.grad(slope.square().sum(), x)
        return sum(name.startswith("convolution") for name in calls.names)

    torchs = passes()
    with constant_weights():
        assert passes() == 4 < torchs
