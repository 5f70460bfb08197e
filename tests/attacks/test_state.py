"""Nothing is left behind, whatever happens while an attack runs."""

from __future__ import annotations

import random

import pytest
import torch
from captum.attr import InputXGradient, IntegratedGradients
from torch import nn

from captum_robust.attacks import (
    Dombrowski,
    GhorbaniMassCenter,
    GhorbaniTarget,
    GhorbaniTopK,
    RandomSign,
)
from tests.attacks.networks import MAP, REGION, draw_weights
from tests.helpers import rng

pytestmark = [
    pytest.mark.filterwarnings("ignore:The attack failed for"),
    pytest.mark.filterwarnings("ignore:model is in training mode"),
]


ATTACKS = {
    "RandomSign": (lambda m, **kw: RandomSign(m, eps=0.1, steps=3, **kw), ()),
    "GhorbaniTopK": (lambda m, **kw: GhorbaniTopK(m, None, 0.1, 0.05, 3, k=9, **kw), ()),
    "InputXGradient": (
        lambda m, **kw: GhorbaniTopK(m, InputXGradient(m), 0.1, 0.05, 3, k=9, **kw),
        (),
    ),
    "IntegratedGradients": (
        lambda m, **kw: GhorbaniMassCenter(
            m, IntegratedGradients(m), 0.1, 0.05, 3, explanation_kwargs={"n_steps": 3}, **kw
        ),
        (),
    ),
    "GhorbaniTarget": (
        lambda m, **kw: GhorbaniTarget(m, None, 0.1, 0.05, 3, region=REGION, **kw),
        (),
    ),
    "Dombrowski": (lambda m, **kw: Dombrowski(m, steps=3, **kw), (MAP,)),
}
EACH_ATTACK = pytest.mark.parametrize("name", ATTACKS)


class Restless(nn.Module):
    """Has all that a call could change: mixed training flags, buffers, frozen parameters."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.frozen_norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(0.5)
        self.dense = nn.Linear(256, 4)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("written", torch.zeros(2))
        self.register_buffer("absent", None)
        self.fails_at = None
        self.seen = 0
        self.flags_while_running = []
        draw_weights(self.double(), seed=3)
        self.frozen_norm.running_mean.add_(0.1)
        self.conv.bias.requires_grad_(False)
        for parameter in self.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.ones_like(parameter)
        self.train()
        self.frozen_norm.eval()
        self.relu.eval()
        self.seen = 0

    def forward(self, x):
        self.flags_while_running.append({n: m.training for n, m in self.named_modules()})
        self.seen += 1
        self.calls = self.calls + 1  # another tensor in the place of the buffer
        self.written.add_(1)
        self.absent = torch.ones(1)
        if self.seen == self.fails_at:
            raise OSError("the model broke")
        hidden = self.dropout(self.relu(self.frozen_norm(self.conv(x))))
        return self.dense(hidden.flatten(1))


@pytest.fixture
def model():
    return Restless()


def state_of(model, attack, images):
    """All that must not change, in a form that == compares."""
    values = {name: value.tolist() for name, value in model.state_dict().items()}
    grads = {
        name: None if p.grad is None else (id(p.grad), p.grad.tolist())
        for name, p in model.named_parameters()
    }
    hooks = {
        name: [len(v) for key, v in vars(m).items() if key.endswith("hooks")]
        for name, m in model.named_modules()
    }
    return {
        "values": values,
        "grads": grads,
        "hooks": hooks,
        "identities": {n: id(t) for n, t in model.state_dict(keep_vars=True).items()},
        "absent": model.absent,
        "training": {name: m.training for name, m in model.named_modules()},
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "images": (images.tolist(), images.requires_grad, images.grad, images.grad_fn),
        "attack": (attack._normalization_applied, attack.eps, attack.alpha),
        "rng": torch.get_rng_state().tolist(),
        "random": random.getstate(),
        "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "modules": {name: id(m) for name, m in model.named_modules()},
    }


@EACH_ATTACK
@pytest.mark.parametrize("normalised", [False, True])
def test_state_after_success_and_after_every_possible_failure(name, normalised, model, make_images):
    constructor, further = ATTACKS[name]
    images = make_images(2)
    attack = constructor(model)
    if normalised:
        attack.set_normalization_used([0.5], [0.5])
        images = (images - 0.5) / 0.5
    images.requires_grad_()
    before = state_of(model, attack, images)
    attack(images, None, *further)
    assert state_of(model, attack, images) == before
    n_calls = model.seen
    assert n_calls >= 5
    for model.fails_at in range(1, n_calls + 1):
        model.seen = 0
        with pytest.raises(OSError, match="the model broke"):
            attack(images, None, *further)
        assert state_of(model, attack, images) == before, model.fails_at
    model.fails_at, model.seen = None, 0
    attack(images, None, *further)


@EACH_ATTACK
def test_state_when_the_backward_pass_fails(name, model, make_images):
    constructor, further = ATTACKS[name]
    images = make_images(2).requires_grad_()
    attack = constructor(model)

    def broken_backward(module, inputs, output):
        def fail(gradient):
            raise OSError("the gradient broke")

        if output.requires_grad:
            output.register_hook(fail)

    model.conv.register_forward_hook(broken_backward)
    before = state_of(model, attack, images)
    with pytest.raises(OSError, match="the gradient broke"):
        attack(images, None, *further)
    assert state_of(model, attack, images) == before


def test_arguments_are_refused_before_anything_changes(model, make_images):
    images = make_images(2)
    attack = GhorbaniTopK(model, steps=2, k=9)
    before = state_of(model, attack, images)
    for labels in (torch.tensor([9, 9]), torch.tensor([0])):
        with pytest.raises(ValueError, match="labels"):
            attack(images, labels)
        assert state_of(model, attack, images) == before
    other_eps = state_of(model, attack, images)
    attack(images, eps=0.2)
    assert state_of(model, attack, images) == other_eps


@EACH_ATTACK
def test_the_model_runs_in_evaluation_mode(name, model, make_images):
    """Dropout is off and the result is that of a model in evaluation mode."""
    constructor, further = ATTACKS[name]
    images = make_images(2)
    in_training = constructor(model, generator=rng(0))(images, None, *further)
    assert not any(flag for flags in model.flags_while_running for flag in flags.values())
    assert model.training
    assert not model.frozen_norm.training
    in_evaluation = constructor(model.eval(), generator=rng(0))(images, None, *further)
    assert torch.equal(in_training, in_evaluation)
    assert not model.training


@pytest.mark.filterwarnings("ignore:the model is in training mode")
def test_set_model_training_mode_is_honoured_and_undone(model, make_images):
    model.eval()
    attack = GhorbaniTopK(model, steps=2, k=9)
    attack.set_model_training_mode(model_training=True, dropout_training=True)
    attack(make_images(2))
    while_running = model.flags_while_running[-1]
    assert while_running[""]
    assert while_running["dropout"]
    assert not while_running["frozen_norm"]
    assert not any(m.training for m in model.modules())


@EACH_ATTACK
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_runs_where_gradients_are_off(name, mode, model, make_images):
    constructor, further = ATTACKS[name]
    images = make_images(2)
    labels = torch.tensor([1, 2])
    expected = constructor(model, generator=rng(0))(images, labels, *further)
    attack = constructor(model, generator=rng(0))
    with mode():
        # Made in the block: in inference mode autograd refuses them.
        inside = [x.clone() for x in (images, labels, *further)]
        result = attack(inside[0], inside[1], *inside[2:])
        assert torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
        assert not torch.is_grad_enabled()
    assert torch.equal(result, expected)
    result = constructor(model, generator=rng(0))(inside[0], inside[1], *inside[2:])
    assert torch.equal(result, expected)


def test_a_region_made_in_inference_mode(model, make_images):
    with torch.inference_mode():
        attack = GhorbaniTarget(model, steps=2, region=REGION.clone())
        attack(make_images(2))


def test_another_eps_does_not_stick(make_network, make_images):
    attack = GhorbaniTopK(make_network(), eps=0.02, alpha=0.01, steps=2, k=9)
    images = make_images()
    wide = attack(images, eps=0.2)
    assert (wide - images).abs().max() > 0.15
    assert (attack.eps, attack.alpha) == (0.02, 0.01)
    assert torch.equal(attack(images, eps=0.2), wide)
    scaled = GhorbaniTopK(attack.model, eps=0.2, alpha=0.1, steps=2, k=9)
    assert torch.equal(scaled(images), wide)
    learning_rate = 0.01
    slow = Dombrowski(attack.model, alpha=learning_rate, steps=3)
    bounded = Dombrowski(attack.model, eps=0.2, alpha=learning_rate, steps=3)
    assert torch.equal(slow(images, None, MAP, eps=0.2), bounded(images, None, MAP))
