"""In-place activations that take over memory behave as torch's own in-place operations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

from captum_robust._utils import overwrite as _overwrite
from captum_robust._utils.overwrite import overwrite
from captum_robust.attr import softplus_activations


def through(x: Tensor) -> Tensor:
    z = x * 3
    assert overwrite(z, F.softplus) is z
    return z * z


def test_derivatives_of_first_and_second_order() -> None:
    x = torch.randn(5, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(through(x), F.softplus(3 * x) ** 2)
    assert torch.autograd.gradcheck(through, x)
    assert torch.autograd.gradgradcheck(through, x)


def test_memory_is_taken_over_only_when_nobody_else_uses_it() -> None:
    alone = torch.randn(4) * 1
    before = alone.data_ptr()
    overwrite(alone, F.softplus)
    assert alone.data_ptr() != before

    shared = torch.randn(4) * 1
    alias, expected = shared.detach(), F.softplus(shared)
    before = shared.data_ptr()
    overwrite(shared, F.softplus)
    assert shared.data_ptr() == before
    torch.testing.assert_close(alias, expected)


def test_views_and_their_bases_see_the_change() -> None:
    base = torch.randn(2, 4)
    expected = base.clone()
    expected[0] = F.softplus(base[0])
    overwrite(base[0], F.softplus)
    torch.testing.assert_close(base, expected)

    base = torch.randn(2, 4)
    view, expected = base[1], F.softplus(base)
    overwrite(base, F.softplus)
    torch.testing.assert_close(view, expected[1])


def test_a_value_that_autograd_still_needs_is_protected() -> None:
    x = torch.randn(3, requires_grad=True)
    z = x.exp()  # its backward pass needs its own result
    overwrite(z, F.softplus)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()


def test_a_later_change_in_place_is_noticed() -> None:
    x = torch.randn(3, requires_grad=True)
    z = x * 2
    overwrite(z, F.softplus)
    y = z.square()  # needs z
    z.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_strides_are_kept(memory_format: torch.memory_format) -> None:
    z = torch.randn(2, 3, 4, 4).to(memory_format=memory_format) * 1
    strides = z.stride()
    overwrite(z, F.softplus)
    assert z.stride() == strides


def test_under_autocast_the_type_is_kept() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 1))
    with torch.autocast("cpu", torch.bfloat16), softplus_activations(1.0):
        assert network(torch.randn(2, 4)).dtype == torch.bfloat16


def test_a_leaf_that_requires_grad_is_refused_as_by_torch() -> None:
    with pytest.raises(RuntimeError, match="leaf"):
        overwrite(torch.randn(3, requires_grad=True), F.softplus)


def test_torch_func_transforms_still_work() -> None:
    def f(x: Tensor) -> Tensor:
        with softplus_activations(1.0):
            return F.relu(x * 2, inplace=True).sum()

    x = torch.randn(3)
    torch.testing.assert_close(torch.func.grad(f)(x), 2 * torch.sigmoid(2 * x))


def test_memory_of_others_is_written() -> None:
    array = np.linspace(-1, 1, 5, dtype=np.float32)
    expected = F.softplus(torch.from_numpy(array.copy()))
    overwrite(torch.from_numpy(array), F.softplus)
    torch.testing.assert_close(torch.from_numpy(array), expected)

    z = torch.linspace(-1, 1, 5) * 1
    lent = z.numpy()
    overwrite(z, F.softplus)
    torch.testing.assert_close(torch.from_numpy(lent), expected)


def test_another_type_that_the_activation_gives_does_not_spoil_what_autograd_keeps() -> None:
    """Under autocast softplus gives single precision, and a product keeps the half-precision z."""

    def swish(z: Tensor) -> Tensor:
        return z * torch.sigmoid(z.double())

    x = torch.linspace(-2, 2, 5, requires_grad=True)
    z = x * 3
    overwrite(z, swish)
    assert z.dtype == torch.float32
    (gradient,) = torch.autograd.grad(z.sum(), x)
    (expected,) = torch.autograd.grad(swish(x * 3).sum(), x)
    torch.testing.assert_close(gradient, expected)


def test_without_the_count_of_users_values_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_overwrite, "_use_count", None)
    assert _overwrite._count_of_one() == -1
    monkeypatch.setattr(_overwrite, "_ALONE", -1)
    test_derivatives_of_first_and_second_order()
    alone = torch.randn(4) * 1
    before = alone.data_ptr()
    overwrite(alone, F.softplus)
    assert alone.data_ptr() == before


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")  # torch's own
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_forward_mode_derivatives() -> None:
    x = torch.linspace(-2, 2, 5)
    with forward_ad.dual_level(), softplus_activations(1.0):
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        slope = forward_ad.unpack_dual(F.relu(2 * dual, inplace=True)).tangent
    torch.testing.assert_close(slope, 2 * torch.sigmoid(2 * x))


def test_under_inference_mode_views_see_the_change() -> None:
    with torch.inference_mode():
        z = torch.randn(2, 4) * 1
        view, expected = z[1], F.softplus(z)
        overwrite(z, F.softplus)
        torch.testing.assert_close(view, expected[1])


def test_hooks_and_kept_gradients_see_the_result() -> None:
    x, seen = torch.linspace(-2, 2, 5, requires_grad=True), []
    z = x * 2
    z.retain_grad()
    overwrite(z, F.softplus)
    z.register_hook(seen.append)
    z.square().sum().backward()
    torch.testing.assert_close(z.grad, 2 * z.detach())
    torch.testing.assert_close(seen[0], 2 * z.detach())
    torch.testing.assert_close(x.grad, 4 * z.detach() * torch.sigmoid(2 * x.detach()))
