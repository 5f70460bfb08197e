"""Principal curvatures against surfaces whose curvatures are known, and against dense Hessians."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from captum_robust.attr import softplus_activations
from captum_robust.metrics import curvature_bound, principal_curvature
from captum_robust.zoo import fashion_mnist_cnn, fashion_mnist_sample
from tests.helpers import rng


def points(n=5, d=6, seed=1):
    return torch.randn(n, d, generator=rng(seed), dtype=torch.float64)


def network(seed=2):
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))
    generator = rng(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.7, generator=generator)
    return model.double()


def measure(function, x, **kwargs):
    kwargs = {"tolerance": 1e-8, "generator": rng(), **kwargs}
    return principal_curvature(function, x, **kwargs)


def literal(function, x):
    """All principal curvatures of one point, from the whole Hessian; the largest magnitude."""
    gradient = torch.autograd.functional.jacobian(function, x)
    hessian = torch.autograd.functional.hessian(function, x)
    size = gradient.norm()
    basis = torch.linalg.svd(gradient[None])[2][1:]  # of the tangent space
    form = basis @ hessian @ basis.T / size
    return torch.linalg.eigvalsh(form).abs().max()


def test_spheres():
    x = points()
    got = measure(lambda x: x.square().sum(1), x)
    torch.testing.assert_close(got, 1 / x.norm(dim=1), rtol=1e-4, atol=0)
    # Another function with the same surfaces has the same curvatures.
    got = measure(lambda x: (-x.square().sum(1) / 9).exp(), x)
    torch.testing.assert_close(got, 1 / x.norm(dim=1), rtol=1e-4, atol=0)


def test_cylinders():
    x = points()
    got = measure(lambda x: x[:, :2].square().sum(1), x)
    torch.testing.assert_close(got, 1 / x[:, :2].norm(dim=1), rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    "axes", [[1.0, 2.0, 3.0, 0.5], [1.0, -2.0, -3.0, 0.5], [1.0, 1.0, -1.0, 1.0]]
)
def test_quadrics_at_their_vertices(axes):
    """At a e_1 the curvatures of sum_i c_i x_i^2 are c_i / (c_1 a)."""
    c, a = torch.tensor(axes, dtype=torch.float64), torch.tensor([0.5, 2.0]).double()
    x = a[:, None] * torch.eye(4, dtype=torch.float64)[0]
    got = measure(lambda x: (c * x.square()).sum(1), x)
    torch.testing.assert_close(got, (c[1:] / c[0]).abs().max() / a, rtol=1e-4, atol=0)


def test_a_torus():
    """Its principal curvatures are 1 / r and cos(t) / (R + r cos(t))."""
    big, small, t = 3.0, 1.0, torch.linspace(0, math.pi, 7, dtype=torch.float64)
    x = torch.stack([big + small * t.cos(), torch.zeros(7).double(), small * t.sin()], 1)

    def torus(x):
        return ((x[:, 0] ** 2 + x[:, 1] ** 2).sqrt() - big) ** 2 + x[:, 2] ** 2

    want = torch.maximum(torch.ones(7).double(), (t.cos() / (big + small * t.cos())).abs())
    torch.testing.assert_close(measure(torus, x), want, rtol=1e-4, atol=0)


@pytest.mark.parametrize("beta", [0.5, 3.0])
def test_a_smoothed_network_against_its_hessian(beta):
    model, x = network(), points()
    got = measure(model, x, target=1, beta=beta)

    def function(x):
        with softplus_activations(beta):
            return model(x)[1]

    want = torch.stack([literal(function, row) for row in x])
    torch.testing.assert_close(got, want, rtol=1e-4, atol=0)
    with softplus_activations(beta):
        torch.testing.assert_close(measure(model, x, target=1), got)


def test_a_loose_tolerance_and_few_iterations():
    model, x = network(), points(20)
    exact = measure(model, x, target=1, beta=1.0)
    loose = measure(model, x, target=1, beta=1.0, tolerance=0.3)
    assert (loose <= exact * (1 + 1e-9)).all()
    torch.testing.assert_close(loose, exact, rtol=0.1, atol=0)
    with pytest.warns(UserWarning, match=r"stopped after n_iterations=1 at \d+ of 20 points"):
        few = measure(model, x, target=1, beta=1.0, n_iterations=1)
    assert (few <= exact * (1 + 1e-9)).all()


def test_a_tuple_is_one_point():
    x = points()
    got = measure(lambda a, b: a.square().sum(1) + b.square().sum((1, 2)), (x, x.view(5, 3, 2)))
    torch.testing.assert_close(got, 1 / (2 * x.square().sum(1)).sqrt(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_other_precisions(dtype):
    x = points().to(dtype)
    got = principal_curvature(lambda x: x.square().sum(1), x)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, 1 / x.float().norm(dim=1), rtol=1e-2, atol=0)


def test_planes_and_rectifiers_are_flat_and_say_so():
    weights = torch.ones(6).double()
    for function in (lambda x: x @ weights, lambda x: network()(x)[:, 1]):
        with pytest.warns(UserWarning, match="the curvature is zero"):
            assert torch.equal(measure(function, points()), torch.zeros(5).double())


def test_the_curve_in_one_dimension_is_a_point():
    with pytest.warns(UserWarning, match="the curvature is zero"):
        assert measure(lambda x: x[:, 0] ** 2, points(d=1)).tolist() == [0.0] * 5


def test_nothing_is_left_behind():
    model, x, state = network(), points(), torch.get_rng_state()
    principal_curvature(model, x, 1, beta=1.0)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())
    assert not x.requires_grad


def test_bad_input():
    with pytest.raises(ValueError, match="gradient of the output is zero"):
        measure(lambda x: x.square().sum(1), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="inputs has NaN"):
        measure(lambda x: x.square().sum(1), points() / 0)
    with pytest.raises(ValueError, match="floating-point"):
        measure(lambda x: x.sum(1), torch.ones(2, 3, dtype=torch.int64))
    for name in ("beta", "tolerance", "n_iterations"):
        with pytest.raises(ValueError, match=name):
            measure(lambda x: x.square().sum(1), points(), **{name: 0})
    with pytest.raises(ValueError, match="target"):
        measure(network(), points(), beta=1.0)


# --- Theorem 1.


def test_the_bound_on_a_circle():
    a, b = torch.tensor([[2.0, 0.0]]).double(), torch.tensor([[0.0, 2.0]]).double()
    got = curvature_bound(lambda x: x.square().sum(1), a, b, n_points=100, generator=rng())
    torch.testing.assert_close(got.change, torch.tensor([math.sqrt(2)]).double())
    torch.testing.assert_close(got.curvature, torch.tensor([0.5]).double())
    torch.testing.assert_close(got.length, torch.tensor([math.pi]).double(), rtol=1e-4, atol=0)
    torch.testing.assert_close(got.bound, got.curvature * got.length)


def test_the_end_is_moved_to_the_surface():
    a, b = torch.tensor([[2.0, 0.0]]).double(), torch.tensor([[0.0, 2.3]]).double()
    got = curvature_bound(lambda x: x.square().sum(1), a, b, n_points=100, generator=rng())
    torch.testing.assert_close(got.length, torch.tensor([math.pi]).double(), rtol=1e-3, atol=0)


@pytest.mark.parametrize("beta", [0.5, 2.0, 10.0])
def test_the_bound_holds_on_a_network(beta):
    model, x = network(), points(20)
    other = x + 0.2 * points(20, seed=7)
    got = curvature_bound(model, x, other, 1, beta=beta, n_points=20, generator=rng())
    assert (got.change <= got.bound).all()
    assert (got.change > 0.1 * got.bound).any()  # it says something


def test_kinks_of_max_pooling_are_not_seen():
    """As the documentation says: the theorem is for smooth networks."""

    def model(x):
        return x.amax(1) + 0.001 * x.square().sum(1)

    a, b = torch.tensor([[1.0, 0.9]]).double(), torch.tensor([[0.9, 1.0]]).double()
    got = curvature_bound(model, a, b, generator=rng())
    assert got.change > 10 * got.bound


def test_a_path_that_leaves_the_surface():
    a, b = torch.tensor([[0.0, 0.1]]).double(), torch.tensor([[3.0, 0.1]]).double()
    with pytest.raises(ValueError, match="manipulated: between it and inputs"):
        curvature_bound(lambda x: x[:, 0].atan(), a, b, n_points=4)
    a, b = torch.tensor([[1.0, 0.1]]).double(), torch.tensor([[-1.0, 0.1]]).double()
    with pytest.warns(UserWarning, match="by more than a right angle"):  # two branches
        curvature_bound(lambda x: x[:, 0] ** 2 - x[:, 1] ** 2, a, b, n_points=4)
    with pytest.raises(ValueError, match="manipulated must have the shapes"):
        curvature_bound(lambda x: x.sum(1), a, b[:, :1])
    with pytest.raises(ValueError, match="n_points"):
        curvature_bound(lambda x: x.sum(1), a, b, n_points=1)


def test_on_the_zoo_network_the_curvature_grows_with_beta():
    images, labels = fashion_mnist_sample(4)
    model = fashion_mnist_cnn()
    values = [
        principal_curvature(model, images, labels, beta=beta, tolerance=0.01, generator=rng())
        for beta in (0.5, 5.0, 50.0)
    ]
    largest = torch.stack(values).amax(1)
    assert largest[0] < largest[1] < largest[2]
