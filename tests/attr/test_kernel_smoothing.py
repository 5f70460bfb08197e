"""KernelSmoothing against the mean written as a loop, against integrals, and against Captum."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum.attr import (
    FeatureAblation,
    InputXGradient,
    IntegratedGradients,
    LayerGradCam,
    NoiseTunnel,
    Occlusion,
    Saliency,
)
from scipy import stats
from torch import nn

from captum_robust import attr
from captum_robust.attr.kernel_smoothing import gaussian, logistic, uniform
from tests.helpers import rng

KERNELS = {"gaussian": gaussian, "uniform": uniform, "logistic": logistic}
# Standard deviations of the kernels of unit radius.
DEVIATION = {"gaussian": 1.0, "uniform": 1 / math.sqrt(3), "logistic": math.pi / math.sqrt(3)}


def network(dtype=torch.float64):
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).to(dtype)
    generator = rng(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=generator)
    return model


def points(n=3, dtype=torch.float64):
    return torch.randn(n, 4, generator=rng(2), dtype=torch.float64).to(dtype)


# --- The noise.


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kernels_have_their_distribution(name, dtype):
    like = torch.empty(20_000, dtype=dtype)
    draw = KERNELS[name](like, rng())
    assert draw.dtype == dtype
    assert draw.isfinite().all()
    exact = {
        "gaussian": stats.norm(),
        "uniform": stats.uniform(-1, 2),
        "logistic": stats.logistic(),
    }
    assert stats.kstest(draw.double().numpy(), exact[name].cdf).pvalue > 1e-3
    assert draw.double().std().item() == pytest.approx(DEVIATION[name], rel=0.03)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_kernels_in_half_precision(name, dtype):
    draw = KERNELS[name](torch.empty(200_000, dtype=dtype), rng())
    assert draw.dtype == dtype
    assert draw.isfinite().all()
    assert draw.double().std().item() == pytest.approx(DEVIATION[name], rel=0.02)


def test_logistic_noise_is_finite_and_symmetric_at_both_ends_of_the_uniform_draw(monkeypatch):
    ends = torch.tensor([0.0, 2.0**-24, 1 - 2.0**-24])
    from captum_robust.attr import kernel_smoothing

    monkeypatch.setattr(kernel_smoothing, "standard_uniform", lambda like, generator: ends)
    low, first, high = logistic(torch.empty(3), rng()).tolist()
    assert low < first < 0 < high
    assert -low < 1.1 * high  # no draw that its distribution does not know


# --- The mean.


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(
    ("method", "arguments"),
    [(Saliency, {"abs": False}), (InputXGradient, {}), (IntegratedGradients, {})],
)
def test_it_is_the_mean_over_noisy_copies(name, method, arguments):
    model, x, n, radius = network(), points(), 7, 0.3
    arguments = {"target": 1, **arguments}
    got = attr.KernelSmoothing(method(model)).attribute(
        x, name, radius, n_samples=n, generator=rng(5), **arguments
    )
    generator = rng(5)
    noisy = [x + radius * KERNELS[name](x, generator) for _ in range(n)]
    explain = method(model).attribute
    want = sum(explain(y.requires_grad_(), **arguments).detach() for y in noisy) / n
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("graph", [False, True])
def test_smoothgrad_is_the_absolute_value_of_the_mean_gradient(graph):
    """Smilkov et al. 2017: signed gradients are averaged, by the loop of the paper."""
    model, x, n, stdev = network(), points(), 40, 0.7
    generator, total = rng(5), 0
    for _ in range(n):
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        noisy = (x + stdev * noise).requires_grad_()
        total = total + torch.autograd.grad(model(noisy)[:, 1].sum(), noisy)[0]
    assert (total < 0).any()
    arguments = {"n_samples": n, "radius": stdev, "target": 1}
    for wrap in (Saliency, lambda f: attr.BetaSmoothing(Saliency(f), 1e9)):
        smooth = attr.KernelSmoothing(wrap(model))
        explain = attr.differentiable(smooth) if graph else smooth.attribute
        got = explain(x, generator=rng(5), **arguments).detach()
        torch.testing.assert_close(got, (total / n).abs(), rtol=1e-6, atol=1e-9)
        signed = explain(x, generator=rng(5), abs=False, **arguments).detach()
        torch.testing.assert_close(signed, total / n, rtol=1e-6, atol=1e-9)


def test_only_the_outermost_mean_is_made_absolute():
    smooth, x = attr.KernelSmoothing(attr.KernelSmoothing(Saliency(network()))), points()
    arguments = {"target": 1, "n_samples": 3, "radius": 0.7}
    signed = smooth.attribute(x, abs=False, generator=rng(), **arguments)
    assert torch.equal(smooth.attribute(x, generator=rng(), **arguments), signed.abs())
    assert (signed < 0).any()


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("wrap", [lambda m: m, attr.BetaSmoothing], ids=["plain", "beta"])
@pytest.mark.parametrize(("size", "most"), [(8, 6), (6, 6), (1, 3), (1000, 60)])
def test_the_rows_of_integrated_gradients_are_bounded(graph, wrap, size, most):
    model, x, rows = network(), points(), []

    def forward(z):
        rows.append(len(z))
        return model(z)

    smooth = attr.KernelSmoothing(wrap(IntegratedGradients(forward)))
    explain = attr.differentiable(smooth) if graph else smooth.attribute
    arguments = {"target": 1, "n_samples": 4, "n_steps": 5}
    got = explain(x, internal_batch_size=size, generator=rng(), **arguments)
    assert max(rows) == most
    whole = explain(x, generator=rng(), **arguments)
    torch.testing.assert_close(got, whole, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("internal_batch_size", [None, 1, 2, 3, 4, 7, 21, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_result_does_not_depend_on_the_batches(internal_batch_size, dtype):
    smooth = attr.KernelSmoothing(Saliency(network(dtype)))
    arguments = {"n_samples": 7, "radius": 0.5, "target": torch.tensor([0, 2, 1]), "abs": False}
    x = points(dtype=dtype)
    whole = smooth.attribute(x, generator=rng(), **arguments)
    cut = smooth.attribute(x, generator=rng(), internal_batch_size=internal_batch_size, **arguments)
    torch.testing.assert_close(cut, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("internal_batch_size", [1, 5])
def test_nor_does_that_of_a_nested_smoothing(internal_batch_size):
    model = network()
    for inner in (
        attr.KernelSmoothing(Saliency(model)),
        attr.BetaSmoothing(attr.KernelSmoothing(Saliency(model))),
    ):
        arguments = {"n_samples": 3, "radius": 0.5, "target": 1}
        results = [
            attr.KernelSmoothing(inner).attribute(
                points(2), generator=rng(4), internal_batch_size=size, **arguments
            )
            for size in (None, internal_batch_size)
        ]
        torch.testing.assert_close(*results, rtol=1e-6, atol=1e-8)


def test_batch_sizes_reach_the_model():
    seen = []

    def forward(x):
        seen.append(len(x))
        return x.sum(1)

    smooth = attr.KernelSmoothing(Saliency(forward))
    for size, want in ((None, [21]), (9, [9, 9, 3]), (8, [6, 6, 6, 3]), (1, [3] * 7)):
        seen.clear()
        smooth.attribute(points(), n_samples=7, internal_batch_size=size)
        assert seen == want


def test_each_input_has_its_own_radius_and_noise():
    def forward(x, y):
        return (x**2).sum(1) + (y**2).flatten(1).sum(1)

    x, y = torch.zeros(2, 3, dtype=torch.float64), torch.zeros(2, 3, 5, dtype=torch.float64)
    got = attr.KernelSmoothing(Saliency(forward)).attribute(
        (x, y), radius=(1e-3, 1e3), n_samples=4, generator=rng(), abs=False
    )
    generator = rng()
    noise = [(gaussian(x, generator), gaussian(y, generator)) for _ in range(4)]
    torch.testing.assert_close(got[0], 2e-3 * sum(a for a, _ in noise) / 4)
    torch.testing.assert_close(got[1], 2e3 * sum(b for _, b in noise) / 4)


@pytest.mark.parametrize("n_samples", [1, 3])
def test_arguments_of_an_example_go_with_all_its_copies(n_samples):
    """Tiny noise, and a function that mixes up nothing only if everything is repeated alike."""
    weights = torch.randn(3, 4, generator=rng(3), dtype=torch.float64)
    model = network()

    def forward(x, w, scale, shared):
        return model(x * w) * scale * shared["factor"]

    def arguments():
        return {
            "target": torch.tensor([2, 0, 1]),
            "additional_forward_args": (weights, 3.0, {"factor": 2.0}),
            "baselines": points().flip(0),
        }

    smooth = attr.KernelSmoothing(IntegratedGradients(forward))
    got = smooth.attribute(points(), radius=1e-9, n_samples=n_samples, **arguments())
    want = IntegratedGradients(forward).attribute(points(), **arguments())
    torch.testing.assert_close(got, want.detach(), rtol=1e-5, atol=1e-6)

    mask = torch.tensor([[0, 0, 1, 1], [0, 1, 0, 1], [0, 1, 1, 1]])
    ablate = FeatureAblation(forward)
    smooth = attr.KernelSmoothing(ablate)
    got = smooth.attribute(
        points(), radius=1e-9, n_samples=n_samples, feature_mask=mask, **arguments()
    )
    want = ablate.attribute(points(), feature_mask=mask, **arguments())
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


def test_arguments_of_the_caller_are_not_changed():
    arguments = {"target": [1, 0, 2], "additional_forward_args": (torch.ones(3, 1),)}
    kept = {"target": [1, 0, 2], "additional_forward_args": (torch.ones(3, 1),)}
    model = network()
    attr.KernelSmoothing(Saliency(lambda x, y: model(x) * y)).attribute(
        points(), n_samples=3, internal_batch_size=1, **arguments
    )
    assert arguments["target"] == kept["target"]
    assert torch.equal(arguments["additional_forward_args"][0], torch.ones(3, 1))


def test_a_layer_method_has_the_shape_of_its_layer():
    model = nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 16, 2)
    ).double()
    x = torch.rand(2, 3, 4, 4, generator=rng(), dtype=torch.float64)
    explain = LayerGradCam(model, model[0])
    want = explain.attribute(x, target=0).detach()
    got = attr.KernelSmoothing(explain).attribute(x, radius=1e-9, n_samples=3, target=0)
    assert got.shape == want.shape == (2, 1, 4, 4)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-7)


def test_without_a_generator_it_is_unpredictable_and_leaves_the_global_state_alone():
    smooth = attr.KernelSmoothing(InputXGradient(network()))
    before = torch.get_rng_state()
    one, other = (smooth.attribute(points(), n_samples=2, target=0) for _ in range(2))
    assert not torch.equal(one, other)
    assert torch.equal(before, torch.get_rng_state())


def test_a_kernel_of_ones_own():
    def alternating(like, generator):
        alternating.calls += 1
        return torch.full_like(like, 1.0 if alternating.calls % 2 else -1.0)

    alternating.calls = 0
    x = points()
    got = attr.KernelSmoothing(Saliency(lambda x: (x**3).sum(1))).attribute(
        x, alternating, radius=0.5, n_samples=2
    )
    torch.testing.assert_close(got, (3 * (x + 0.5) ** 2 + 3 * (x - 0.5) ** 2) / 2)
    assert alternating.calls == 2


# --- Theorem 2 of Dombrowski et al.: smoothing with logistic noise is smoothing the rectifier.


@pytest.mark.parametrize("beta", [0.5, 1.0, 7.0])
def test_mean_gradient_of_one_rectified_layer_under_logistic_noise_by_quadrature(beta):
    w = torch.tensor([[1.5, -2.0, 0.5]], dtype=torch.float64)
    norm = w.norm().item()
    along = w / norm
    midpoints = (np.arange(200_000) + 0.5) / 200_000
    for z in (-1.0, -0.2, 0.0, 0.3, 2.0):
        x = z * along / norm + torch.tensor([[2.0, 1.5, 0.0]], dtype=torch.float64)  # w x = z
        assert (w @ x.T).item() == pytest.approx(z)

        # The mean over the midpoints of equally probable intervals.
        noise = torch.from_numpy(stats.logistic(scale=1 / beta).ppf(midpoints))[:, None]
        noisy = (x - noise * along).requires_grad_()
        (slopes,) = torch.autograd.grad(F.relu(noisy @ w.T).sum(), noisy)
        layer = attr.BetaSmoothedGradient(lambda y: F.relu(y @ w.T), beta / norm)
        torch.testing.assert_close(layer.attribute(x)[0], slopes.mean(0), rtol=1e-4, atol=1e-5)


def test_kernel_smoothing_with_the_logistic_kernel_meets_beta_smoothing():
    """One input, |w| = 2: noise of scale 1/b is softplus of sharpness b / 2."""
    w, n, beta = 2.0, 40_000, 3.0
    x = torch.linspace(-1.5, 1.5, 7, dtype=torch.float64)[:, None]

    def layer(x):
        return F.relu(w * x)

    sampled = attr.KernelSmoothing(Saliency(layer)).attribute(
        x, "logistic", radius=1 / beta, n_samples=n, generator=rng(11), abs=False
    )
    exact = attr.BetaSmoothedGradient(layer, beta / w).attribute(x)
    error = (exact * (w - exact) / n).sqrt()  # of a mean of zeros and twos
    assert ((sampled - exact).abs() < 4 * error).all()
    assert error.max() < 0.01  # sharp enough to tell b from b / 2 or 2 b
    other = attr.BetaSmoothedGradient(layer, beta).attribute(x)
    assert ((sampled - other).abs() > 10 * error).any()


# --- Captum's NoiseTunnel.


@pytest.mark.parametrize("method", [Saliency, InputXGradient])
def test_it_agrees_with_noise_tunnel(method):
    model, x, n, stdev = network(), points(), 4000, 0.4
    explain = method(model)
    arguments = {"target": 1, "abs": False} if method is Saliency else {"target": 1}
    torch.manual_seed(0)
    ours = attr.KernelSmoothing(explain).attribute(
        x, radius=stdev, n_samples=n, generator=rng(1), **arguments
    )
    theirs = NoiseTunnel(explain).attribute(x, nt_samples=n, stdevs=stdev, **arguments).detach()
    single = torch.stack(
        [
            attr.KernelSmoothing(explain).attribute(
                x, radius=stdev, n_samples=1, generator=rng(100 + i), **arguments
            )
            for i in range(300)
        ]
    )
    error = single.std(0) * math.sqrt(2 / n)
    assert ((ours - theirs).abs() < 4.5 * error + 1e-9).all()


def test_it_works_inside_noise_tunnel_and_around_it():
    model, x = network(), points()
    want = Saliency(model).attribute(x.clone().requires_grad_(), target=1)
    inside = NoiseTunnel(attr.KernelSmoothing(Saliency(model))).attribute(
        x, nt_samples=3, stdevs=1e-9, n_samples=2, radius=1e-9, target=1
    )
    around = attr.KernelSmoothing(NoiseTunnel(Saliency(model))).attribute(
        x, nt_samples=3, stdevs=1e-9, n_samples=2, radius=1e-9, target=1
    )
    torch.testing.assert_close(inside, want, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(around, want, rtol=1e-5, atol=1e-7)


# --- Bad arguments.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel": "normal"}, "kernel must be one of gaussian, uniform, logistic"),
        ({"kernel": lambda like, generator: torch.zeros(4)}, "kernel must draw noise of"),
        ({"radius": 0}, "radius must be positive"),
        ({"radius": -0.1}, "radius must be positive"),
        ({"radius": float("nan")}, "radius must be positive"),
        ({"radius": float("inf")}, "radius must be positive"),
        ({"radius": (0.1, 0.2)}, "radius has 2 values for 1 inputs"),
        ({"n_samples": 0}, "n_samples must be at least 1"),
        ({"n_samples": -3}, "n_samples must be at least 1"),
        ({"internal_batch_size": 0}, "internal_batch_size must be at least 1"),
        ({"return_convergence_delta": True}, "return_convergence_delta"),
    ],
)
def test_bad_values_are_named(arguments, message):
    smooth = attr.KernelSmoothing(Saliency(network()))
    with pytest.raises(ValueError, match=message):
        smooth.attribute(points(), target=0, **arguments)
    with pytest.raises(ValueError, match=message):
        attr.differentiable(smooth)(points(), target=0, **arguments)


@pytest.mark.parametrize(
    "arguments", [{"radius": "0.1"}, {"n_samples": 2.5}, {"internal_batch_size": "all"}]
)
def test_bad_kinds_are_named(arguments):
    with pytest.raises(TypeError, match=next(iter(arguments))):
        attr.KernelSmoothing(Saliency(network())).attribute(points(), target=0, **arguments)


def test_integers_take_no_noise():
    smooth = attr.KernelSmoothing(Occlusion(lambda x: x.sum(1)))
    for dtype in (torch.long, torch.bool):
        with pytest.raises(ValueError, match="inputs must be floating-point"):
            smooth.attribute(torch.ones(2, 3).to(dtype), sliding_window_shapes=(1,))
