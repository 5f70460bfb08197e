"""Numbers come from the generator that is given, and never from the global one."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from captum_robust._utils.randomness import (
    fresh_generator,
    random_sign,
    seed_from,
    seeded_global_state,
    standard_normal,
    standard_uniform,
)
from tests.helpers import rng

DRAWS = [standard_normal, standard_uniform, random_sign]
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def test_a_generator_that_is_given_is_the_one_that_is_used():
    generator = rng(3)
    assert fresh_generator(generator) is generator
    assert fresh_generator(generator, "cpu") is generator


@pytest.mark.parametrize("seed", [0, 3, torch.tensor(0)], ids=repr)
def test_a_seed_is_no_generator(seed):
    with pytest.raises(TypeError, match=r"generator must be a torch\.Generator"):
        fresh_generator(seed)


def test_a_fresh_generator_is_unpredictable():
    torch.manual_seed(0)
    first = torch.rand(4, generator=fresh_generator(None))
    torch.manual_seed(0)
    other = torch.rand(4, generator=fresh_generator(None))
    assert not torch.equal(first, other)
    assert fresh_generator(None, "cpu").device == torch.device("cpu")


@pytest.mark.parametrize("draw", DRAWS)
def test_no_global_state_is_read_or_moved(draw):
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    draw(torch.empty(5), fresh_generator(None))
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert states[2] == np.random.get_state()[1].tolist()  # noqa: NPY002


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_shape_dtype_and_repetition(draw, dtype):
    like = torch.empty(3, 4, dtype=dtype, requires_grad=True)
    numbers = draw(like, rng(1))
    assert (numbers.shape, numbers.dtype) == (like.shape, dtype)
    assert not numbers.requires_grad
    assert torch.equal(numbers, draw(like, rng(1)))
    assert not torch.equal(numbers, draw(like, rng(2)))
    generator = rng(1)
    assert torch.equal(numbers, draw(like, generator))
    assert not torch.equal(numbers, draw(like, generator))  # it moves on


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_the_rounded_single_precision(dtype):
    for draw in DRAWS:
        single = draw(torch.empty(1000), rng())
        assert torch.equal(draw(torch.empty(1000, dtype=dtype), rng()), single.to(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_distributions(dtype):
    like = torch.empty(100_000, dtype=dtype)
    normal = standard_normal(like, rng()).double()
    assert abs(normal.mean()) < 0.015
    assert abs(normal.std() - 1) < 0.015
    assert normal.abs().max() > 3.5
    uniform = standard_uniform(like, rng()).double()
    assert abs(uniform.mean() - 0.5) < 0.005
    assert abs(uniform.var() - 1 / 12) < 0.002
    assert uniform.min() >= 0
    assert uniform.max() <= 1
    sign = random_sign(like, rng()).double()
    assert set(sign.tolist()) == {-1.0, 1.0}
    assert abs(sign.mean()) < 0.015


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("draw", DRAWS)
def test_a_cpu_generator_gives_the_same_numbers_on_every_device(draw):
    on_gpu = draw(torch.empty(50, device="cuda"), rng(4))
    assert on_gpu.is_cuda
    assert torch.equal(on_gpu.cpu(), draw(torch.empty(50), rng(4)))
    assert fresh_generator(None, "cuda").device.type == "cuda"


def test_a_seeded_global_state_repeats_and_is_put_back_also_after_an_exception():
    def draw():
        return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()  # noqa: NPY002

    def states():
        kept = np.random.get_state()  # noqa: NPY002
        return torch.get_rng_state().tolist(), kept[1].tolist(), kept[2], random.getstate()

    before = states()
    with seeded_global_state(2**61 + 1, ["cpu"]):
        first = draw()
        second = draw()
    assert states() == before

    def fails():
        with seeded_global_state(2**61 + 1):
            assert draw() == first
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert states() == before
    with seeded_global_state(3):
        assert draw() not in (first, second)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_seeded_global_state_of_a_gpu():
    before = torch.cuda.get_rng_state()
    with seeded_global_state(1, ["cuda"]):
        first = torch.rand(3, device="cuda")
    with seeded_global_state(1, [torch.device("cuda", 0)]):
        assert torch.equal(torch.rand(3, device="cuda"), first)
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_a_seed_comes_from_the_generator():
    assert seed_from(rng(1)) == seed_from(rng(1)) != seed_from(rng(2))
