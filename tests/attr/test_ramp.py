"""The softplus whose second derivative is our own, against torch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from captum_robust.attr._ramp import _Ramp, softplus_ramp

CORNERS = [(0.0,), (0.7,), (0.0, 6.0), (-1.0, 1.0)]


def literal(z, beta, *corners):
    terms = [F.softplus(z - corner, beta=beta) for corner in corners]
    return terms[0] if len(terms) == 1 else terms[0] - terms[1]


def points(dtype=torch.float64):
    """Also far from the corners, where a softplus is a straight line."""
    return torch.linspace(-8.9, 8.9, 60, dtype=dtype).view(3, 4, 5)


def derivatives(func, z):
    """The value, and derivatives of the first three orders."""
    z = z.clone().requires_grad_()
    found = [func(z)]
    for _ in range(3):
        (slope,) = torch.autograd.grad((found[-1].sin() ** 2).sum(), z, create_graph=True)
        found.append(slope)
    return [f.detach() for f in found]


@pytest.mark.parametrize("corners", CORNERS, ids=str)
@pytest.mark.parametrize("beta", [0.5, 10.0])
def test_three_orders_equal_torch(corners, beta):
    z = points()
    assert isinstance(
        softplus_ramp(z.clone().requires_grad_(), beta, *corners).grad_fn, _Ramp._backward_cls
    )
    ours = derivatives(lambda z: softplus_ramp(z, beta, *corners), z)
    torchs = derivatives(lambda z: literal(z, beta, *corners), z)
    assert torch.equal(ours[0], torchs[0])
    for a, b in zip(ours[1:], torchs[1:], strict=True):
        # Above 20 / beta torch takes the slope as 1: it is 2e-9 less.
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("corners", CORNERS, ids=str)
@pytest.mark.parametrize("beta", [0.5, 10.0])
def test_the_second_derivative_alone_equals_torch(corners, beta):
    """Without a graph of its own it is computed in place."""
    found = []
    for func in (softplus_ramp, literal):
        z = points().requires_grad_()
        above = torch.linspace(-1, 2, z.numel(), dtype=z.dtype).view_as(z).requires_grad_()
        y = func(z, beta, *corners)
        (slope,) = torch.autograd.grad(y, z, above, create_graph=True)
        weight = torch.linspace(2, -1, z.numel(), dtype=z.dtype).view_as(z)
        found.append(torch.autograd.grad(slope, (z, above), weight, retain_graph=True))
        again = torch.autograd.grad(slope, (z, above), weight)
        assert all(torch.equal(a, b) for a, b in zip(again, found[-1], strict=True))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("corners", CORNERS, ids=str)
def test_gradcheck(corners):
    z = points().requires_grad_()
    assert gradcheck(lambda z: softplus_ramp(z, 2.0, *corners), z)
    assert gradgradcheck(lambda z: softplus_ramp(z, 2.0, *corners).sin(), z)

    def first(z):
        (slope,) = torch.autograd.grad(softplus_ramp(z, 2.0, *corners).sum(), z, create_graph=True)
        return slope.sin()

    assert gradgradcheck(first, z)


@pytest.mark.parametrize("corners", CORNERS, ids=str)
@pytest.mark.filterwarnings("ignore:.*jit:FutureWarning")
@pytest.mark.parametrize("way", ["no gradient", "half", "autocast", "vmap", "forward mode"])
def test_elsewhere_it_is_torch_own(corners, way):
    z = points()
    if way == "half":
        half = points(torch.bfloat16).requires_grad_()
        ours, torchs = softplus_ramp(half, 2.0, *corners), literal(half, 2.0, *corners)
        assert not isinstance(ours.grad_fn, _Ramp._backward_cls)
        torch.testing.assert_close(ours, torchs)
    elif way == "no gradient":
        assert torch.equal(softplus_ramp(z, 2.0, *corners), literal(z, 2.0, *corners))
    elif way == "autocast":
        with torch.autocast("cpu", dtype=torch.bfloat16):
            ours = softplus_ramp(z.float().requires_grad_(), 2.0, *corners)
        assert not isinstance(ours.grad_fn, _Ramp._backward_cls)
    elif way == "vmap":
        ours, torchs = (
            torch.func.vmap(torch.func.grad(lambda z, f=f: f(z, 2.0, *corners).sum()))(z)
            for f in (softplus_ramp, literal)
        )
        torch.testing.assert_close(ours, torchs)
    else:
        ours, torchs = (
            torch.func.jvp(lambda z, f=f: f(z, 2.0, *corners), (z,), (torch.ones_like(z),))[1]
            for f in (softplus_ramp, literal)
        )
        torch.testing.assert_close(ours, torchs)
