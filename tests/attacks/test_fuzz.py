"""Random cases: nothing that an attack hands out leaves its ball, its bounds or its prediction.

Five hundred by default, ten thousand with ``--run-slow``; a failing case is named by its seed.
"""

from __future__ import annotations

import random
import warnings

import pytest
import torch
from torch import nn

from captum_robust.attacks import (
    L2,
    AutoExplanationAttack,
    BlackBoxExplanationAttack,
    Dombrowski,
    GhorbaniMassCenter,
    GhorbaniTopK,
    LInf,
    RandomSign,
    TopKIntersection,
)
from captum_robust.outputs import Binary, Categorical, MultiLabel, Regression

CASES_A_TEST = 50


class Case:
    """A model, inputs and an attack, all drawn from a seed."""

    def __init__(self, seed):
        self.draw = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        pick = self.draw.choice
        self.dtype = pick([torch.float64, torch.float32, torch.float32, torch.bfloat16])
        self.shape = pick([(6,), (3, 5), (1, 5, 5), (2, 4, 4), (1, 3, 3, 3)])
        self.output = pick([Categorical(), Binary(), MultiLabel(), Regression(0.05)])
        self.input_range = pick([(0.0, 1.0), (-2.0, 3.0), None, "tensors"])
        self.x = self.inputs()
        self.ball = pick([LInf(), LInf(), L2()])
        self.eps = self.radius()
        self.model = self.network()

    def rand(self, *shape):
        return torch.rand(*shape, generator=self.generator, dtype=torch.float64)

    def inputs(self):
        x = self.rand(2, *self.shape)
        if self.input_range == (0.0, 1.0):
            x[self.rand(*x.shape) < 0.2] = 0
            x[self.rand(*x.shape) < 0.1] = 1
            return x.to(self.dtype)
        x = (5 * x - 2).clamp(-1.99, 2.99).to(self.dtype)
        if self.input_range == "tensors":
            self.input_range = (x.double().amin(0) - 0.1, x.double().amax(0) + 0.05)
        return x

    def radius(self):
        if isinstance(self.ball, L2):
            return self.draw.uniform(0.05, 1.5)
        if self.draw.random() < 0.4:
            eps = 0.3 * self.rand(*self.shape)
            eps[self.rand(*self.shape) < 0.3] = 0
            return eps if bool((eps > 0).any()) else 0.1
        return self.draw.choice([1e-3, 8 / 255, 0.1, 0.5])

    def network(self):
        size = self.x[0].numel()
        columns = 1 if isinstance(self.output, (Binary, Regression)) else 3
        hidden = self.draw.choice([nn.ReLU(), nn.LeakyReLU(0.2), nn.GELU(), nn.Hardtanh()])
        model = nn.Sequential(nn.Flatten(), nn.Linear(size, 8), hidden, nn.Linear(8, columns))
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(torch.randn(p.shape, generator=self.generator) / 2)
        return model.to(self.dtype)

    def attack(self):
        settings = {
            "output": self.output,
            "input_range": self.input_range,
            "ball": self.ball,
            "generator": self.generator,
            "channel_dim": 1 if len(self.shape) == 2 else None,
            "eps_output": self.draw.choice([None, None, 0.05]),
        }
        k = self.draw.randint(1, 2)
        step = self.eps / 3
        name = self.draw.choice(["top", "center", "random", "map", "auto", "ask"])
        if name == "top":
            return GhorbaniTopK(self.model, None, self.eps, step, 2, k=k, restarts=2, **settings)
        if name == "center":
            return GhorbaniMassCenter(self.model, None, self.eps, step, 2, **settings)
        if name == "random":
            return RandomSign(self.model, None, self.eps, 2, **settings)
        if name == "map":
            return Dombrowski(self.model, None, self.eps, 0.05, 2, **settings)
        measure = TopKIntersection(k)
        if name == "auto":
            return AutoExplanationAttack(
                self.model, None, self.eps, measure=measure, budget=4, **settings
            )
        return BlackBoxExplanationAttack(self.model, None, self.eps, 4, measure=measure, **settings)

    def check(self):
        attack = self.attack()
        further = (torch.ones(attack_map_shape(self.shape)),)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # failed attacks are part of the game
            found = attack(self.x, None, *(further if isinstance(attack, Dombrowski) else ()))
        change = (found.double() - self.x.double()).flatten(1)
        if isinstance(self.ball, L2):
            assert (change.norm(dim=1) <= self.eps).all()
        else:
            eps = torch.as_tensor(self.eps, dtype=torch.float64).expand(self.shape)
            assert (change.abs() <= eps.reshape(1, -1)).all()
        low, high = self.input_range or (-torch.inf, torch.inf)
        assert (found.double() >= low).all()
        assert (found.double() <= high).all()
        assert found.dtype == self.dtype
        with torch.no_grad():
            clean, new = self.model(self.x), self.model(found)
        assert self.output.same(clean, new).all()
        assert attack.report.kept_prediction.all()
        return bool((found != self.x).any())


def attack_map_shape(shape):
    return shape if len(shape) == 1 else shape[1:]


def moves(seed):
    """Whether the case was manipulated; an error names its seed."""
    try:
        return Case(seed).check()
    except Exception as error:
        raise AssertionError(f"case {seed}: {type(error).__name__}: {error}") from error


def run(first, count):
    moved = sum(moves(seed) for seed in range(first, first + count))
    assert moved > count / 6  # else the cases show little


@pytest.mark.parametrize("part", range(10))
def test_random_cases(part):
    run(CASES_A_TEST * part, CASES_A_TEST)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(20))
def test_many_random_cases(part):
    run(1000 + 500 * part, 500)
