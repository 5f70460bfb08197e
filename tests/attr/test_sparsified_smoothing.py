"""SparsifiedSmoothing against a loop over copies, and against shares that are known exactly."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from captum.attr import (
    FeatureAblation,
    InputXGradient,
    IntegratedGradients,
    LayerGradCam,
    NoiseTunnel,
    Saliency,
)
from scipy import stats
from torch import nn

from captum_robust.attr import KernelSmoothing, SparsifiedSmoothing
from captum_robust.attr.sparsified_smoothing import mark_largest
from tests.helpers import rng


def network(n_inputs=6):
    model = nn.Sequential(nn.Linear(n_inputs, 8), nn.Softplus(), nn.Linear(8, 3)).double()
    generator = rng(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=generator)
    return model.eval()


def points(*shape, seed=2):
    return torch.randn(*shape, generator=rng(seed), dtype=torch.float64)


class Calls(nn.Module):
    """Counts the rows that the model sees."""

    def __init__(self, model):
        super().__init__()
        self.model, self.rows = model, []

    def forward(self, x):
        self.rows.append(len(x))
        return self.model(x)


# --- Which features are marked.


@pytest.mark.parametrize("n_kept", [1, 2, 3, 5, 6])
def test_marks_are_those_of_a_stable_sort(n_kept):
    few_values = torch.randint(0, 4, (500, 6), generator=rng()).double()
    want = torch.zeros_like(few_values, dtype=torch.bool)
    order = few_values.sort(dim=1, descending=True, stable=True).indices[:, :n_kept]
    want.scatter_(1, order, True)
    got = mark_largest(few_values, n_kept)
    assert torch.equal(got, want)
    assert (got.sum(1) == n_kept).all()


def test_an_explanation_of_zeros_still_marks_the_kept_number():
    assert mark_largest(torch.zeros(2, 5), 2).tolist() == [[True, True, False, False, False]] * 2


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_no_order_without_finite_numbers(value):
    with pytest.raises(ValueError, match="NaN or Inf at a noisy copy"):
        mark_largest(torch.tensor([[1.0, value, 2.0]]), 1)


# --- The shares.


@pytest.mark.parametrize("s", [0.3, 2.0])
def test_shares_of_a_linear_model_with_inputs_times_gradient(s):
    """|w_1 z_1| > |w_2 z_2| for normal z: an integral in one dimension."""
    x, w = torch.tensor([[0.4, -1.0]]), torch.tensor([1.0, 0.7])
    smooth = SparsifiedSmoothing(InputXGradient(lambda z: z @ w), kept=0.5, stdev=s)
    n = 40_000
    got = smooth.attribute(x, n_samples=n, generator=rng())
    z = torch.linspace(-8, 8, 20_001, dtype=torch.float64)
    other = stats.norm(-0.7, 0.7 * s)
    bound = (0.4 + s * z).abs().numpy()
    chance = torch.as_tensor(other.cdf(bound) - other.cdf(-bound))
    exact = torch.trapezoid(chance * torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi), z).item()
    assert got.sum().item() == pytest.approx(1.0, abs=1e-6)
    assert got[0, 0].item() == pytest.approx(exact, abs=4 * math.sqrt(0.25 / n))


def test_shares_are_the_counts_of_marks():
    smooth, x = SparsifiedSmoothing(Saliency(network()), kept=0.34, stdev=0.7), points(3, 6)
    seed = int(torch.randint(2**62, (1,), generator=rng(4)))
    counts = [0, torch.zeros(3, 6, dtype=torch.int64)]
    for part in smooth.count_marks(x, range(50), seed, internal_batch_size=9, target=1):
        counts[0] += part.n_copies
        counts[1] += part.marks[0]
    got = smooth.attribute(x, n_samples=50, internal_batch_size=9, generator=rng(4), target=1)
    assert counts[0] == 50
    torch.testing.assert_close(got, counts[1] / 50, check_dtype=False)
    assert (counts[1].sum(1) == 2 * 50).all()  # round(0.34 * 6) in each copy


def test_marks_follow_the_gradient_at_the_noisy_copy():
    model, x, seen = network(), points(2, 6), []

    class Watched(Saliency):
        def attribute(self, inputs, *args, **kwargs):
            seen.append(inputs.detach().clone())
            return super().attribute(inputs, *args, **kwargs)

    smooth = SparsifiedSmoothing(Watched(model), kept=0.5, stdev=0.5)
    got = smooth.attribute(x, n_samples=40, internal_batch_size=10, generator=rng(), target=0)
    rows = torch.cat([part.unflatten(0, (2, -1)) for part in seen], dim=1)
    assert rows.shape == (2, 40, 6)
    noise = ((rows - x.unsqueeze(1)) / 0.5).flatten().numpy()
    assert stats.kstest(noise, "norm").pvalue > 1e-3
    want = torch.zeros(2, 6, dtype=torch.float64)
    for i in range(2):
        for z in rows[i]:
            relevance = torch.autograd.functional.jacobian(lambda v: model(v)[0], z).abs()
            want[i, sorted(range(6), key=lambda f: -relevance[f])[:3]] += 1 / 40
    torch.testing.assert_close(got, want)


# --- Batches, passes, memory.


def test_one_pass_of_the_wrapped_method_per_copy_and_not_one_more():
    calls = Calls(network())
    smooth = SparsifiedSmoothing(Saliency(calls), kept=0.5)
    smooth.attribute(points(3, 6), n_samples=17, internal_batch_size=12, target=0)
    assert sum(calls.rows) == 3 * 17
    assert max(calls.rows) == 12


def test_batches_do_not_change_the_shares():
    smooth, x = SparsifiedSmoothing(Saliency(network()), kept=0.34), points(3, 6)
    results = [
        smooth.attribute(x, 60, internal_batch_size=size, generator=rng(), target=2)
        for size in (1, 7, 30, 1000, None)
    ]
    for other in results[1:]:
        torch.testing.assert_close(other, results[0])


def test_cut_anywhere_the_counts_are_the_same():
    smooth, x = SparsifiedSmoothing(Saliency(network()), kept=0.34), points(3, 6)

    def total(*cuts):
        marks = torch.zeros(3, 6, dtype=torch.int64)
        for start, stop in pairwise(cuts):
            for part in smooth.count_marks(x, range(start, stop), 7, 12, target=2):
                marks += part.marks[0]
        return marks

    whole = total(0, 100)
    assert torch.equal(total(0, 13, 50, 51, 100), whole)
    assert not torch.equal(total(100, 200), whole)
    one = next(iter(smooth.count_marks(x, range(8, 10), 7, 12, target=2)))
    assert one.n_copies == 2


def test_seeds_beside_each_other_share_no_noise():
    smooth, x = SparsifiedSmoothing(Saliency(network()), kept=0.34), points(3, 6)
    copies = [
        [next(iter(smooth.count_marks(x, range(i, i + 1), seed, target=2))) for i in range(40)]
        for seed in (0, 1)
    ]
    same = sum(
        torch.equal(a.marks[0], b.marks[0])
        for a, b in zip(copies[0][1:], copies[1][:-1], strict=True)
    )
    assert same < 20


def test_the_noise_of_explanations_that_draw_is_not_the_noise_again():
    """KernelSmoothing inside: drawn apart, and the same whatever the batches."""
    smooth, x = SparsifiedSmoothing(KernelSmoothing(InputXGradient(network())), 0.5), points(2, 6)
    runs = [smooth.attribute(x, 8, size, rng(), target=0) for size in (1, None)]
    assert torch.equal(*runs)
    tunnel = SparsifiedSmoothing(NoiseTunnel(Saliency(network())), 0.5)
    state = torch.get_rng_state()
    runs = [tunnel.attribute(x, 5, None, rng(), target=0, nt_samples=3) for _ in range(2)]
    assert torch.equal(*runs)
    assert torch.equal(state, torch.get_rng_state())


# --- Shapes.


def test_channels_share_and_layouts():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Softplus(), nn.Flatten(), nn.Linear(16, 2))
    x = torch.rand(2, 3, 4, 4, generator=rng())
    first = SparsifiedSmoothing(Saliency(model), 0.25)
    got = first.attribute(x, 30, generator=rng(), target=0)
    assert got.shape == x.shape
    assert torch.equal(got[:, 0], got[:, 2])
    torch.testing.assert_close(got[:, 0].flatten(1).sum(1), torch.full((2,), 4.0))
    each = SparsifiedSmoothing(Saliency(model), 0.25, channel_dim=None)
    got = each.attribute(x, 30, generator=rng(), target=0)
    torch.testing.assert_close(got.flatten(1).sum(1), torch.full((2,), 12.0))
    swapped = SparsifiedSmoothing(Saliency(Last(model)), 0.25, channel_dim=-1)
    got = swapped.attribute(x.movedim(1, 3).contiguous(), 30, generator=rng(), target=0)
    assert got.shape == (2, 4, 4, 3)
    assert torch.equal(got[..., 0], got[..., 1])


class Last(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x.movedim(-1, 1))


def test_features_of_a_tuple_are_ranked_together():
    weights = torch.tensor([0.1, 0.2]), torch.tensor([3.0, 2.0, 0.05])
    smooth = SparsifiedSmoothing(Saliency(lambda x, y: x @ weights[0] + y @ weights[1]), 0.6)
    x, y = torch.zeros(2, 2), torch.zeros(2, 3)
    got = smooth.attribute((x, y), 5)
    assert isinstance(got, tuple)
    assert got[0].tolist() == [[0.0, 1.0]] * 2
    assert got[1].tolist() == [[1.0, 1.0, 0.0]] * 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes(dtype):
    smooth = SparsifiedSmoothing(Saliency(network().to(dtype)), 0.34)
    got = smooth.attribute(points(3, 6).to(dtype), 20, generator=rng(), target=0)
    assert got.dtype == dtype
    torch.testing.assert_close(got.float().sum(1), torch.full((3,), 2.0), atol=0.02, rtol=0)


def test_other_explanations_and_layers():
    model, x = network(), points(3, 6)
    for method in (IntegratedGradients(model), FeatureAblation(model)):
        got = SparsifiedSmoothing(method, 0.5).attribute(x, 5, target=torch.tensor([0, 1, 2]))
        assert got.shape == x.shape
    images = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    layer = SparsifiedSmoothing(LayerGradCam(images, images[0]), 0.5)
    assert layer.attribute(torch.rand(2, 1, 4, 4), 5, target=0).shape == (2, 1, 2, 2)


def test_under_inference_mode_and_in_training_mode():
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)).double()
    mean = model[1].running_mean.clone()
    with torch.inference_mode():
        got = SparsifiedSmoothing(Saliency(model.eval()), 0.5).attribute(points(3, 6), 5, target=0)
    assert got.shape == (3, 6)
    with pytest.warns(UserWarning, match="training mode"):
        SparsifiedSmoothing(Saliency(model.train()), 0.5).attribute(points(3, 6), 5, target=0)
    assert torch.equal(mean, model[1].running_mean)


# --- Bad input.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kept": 0.0}, "kept must be positive"),
        ({"kept": 1.0}, "kept must be below 1"),
        ({"stdev": -1.0}, "stdev must be positive"),
    ],
    ids=["kept 0", "kept 1", "stdev"],
)
def test_bad_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        SparsifiedSmoothing(Saliency(network()), **arguments)


def test_bad_inputs():
    with pytest.raises(TypeError, match="Wrap the model"):
        SparsifiedSmoothing(network())
    smooth = SparsifiedSmoothing(Saliency(network()))
    with pytest.raises(ValueError, match="must be floating-point to take noise"):
        smooth.attribute(torch.zeros(2, 6, dtype=torch.int64), target=0)
    with pytest.raises(ValueError, match="n_samples must be at least 1"):
        smooth.attribute(points(2, 6), n_samples=0, target=0)
    with pytest.raises(ValueError, match="internal_batch_size must be at least 1"):
        smooth.attribute(points(2, 6), internal_batch_size=0, target=0)
    with pytest.raises(ValueError, match="target"):
        smooth.attribute(points(2, 6), n_samples=2)
    images = nn.Sequential(nn.Flatten(), nn.Linear(8, 2))
    smooth = SparsifiedSmoothing(Saliency(images), channel_dim=4)
    with pytest.raises(ValueError, match="channel_dim must name"):
        smooth.attribute(torch.rand(1, 2, 2, 2), 2, target=0)
