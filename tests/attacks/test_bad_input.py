"""What is refused, by which error, with the argument named; and the defined odd cases."""

from __future__ import annotations

import pytest
import torch
from captum.attr import IntegratedGradients, NoiseTunnel, Saliency
from torch import nn

from captum_robust import attacks
from tests.helpers import rng

pytestmark = pytest.mark.filterwarnings("ignore:The attack failed for")

NAN, INF = float("nan"), float("inf")
PIXELS = 64
MAP = torch.ones(8, 8)


@pytest.fixture(scope="module")
def model(make_network):
    return make_network()


@pytest.fixture(scope="module")
def images(make_images):
    return make_images()


MAKERS = {
    "RandomSign": lambda m, e=None, **kw: attacks.RandomSign(m, e, **{"steps": 2, **kw}),
    "GhorbaniTopK": lambda m, e=None, **kw: attacks.GhorbaniTopK(
        m, e, **{"steps": 2, "k": 9, **kw}
    ),
    "GhorbaniMassCenter": lambda m, e=None, **kw: attacks.GhorbaniMassCenter(
        m, e, **{"steps": 2, **kw}
    ),
    "GhorbaniTarget": lambda m, e=None, **kw: attacks.GhorbaniTarget(
        m, e, **{"steps": 2, "region": MAP.bool(), **kw}
    ),
    "Dombrowski": lambda m, e=None, **kw: attacks.Dombrowski(m, e, **{"steps": 2, **kw}),
}
EACH_ATTACK = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def call(attack, images, labels=None, **kwargs):
    further = (MAP,) if isinstance(attack, attacks.Dombrowski) else ()
    return attack(images, labels, *further, **kwargs)


@EACH_ATTACK
@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("eps", 0, ValueError),
        ("eps", -0.1, ValueError),
        ("eps", NAN, ValueError),
        ("eps", INF, ValueError),
        ("eps", "8/255", TypeError),
        ("steps", 0, ValueError),
        ("steps", -3, ValueError),
        ("steps", 2.5, TypeError),
        ("steps", "3", TypeError),
        ("restarts", 0, ValueError),
        ("restarts", 1.0, TypeError),
        ("beta", 0, ValueError),
        ("beta", -1.0, ValueError),
        ("beta", NAN, ValueError),
        ("beta", "sharp", TypeError),
        ("eps_output", 0, ValueError),
        ("eps_output", -1, ValueError),
        ("ball", "linf", TypeError),
        ("ball", attacks.L2, TypeError),
        ("generator", 0, TypeError),
    ],
)
def test_parameters_are_refused_at_construction(make, name, value, error, model):
    with pytest.raises(error, match=rf"^{name} must be"):
        make(model, **{name: value})


@pytest.mark.parametrize("name", [n for n in MAKERS if n != "RandomSign"])
@pytest.mark.parametrize("alpha", [0, -1e-3, NAN, INF])
def test_alpha_is_refused(name, alpha, model):
    with pytest.raises(ValueError, match=r"^alpha must be"):
        MAKERS[name](model, alpha=alpha)


@EACH_ATTACK
def test_explanations_are_refused_at_construction(make, model):
    if make is not MAKERS["RandomSign"]:  # which asks for no gradient
        with pytest.raises(TypeError, match=r"NoiseTunnel.*KernelSmoothing"):
            make(model, NoiseTunnel(Saliency(model)))
    for nothing in (0.03, Saliency, model, "gradient"):
        with pytest.raises(TypeError, match=r"^explanation must be"):
            make(model, nothing)
    for reserved in ({"target": 1}, {"return_convergence_delta": True}):
        with pytest.raises(ValueError, match=f"^explanation_kwargs .*{next(iter(reserved))}"):
            make(model, IntegratedGradients(model), explanation_kwargs=reserved)


@EACH_ATTACK
@pytest.mark.parametrize("nothing", [None, "resnet18", 3, nn.ReLU])
def test_models_are_refused(make, nothing):
    with pytest.raises(TypeError, match=r"^model must be"):
        make(nothing)


@EACH_ATTACK
def test_the_eps_of_a_call_is_refused(make, model, images):
    for eps in (0, -1, NAN, INF):
        with pytest.raises(ValueError, match=r"^eps must be"):
            call(make(model), images, eps=eps)


@EACH_ATTACK
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x: x + 1e-6, r"images must be in \[0, 1\]"),
        (lambda x: x - 1e-6, r"images must be in \[0, 1\].*set_normalization_used"),
        (lambda x: x * 255, r"images must be in \[0, 1\]"),
        (lambda x: torch.where(x > 0.9, NAN, x), "images has NaN"),
        (lambda x: torch.where(x > 0.9, INF, x), "images must be in"),
        (lambda x: torch.where(x > 0.9, -INF, x), "images must be in"),
        (lambda x: x[:0], "images is empty"),
        (lambda x: (x * 255).long(), "images must be a floating-point"),
        (lambda x: x > 0.5, "images must be a floating-point"),
        (lambda x: x.tolist(), "images must be a floating-point"),
        (lambda x: x.numpy(), "images must be a floating-point"),
        (lambda x: None, "images must be a floating-point"),
        (lambda x: x[0, 0, 0], "images must have (a batch|shape)"),
        (lambda x: x.sum(), "images must have (a batch|shape)"),
    ],
)
@pytest.mark.parametrize("normalised", [False, True])
def test_images_are_refused(make, spoil, message, normalised, model, images):
    attack = make(model)
    if normalised:
        attack.set_normalization_used([0.0], [1.0])
        if message.startswith(r"images must be in \[0, 1\]"):
            spoil = {True: lambda x: x - 0.1, False: lambda x: x + 0.1}[message.endswith("used")]
    with pytest.raises(ValueError, match=message):
        call(attack, spoil(images))


@EACH_ATTACK
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 2], "labels must be a tensor of integer classes"),
        (1, "labels must be a tensor of integer classes"),
        (torch.zeros(3), "labels must be a tensor of integer classes"),
        (torch.ones(3, dtype=torch.bool), "labels must be a tensor of integer classes"),
        (torch.zeros(2, dtype=torch.long), r"labels must have shape \(3,\)"),
        (torch.zeros(3, 1, dtype=torch.long), r"labels must have shape \(3,\)"),
        (torch.tensor(1), r"labels must have shape \(3,\)"),
        (torch.tensor([0, 1, 4]), "labels must be classes of the model, 0 to 3, got 0 to 4"),
        (torch.tensor([0, -1, 3]), "labels must be classes of the model, 0 to 3, got -1 to 3"),
    ],
)
def test_labels_are_refused(make, labels, message, model, images):
    with pytest.raises(ValueError, match=message):
        call(make(model), images, labels)


@pytest.mark.parametrize(("k", "error"), [(0, ValueError), (-1, ValueError), (2.5, TypeError)])
def test_k_is_refused_at_construction(k, error, model):
    with pytest.raises(error, match=r"^k must be"):
        attacks.GhorbaniTopK(model, k=k)


def test_k_is_at_most_the_number_of_pixels(model, images):
    with pytest.raises(ValueError, match=f"k must be at most the number of pixels, {PIXELS}"):
        attacks.GhorbaniTopK(model, steps=1, k=PIXELS + 1)(images)
    with pytest.warns(UserWarning, match="does not show robustness"):
        everything = attacks.GhorbaniTopK(model, steps=1, k=PIXELS)(images)
    assert torch.equal(everything, images)  # all the relevance lies on all pixels, always


@pytest.mark.parametrize(
    ("region", "message"),
    [
        (None, "region must be a boolean tensor"),
        ([[True]], "region must be a boolean tensor"),
        (torch.ones(8, 8), "region must be a boolean tensor"),
        (torch.zeros(8, 8, dtype=torch.bool), "region marks no pixel"),
        (torch.zeros(0, dtype=torch.bool), "region marks no pixel"),
    ],
)
def test_region_is_refused_at_construction(region, message, model):
    with pytest.raises(ValueError, match=message):
        attacks.GhorbaniTarget(model, region=region)


@pytest.mark.parametrize("shape", [(), (8,), (8, 7), (1, 8, 8), (2, 8, 8), (3, 1, 8, 8)])
def test_region_of_another_shape_than_the_maps(shape, model, images):
    attack = attacks.GhorbaniTarget(model, steps=1, region=torch.ones(shape, dtype=torch.bool))
    with pytest.raises(ValueError, match="region must have shape"):
        attack(images)


def test_region_that_is_empty_for_one_image(model, images):
    region = torch.ones(3, 8, 8, dtype=torch.bool)
    region[1] = False
    with pytest.raises(ValueError, match="region marks no pixel for one"):
        attacks.GhorbaniTarget(model, steps=1, region=region)(images)


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (None, "target_maps is missing"),
        ([[1.0]], "target_maps must be a tensor"),
        (torch.ones(8, 7), "target_maps must have shape"),
        (torch.ones(8), "target_maps must have shape"),
        (torch.ones(1, 8, 8), "target_maps must have shape"),
        (torch.ones(3, 1, 8, 8), "target_maps must have shape"),
        (-MAP, "target_maps must be finite and non-negative"),
        (MAP * NAN, "target_maps must be finite"),
        (MAP * INF, "target_maps must be finite"),
        (MAP * 0, "target_maps has a map without relevance"),
        (torch.stack([MAP, MAP * 0, MAP]), "target_maps has a map without relevance"),
    ],
)
def test_target_maps_are_refused(maps, message, model, images):
    with pytest.raises(ValueError, match=message):
        attacks.Dombrowski(model, steps=1)(images, None, maps)


def test_other_parameters_of_single_attacks(model):
    for gamma in (-1.0, NAN, INF):
        with pytest.raises(ValueError, match=r"^gamma must be"):
            attacks.Dombrowski(model, gamma=gamma)
    for bounds, name in (((0, 1), "start"), ((1, INF), "end"), ((NAN, 1), "start")):
        with pytest.raises(ValueError, match=f"^{name} must be"):
            attacks.GeometricGrowth(*bounds)


@EACH_ATTACK
def test_a_growing_beta_is_checked_where_it_is_used(make, model, images):
    if make is MAKERS["RandomSign"]:
        pytest.skip("has no surrogate")
    with pytest.raises(ValueError, match="beta must be positive"):
        call(make(model, beta=lambda progress: -1.0), images)


class Wrapped(nn.Module):
    def __init__(self, model, change):
        super().__init__()
        self.model, self.change = model, change

    def forward(self, x):
        return self.change(self.model(x))


@EACH_ATTACK
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda y: y * NAN, "model returned NaN"),
        (lambda y: torch.where(torch.arange(4) == 2, NAN, y), "model returned NaN"),
        (lambda y: y[:, 0], r"output: the model gives one number per example.*Binary"),
        (lambda y: y[:, :, None], r"model must return logits of shape \(3, classes\)"),
        (lambda y: y[:1], r"model must return a row per example, 3 of them"),
    ],
)
@pytest.mark.parametrize("labels", [None, torch.tensor([0, 1, 2])])
def test_models_that_no_attack_can_work_on(make, change, message, labels, model, images):
    with pytest.raises(ValueError, match=message):
        call(make(Wrapped(model, change)), images, labels)


@EACH_ATTACK
def test_a_model_that_returns_no_tensor(make, model, images):
    with pytest.raises(TypeError, match="logits"):
        call(make(Wrapped(model, lambda y: {"scores": y})), images)


@EACH_ATTACK
def test_an_explanation_that_is_nan(make, model, images):
    """The logits are finite and their gradient is not: the square root of a magnitude at 0."""
    rooted = Wrapped(model, lambda y: (y * 0).abs().sqrt() + y.detach())
    with pytest.raises(ValueError, match=r"^explanation has NaN"):
        call(make(rooted), images)


@EACH_ATTACK
def test_an_explanation_that_is_zero(make, model, images):
    constant = Wrapped(model, lambda y: y * 0)
    with pytest.warns(UserWarning, match=r"^explanation is zero everywhere"):
        result = call(make(constant), images)
    assert torch.equal(result, images)


class Gate(nn.Module):
    """Two pixels, and a score that is flat where their sum is below 1."""

    def __init__(self, curve):
        super().__init__()
        self.curve = curve

    def forward(self, x):
        score = self.curve(torch.relu(x.sum(1) - 1) + 0 * x[:, 0])
        return torch.stack([score, -torch.ones_like(score)], dim=1)


@pytest.mark.parametrize("ball", [attacks.LInf(), attacks.L2()])
def test_an_explanation_that_vanishes_is_no_manipulation(ball):
    """Below the gate the map is zero, so none of it lies on the top pixel: not a better one."""
    gate, images = Gate(lambda s: s), torch.full((1, 2), 0.52)
    judge = attacks.GhorbaniTopK(gate, k=1).objective
    attack = attacks.RandomSign(
        gate, eps=0.1, steps=20, objective=judge, ball=ball, generator=rng(0)
    )
    assert torch.equal(attack(images), images)


def test_an_explanation_that_becomes_nan_is_left_alone_with_a_warning():
    """Below the gate the square root has no derivative."""
    gate = Gate(lambda s: s.sqrt())
    images = torch.tensor([[0.52, 0.52], [0.9, 0.9]])
    attack = attacks.RandomSign(gate, eps=0.1, steps=20, generator=rng(0))
    with pytest.warns(UserWarning, match=r"NaN for 1 of the images"):
        result = attack(images)
    assert result.isfinite().all()
    assert (result[0].sum() > 1) or torch.equal(result[0], images[0])
