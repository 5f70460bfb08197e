"""The projection on the tangent space of the data, against an oracle of loops."""

from __future__ import annotations

import pytest
import torch
from captum.attr import InputXGradient, LayerGradCam, NoiseTunnel, Saliency
from torch import nn

from captum_robust.attr import TangentProjection, differentiable

D = torch.float64


def network(features: int = 5) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(features, 8), nn.Softplus(), nn.Linear(8, 3)).to(D)


def cloud(m: int = 40, features: int = 5) -> torch.Tensor:
    return torch.randn(m, features, dtype=D, generator=torch.Generator().manual_seed(1))


def literal_projection(
    phi: torch.Tensor, x: torch.Tensor, data: torch.Tensor, d: int, k: int
) -> torch.Tensor:
    """Of one example: neighbours by sorted distances, principal directions by a covariance."""
    order = sorted(range(len(data)), key=lambda i: float((data[i] - x).square().sum()))[:k]
    around = torch.stack([data[i] for i in order])
    middle = around.sum(0) / k
    covariance = sum(torch.outer(p - middle, p - middle) for p in around)
    vectors = torch.linalg.eigh(covariance)[1].T.flip(0)[:d]
    return sum((v @ phi) * v for v in vectors)


@pytest.mark.parametrize(("d", "k"), [(1, 4), (2, 6), (3, 12), (4, 40)])
def test_it_is_the_literal_projection(d, k):
    model, data, x = network(), cloud(), cloud(7) + 0.3
    target = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    projected = TangentProjection(Saliency(model), data, n_dims=d, n_neighbors=k)
    found = projected.attribute(x, target=target, abs=False)
    ready = x.clone().requires_grad_()
    phi = Saliency(model).attribute(ready, target=target, abs=False)
    for i in range(7):
        expected = literal_projection(phi[i], x[i], data, d, k)
        torch.testing.assert_close(found[i], expected, atol=1e-5, rtol=1e-4)
    assert found.dtype == D


def test_it_is_a_projection():
    model, data = network(), cloud()
    projected = TangentProjection(Saliency(model), data, n_dims=2, n_neighbors=9)
    phi, x = cloud(6) * 2, cloud(6)
    once = projected.project(phi, x)
    torch.testing.assert_close(projected.project(once, x), once, atol=1e-6, rtol=1e-5)
    assert (once.norm(dim=1) <= phi.norm(dim=1) + 1e-6).all()
    basis = projected.tangent_basis(x)
    eye = torch.eye(2).expand(6, 2, 2)
    torch.testing.assert_close(basis @ basis.transpose(1, 2), eye, atol=1e-5, rtol=0)
    torch.testing.assert_close(once, (once - phi) + phi)


def test_what_points_away_from_the_data_is_removed():
    """Data in a plane: a gradient orthogonal to it, however large, does not show."""
    plane = torch.zeros(50, 3)
    plane[:, :2] = torch.rand(50, 2, generator=torch.Generator().manual_seed(0))
    honest, washed = nn.Linear(3, 1, bias=False), nn.Linear(3, 1, bias=False)
    honest.weight.data = torch.tensor([[1.0, -2.0, 0.0]])
    washed.weight.data = torch.tensor([[1.0, -2.0, 1000.0]])
    x = plane[:4] + torch.tensor([0.01, 0.02, 0.0])
    torch.testing.assert_close(honest(x), washed(x))
    for model in (honest, washed):
        projected = TangentProjection(Saliency(model), plane, n_dims=2, n_neighbors=10)
        found = projected.attribute(x, abs=False)
        torch.testing.assert_close(
            found, torch.tensor([[1.0, -2.0, 0.0]]).expand(4, 3), atol=1e-3, rtol=0
        )


def test_of_magnitudes_the_signed_values_are_projected():
    """|3| and |-3| along (1, 1) would be 3; the gradient (3, -3) has nothing along it."""
    model = nn.Linear(2, 1, bias=False)
    model.weight.data = torch.tensor([[3.0, -3.0]])
    line = torch.arange(4.0)[:, None].expand(4, 2)
    x = torch.tensor([[1.5, 1.5]])
    projected = TangentProjection(Saliency(model), line, n_dims=1)
    for found in (
        projected.attribute(x),  # Saliency takes absolute values by default
        projected.attribute(x, None, True),
        projected.attribute(x, abs=False),
        differentiable(projected)(x),
    ):
        torch.testing.assert_close(found.detach(), torch.zeros(1, 2), atol=1e-5, rtol=0)
    model.weight.data = torch.tensor([[-3.0, -1.0]])
    twos = torch.full((1, 2), 2.0)
    for options, wanted in ({}, twos), ({"abs": True}, twos), ({"abs": False}, -twos):
        torch.testing.assert_close(projected.attribute(x, **options), wanted)
    torch.testing.assert_close(projected.attribute(x, None, False), -twos)


def test_directions_in_which_the_neighbours_do_not_vary_are_left_out():
    data = cloud(30)
    data[:, 3:] = 1.0  # as the columns of a category that all neighbours have
    projected = TangentProjection(InputXGradient(network()), data, n_dims=5)
    basis = projected.tangent_basis(data[:4])
    assert (basis[:, :, 3:].abs() < 1e-6).all()
    torch.testing.assert_close(basis.norm(dim=2), torch.tensor([1.0, 1, 1, 0, 0]).expand(4, 5))
    same = TangentProjection(InputXGradient(network()), data[:1].expand(9, 5), n_dims=2)
    assert not same.attribute(data[:2], target=0).any()


@pytest.mark.parametrize("offset", [0.0, 2e3, 2e5])
def test_numbers_far_from_zero_change_neither_neighbours_nor_batches(offset):
    data = torch.rand(300, 4, dtype=D, generator=torch.Generator().manual_seed(2))
    points = data[:30] + 0.01
    near = TangentProjection(InputXGradient(network(4)), data, 2, 12).tangent_basis(points)
    moved = torch.tensor([offset, 0, 0, 0], dtype=D)
    far = TangentProjection(InputXGradient(network(4)), data + moved, 2, 12)
    whole = far.tangent_basis(points + moved)
    torch.testing.assert_close(whole.abs(), near.abs(), atol=1e-3, rtol=1e-3)
    parts = torch.cat([far.tangent_basis(p) for p in (points + moved).split(1)])
    torch.testing.assert_close(parts.abs(), whole.abs(), atol=1e-4, rtol=1e-4)


def test_images_and_batches():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    data = torch.rand(30, 3, 2, 2)
    projected = TangentProjection(Saliency(model), data, n_dims=3)
    x = torch.rand(5, 3, 2, 2)
    whole = projected.attribute(x, target=1)
    assert whole.shape == x.shape
    parts = torch.cat([projected.attribute(p, target=1) for p in x.split(2)])
    torch.testing.assert_close(whole, parts, atol=1e-5, rtol=1e-4)
    assert not x.requires_grad


def test_the_graph_passes_gradcheck():
    model, data = network(), cloud()
    projected = TangentProjection(InputXGradient(model), data, n_dims=2)
    x = (cloud(2) + 0.3).requires_grad_()
    explain = differentiable(projected)
    torch.testing.assert_close(
        explain(x, target=1).detach(), projected.attribute(x.detach(), target=1)
    )
    # The basis is computed in float32, a constant of the graph.
    assert torch.autograd.gradcheck(lambda p: explain(p, target=1), x, atol=1e-4)
    with pytest.raises(TypeError, match="KernelSmoothing"):
        differentiable(TangentProjection(NoiseTunnel(Saliency(model)), data, n_dims=2))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"data": [1.0]}, TypeError, "data must be a floating-point tensor"),
        ({"data": torch.zeros(4, 5, dtype=torch.long)}, TypeError, "data must be a floating-point"),
        ({"data": torch.zeros(1, 5)}, ValueError, "two examples or more"),
        ({"data": torch.full((4, 5), torch.nan)}, ValueError, "data has NaN or Inf"),
        ({"n_dims": 0}, ValueError, "n_dims must be at least 1"),
        ({"n_dims": 3, "n_neighbors": 3}, ValueError, "larger than the 3 dimensions"),
        ({"n_neighbors": 41}, ValueError, "at most the 40 points"),
        ({"n_dims": 6, "n_neighbors": 20}, ValueError, "at most the 5 features of the data, got 6"),
        ({"attribution_method": network()}, TypeError, r"Saliency\(model\)"),
    ],
)
def test_bad_settings_are_named(options, error, message):
    settings = {"attribution_method": Saliency(network()), "data": cloud(), "n_dims": 2}
    with pytest.raises(error, match=message):
        TangentProjection(**{**settings, **options})


def test_what_does_not_fit_is_named():
    model = network()
    projected = TangentProjection(Saliency(model), cloud(), n_dims=2)
    with pytest.raises(ValueError, match=r"shape of the data, \(5,\), got \(4,\)"):
        projected.attribute(torch.rand(2, 4, dtype=D), target=0)
    with pytest.raises(TypeError, match="inputs must be one tensor"):
        projected.attribute((cloud(2), cloud(2)), target=0)
    layer = TangentProjection(LayerGradCam(model, model[0]), cloud(), n_dims=2)
    with pytest.raises(ValueError, match="not of a layer"):
        layer.attribute(cloud(2), target=0)
