"""What the metrics of a neighbourhood share: who explains, which points, contracts, errors."""

from __future__ import annotations

import warnings
from functools import partial

import pytest
import torch
from captum.attr import Saliency
from torch import nn

from captum_robust.attacks import GhorbaniTopK, RandomSign
from captum_robust.attr import KernelSmoothing
from captum_robust.metrics import (
    explanation_stability,
    sensitivity_gradient,
    sensitivity_lipschitz,
    sensitivity_max,
)
from tests.metrics.helpers import RADIUS, Network, points, quiet, rng, shifted

METRICS = {
    "max": sensitivity_max,
    "raw": partial(sensitivity_max, normalize=False),
    "lipschitz": sensitivity_lipschitz,
    "gradient": sensitivity_gradient,
    "stability": explanation_stability,
}
EVERY = pytest.mark.parametrize("name", METRICS)
WITH_POINTS = pytest.mark.parametrize("name", [n for n in METRICS if n != "gradient"])


# --- Every way to say what explains, and where the points come from.


@WITH_POINTS
def test_an_attribution_its_method_and_a_partial_are_one_and_leave_no_warning(name):
    method, x = Saliency(Network()), points()
    run = partial(METRICS[name], inputs=x, perturb_func=shifted, perturb_radius=RADIUS)
    want = run(lambda x: quiet(method)(x, target=1, abs=False))
    for explain in (method, method.attribute, partial(method.attribute, abs=False)):
        got = run(explain, target=1, **({} if isinstance(explain, partial) else {"abs": False}))
        assert torch.equal(got, want)
    assert not x.requires_grad


@WITH_POINTS
def test_perturb_func_with_and_without_the_radius_and_in_place(name):
    def in_place(x):
        return x.add_(RADIUS)

    x = points()
    kept = x.clone()
    run = partial(METRICS[name], lambda x: x**3, x, n_perturb_samples=1, perturb_radius=RADIUS)
    want = run(perturb_func=lambda x, radius: x + radius)
    torch.testing.assert_close(run(perturb_func=lambda x: x + RADIUS), want)
    torch.testing.assert_close(run(perturb_func=lambda x: (x + RADIUS,)), want)
    torch.testing.assert_close(run(perturb_func=in_place), want)
    assert torch.equal(x, kept)
    assert (run(perturb_func=torch.clone) < 1e-14).all()


class ImageNetwork(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


@pytest.mark.filterwarnings("ignore:The attack failed")  # an image that it leaves as it is
@WITH_POINTS
def test_the_points_of_an_attack(name):
    network = ImageNetwork().eval()
    images = torch.rand(4, 1, 6, 6, generator=rng())
    labels = network(images).argmax(1)
    attack = GhorbaniTopK(network, alpha=0.02, steps=5, k=5, beta=5.0)
    run = partial(METRICS[name], Saliency(network), images, target=labels, perturb_radius=0.1)
    found = attack(images, labels, eps=0.1)
    got = run(attack.perturb_func(labels), n_perturb_samples=1)
    torch.testing.assert_close(got, run(lambda x: found, n_perturb_samples=1))
    assert (got > 0).any()
    two = [
        run(RandomSign(network, generator=rng()).perturb_func(labels), n_perturb_samples=3,
            max_examples_per_batch=batch) for batch in (None, 4)
    ]  # fmt: skip
    torch.testing.assert_close(*two)


@WITH_POINTS
def test_the_default_points_fill_the_ball_and_leave_the_inputs(name):
    seen = []

    def explain(x):
        seen.append(x.clone())
        return x**2

    x = points(2)
    METRICS[name](explain, x, None, RADIUS, 400)
    clean, around = seen[0], torch.cat([s.unflatten(0, (2, -1)) for s in seen[1:]], 1)
    assert torch.equal(clean, x)
    moved = around - x.unsqueeze(1)
    assert moved.shape == (2, 400, 4)
    assert moved.abs().max() <= RADIUS
    assert (moved.amax((0, 1)) > 0.95 * RADIUS).all()
    assert (moved.amin((0, 1)) < -0.95 * RADIUS).all()
    assert moved.mean().abs() < 0.1 * RADIUS


# --- Contracts.


@EVERY
@pytest.mark.parametrize("batch", [1, 3, 5, 6, 100])
def test_no_result_depends_on_the_batches(name, batch):
    run = partial(METRICS[name], Saliency(Network()), points(), target=torch.tensor([0, 2, 1]),
                  perturb_radius=RADIUS, n_perturb_samples=5)  # fmt: skip
    got = run(generator=rng(), max_examples_per_batch=batch)
    torch.testing.assert_close(got, run(generator=rng()), rtol=1e-5, atol=0.0)
    assert not torch.allclose(got, run(generator=rng(1)))


@WITH_POINTS
def test_no_noise_is_taken_for_a_change(name):
    """The explanation of a quadratic is linear, so its noise is the same at every point."""
    method, x = KernelSmoothing(Saliency(lambda x: (x**2).sum(1))), points(3).abs() + 3
    run = partial(METRICS[name], method, x, perturb_radius=0.1, n_samples=2, radius=1.0, abs=False)
    got = run(generator=rng())
    plain = METRICS[name](Saliency(lambda x: (x**2).sum(1)), x, perturb_radius=0.1, generator=rng())
    assert got.max() < 3 * plain.max()
    for batch in (1, 7, 30):
        torch.testing.assert_close(run(generator=rng(), max_examples_per_batch=batch), got)
    if name == "lipschitz":
        torch.testing.assert_close(got, torch.full_like(got, 2.0))
    assert not torch.equal(run(), run())


@EVERY
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_precision(name, dtype):
    run = partial(METRICS[name], perturb_radius=RADIUS, generator=rng(), target=1)
    got = run(Saliency(Network(dtype)), points(dtype=dtype), generator=rng(), **(
        {"tolerance": 0.1} if name == "gradient" and dtype.itemsize == 2 else {}
    ))  # fmt: skip
    assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert got.shape == (3,)
    if dtype != torch.float64:  # the draws differ
        exact = run(Saliency(Network()), points(), generator=rng(), n_perturb_samples=10)
        torch.testing.assert_close(got.double(), exact, rtol=0.6, atol=0.0)


@EVERY
def test_arguments_with_a_graph_of_their_own(name):
    scale = torch.ones(3, 1, requires_grad=True, dtype=torch.float64) * 2
    run = partial(METRICS[name], Saliency(Network()), points(), perturb_radius=RADIUS, target=1)
    got = run(additional_forward_args=(None, scale), generator=rng())
    assert not got.requires_grad
    plain = run(additional_forward_args=(None, 2.0), generator=rng())
    torch.testing.assert_close(got, plain)


@EVERY
def test_inputs_with_a_graph_and_requires_grad_stay(name):
    leaf = points().requires_grad_()
    for x in (leaf, 2 * leaf):
        METRICS[name](Saliency(Network()), x, target=1, generator=rng())
        assert x.requires_grad
    assert leaf.grad is None


@EVERY
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_behind(name, training, fails):
    network = Network()
    network.train(training)
    network.first.weight.grad = torch.ones_like(network.first.weight)
    network.norm.eval()
    network.second.weight.requires_grad_(False)
    calls, forward = [], network.forward

    def failing(*args):
        calls.append(1)
        if fails and len(calls) > 1:
            raise RuntimeError("from the model")
        return forward(*args)

    network.forward = failing
    before = {k: v.clone() for k, v in network.state_dict().items()}
    flags = [m.training for m in network.modules()]
    state, x, target = torch.get_rng_state(), points(), torch.tensor([0, 2, 1])
    arguments = {"target": target, "additional_forward_args": (None, 1.0)}
    run = partial(METRICS[name], Saliency(network), x, **arguments)
    if fails:
        with pytest.raises(RuntimeError, match="from the model"):
            run()
    else:
        run()
    assert len(calls) > 1
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert [m.training for m in network.modules()] == flags
    assert torch.equal(network.first.weight.grad, torch.ones_like(network.first.weight))
    assert network.second.weight.grad is None
    assert not network.second.weight.requires_grad
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    assert not x.requires_grad
    assert arguments["target"] is target


@EVERY
def test_statistics_of_a_network_in_training_mode_stay(name):
    network = Network().train()
    before = network.norm.running_mean.clone()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rows that interact need not converge
        METRICS[name](Saliency(network), points(8), target=1, generator=rng())
    assert torch.equal(network.norm.running_mean, before)


@EVERY
def test_a_bar_on_request(name, capsys):
    run = partial(METRICS[name], Saliency(Network()), points(), target=1)
    run()
    assert capsys.readouterr().err == ""
    run(show_progress=True)
    assert "100%" in capsys.readouterr().err


# --- Errors.


BAD_INPUTS = {
    "empty": (torch.empty(0, 4), ValueError, "inputs is empty"),
    "scalar": (torch.tensor(1.0), ValueError, "batch dimension"),
    "nan": (torch.tensor([[float("nan")] * 4]), ValueError, "NaN or Inf"),
    "inf": (torch.tensor([[float("inf")] * 4]), ValueError, "NaN or Inf"),
    "unequal": ((torch.ones(2, 4), torch.ones(3, 4)), ValueError, "same examples"),
    "list": ([torch.ones(2, 4)], TypeError, "inputs must be"),
    "integers": (torch.ones(2, 4, dtype=torch.long), ValueError, "floating-point"),
}
BAD_ARGUMENTS = {
    "radius -1": ({"perturb_radius": -1.0}, ValueError, "perturb_radius"),
    "radius nan": ({"perturb_radius": float("nan")}, ValueError, "perturb_radius"),
    "radius text": ({"perturb_radius": "0.1"}, TypeError, "perturb_radius"),
    "samples 0": ({"n_perturb_samples": 0}, ValueError, "n_perturb_samples"),
    "samples 1.5": ({"n_perturb_samples": 1.5}, TypeError, "n_perturb_samples"),
    "batch 0": ({"max_examples_per_batch": 0}, ValueError, "max_examples_per_batch"),
    "generator": ({"generator": 3}, TypeError, "generator"),
    "delta": ({"return_convergence_delta": True}, ValueError, "return_convergence_delta"),
}
# Of metrics that look at points of a ball.
BAD_FOR_POINTS = {
    "radius 0": ({"perturb_radius": 0}, ValueError, "perturb_radius"),
    "perturb_func": ({"perturb_func": 3}, TypeError, "perturb_func"),
    "shape": ({"perturb_func": lambda x: x[:-1]}, ValueError, "perturb_func must return"),
    "kind": ({"perturb_func": lambda x: None}, ValueError, "perturb_func must return"),
    "two": ({"perturb_func": lambda x: (x, x)}, ValueError, "perturb_func must return"),
    "nan": ({"perturb_func": lambda x: x * float("nan")}, ValueError, "perturb_func returned NaN"),
}


@EVERY
@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_inputs(name, case):
    inputs, error, message = BAD_INPUTS[case]
    with pytest.raises(error, match=message):
        METRICS[name](Saliency(Network(torch.float32)), inputs, target=1)


@pytest.mark.parametrize(
    ("name", "case"),
    [
        (name, case)
        for name in METRICS
        for case in (BAD_ARGUMENTS if name == "gradient" else BAD_ARGUMENTS | BAD_FOR_POINTS)
    ],
)
def test_bad_arguments(name, case):
    arguments, error, message = (BAD_ARGUMENTS | BAD_FOR_POINTS)[case]
    with pytest.raises(error, match=message):
        METRICS[name](Saliency(Network()), points(), target=1, **arguments)


@WITH_POINTS
@pytest.mark.parametrize(
    ("explain", "error", "message"),
    [
        (3, TypeError, "explanation_func must be"),
        (lambda x: None, TypeError, "explanation_func must return"),
        (lambda x: (), TypeError, "explanation_func must return"),
        (lambda x: x > 0, TypeError, "torch.bool"),
        (lambda x: x.sum(), ValueError, "one explanation for each of its 3"),
        (lambda x: x[:1], ValueError, "one explanation for each of its 3"),
        (lambda x: x[:, :0], ValueError, "one explanation for each of its 3"),
        (lambda x: x / 0, ValueError, "explanation_func returned NaN or Inf"),
    ],
)
def test_bad_explanations(name, explain, error, message):
    with pytest.raises(error, match=message):
        METRICS[name](explain, points())
