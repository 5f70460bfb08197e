"""What explains, said in any way, and that its noise is the same at every point."""

from __future__ import annotations

import random
from functools import partial

import numpy as np
import pytest
import torch
from captum.attr import (
    GradientShap,
    KernelShap,
    Lime,
    NoiseTunnel,
    Saliency,
    ShapleyValueSampling,
)
from torch import nn

from captum_robust.attr import BetaSmoothing, KernelSmoothing
from captum_robust.metrics import (
    explanation_stability,
    parameter_randomization,
    sensitivity_gradient,
    sensitivity_lipschitz,
    sensitivity_max,
)
from captum_robust.metrics._explainer import Explainer, method_and_arguments
from tests.metrics.helpers import Network, points, rng


def test_the_attribution_behind_what_is_given():
    method = Saliency(Network())
    assert method_and_arguments(method) == (method, {})
    assert method_and_arguments(method.attribute) == (method, {})
    assert method_and_arguments(partial(method.attribute, abs=False)) == (method, {"abs": False})
    twice = partial(partial(method.attribute, abs=False), target=1)
    assert method_and_arguments(twice) == (method, {"abs": False, "target": 1})
    for other in (lambda x: x, partial(torch.add, torch.ones(1)), torch.relu, Saliency):
        assert method_and_arguments(other) == (None, {})


def noisy_function(x, target):
    return NoiseTunnel(Saliency(Network())).attribute(
        x.detach().requires_grad_(), target=target, nt_samples=4, stdevs=0.5
    )


def numpy_noise(x, target):
    return x + np.random.normal(size=x.shape) + random.random()  # noqa: NPY002


DRAWING = {
    "NoiseTunnel": (NoiseTunnel(Saliency(Network())), {"nt_samples": 4, "stdevs": 0.5}),
    "BetaSmoothing(NoiseTunnel)": (
        BetaSmoothing(NoiseTunnel(Saliency(Network()))), {"nt_samples": 4, "stdevs": 0.5}
    ),
    "GradientShap": (GradientShap(Network()), {"baselines": torch.zeros(3, 4).double()}),
    "ShapleyValueSampling": (ShapleyValueSampling(Network()), {"n_samples": 2}),
    "KernelShap": (KernelShap(Network().float()), {"n_samples": 8}),
    "Lime": (Lime(Network().float()), {"n_samples": 8}),
    "KernelSmoothing": (KernelSmoothing(Saliency(Network())), {"n_samples": 3, "radius": 0.5}),
    "a function": (noisy_function, {}),
    "a function with numpy": (numpy_noise, {}),
    "dropout": (Saliency(nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Dropout(), nn.Linear(9, 3))
                         .double().train()), {}),
}  # fmt: skip
SAMPLED = pytest.mark.parametrize(
    "metric", [sensitivity_max, sensitivity_lipschitz, explanation_stability]
)


@pytest.mark.filterwarnings("ignore")  # Captum's; results in training mode depend on the batch
@SAMPLED
@pytest.mark.parametrize("name", DRAWING)
def test_in_a_tiny_ball_nothing_moves(metric, name):
    explain, kwargs = DRAWING[name]
    x = points(dtype=torch.float32 if name in ("KernelShap", "Lime") else torch.float64)
    state = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    run = partial(metric, explain, x, target=1, perturb_radius=1e-7, n_perturb_samples=3, **kwargs)
    scale = 1e7 if metric is sensitivity_lipschitz else 1.0
    value = run(generator=rng())
    assert (value < 2e-3 * scale).all()
    assert torch.equal(run(generator=rng()), value)
    torch.testing.assert_close(run(generator=rng(), max_examples_per_batch=9), value)
    assert torch.equal(torch.get_rng_state(), state[0])
    assert np.array_equal(np.random.get_state()[1], state[1])  # noqa: NPY002
    assert random.getstate() == state[2]


def test_different_generators_draw_different_noise():
    explain, kwargs = DRAWING["NoiseTunnel"]
    found = []
    for seed in (0, 0, 1):
        explainer = Explainer(explain, {"target": 1, **kwargs}, rng(seed))
        found.append(explainer(points(), (points(),))[0])
    assert torch.equal(found[0], found[1])
    assert not torch.allclose(found[0], found[2])


def test_whether_noise_is_drawn_is_known_after_the_first_call():
    for function, draws in ((noisy_function, True), (lambda x, target: x, False)):
        explainer = Explainer(function, {"target": 1}, rng())
        explainer(points(), (points(),))
        assert explainer.draws == draws


@pytest.mark.filterwarnings("ignore:the model is in training mode")
def test_dropout_in_the_jacobian():
    model = nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Dropout(), nn.Linear(9, 3)).double()
    run = partial(sensitivity_gradient, Saliency(model.train()), points(), 0.1, 3, target=1,
                  tolerance=1e-6, n_iterations=2000)  # fmt: skip
    value = run(generator=rng())
    assert torch.equal(run(generator=rng()), value)
    torch.testing.assert_close(run(generator=rng(), max_examples_per_batch=9), value)


def test_the_noise_is_the_same_for_both_models():
    model = nn.Linear(4, 3, bias=False).double()
    method = NoiseTunnel(Saliency(lambda x: model(x) * 0 + x[:, :3] ** 2))
    result = parameter_randomization(
        method, points(), model, target=1, nt_samples=2, stdevs=0.5, generator=rng()
    )
    torch.testing.assert_close(result[""].signed, torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize(
    "metric",
    [sensitivity_max, sensitivity_lipschitz, explanation_stability, sensitivity_gradient],
)
def test_under_inference_mode(metric):
    run = partial(metric, Saliency(Network()), target=torch.tensor([0, 2, 1]), n_perturb_samples=2)
    want = run(points(), generator=rng())
    with torch.inference_mode():
        x = points()
        assert x.is_inference()
        torch.testing.assert_close(run(x, generator=rng()), want)
