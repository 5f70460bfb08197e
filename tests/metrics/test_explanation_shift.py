"""Two versions of a model, compared by explanation and by class: against a loop over examples."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from captum.attr import InputXGradient, IntegratedGradients, NoiseTunnel, Saliency
from scipy.stats import spearmanr
from torch import nn

from captum_robust.attr import KernelSmoothing
from captum_robust.metrics import ExplanationShift, explanation_shift
from captum_robust.outputs import Binary, MultiLabel, Regression
from tests.helpers import rng
from tests.metrics.helpers import Network, points


def moved(network, scale=0.3):
    """The network after an update, in all its parameters."""
    other = Network()
    with torch.no_grad():
        for new, old in zip(other.parameters(), network.parameters(), strict=True):
            new.copy_(old + scale * torch.randn(old.shape, generator=rng(5), dtype=old.dtype))
    return other.eval()


def by_hand(before, after, make, x, classes, k):
    """For each class the means of what every single example gives."""
    found = {}
    for row, c in zip(x.split(1), classes.tolist(), strict=True):
        a, b = (
            make(m).attribute(row.clone().requires_grad_(), target=c).detach().abs()[0]
            for m in (before, after)
        )
        kept = len({*a.argsort(descending=True)[:k].tolist()}
                   & {*b.argsort(descending=True)[:k].tolist()}) / k  # fmt: skip
        found.setdefault(c, []).append((spearmanr(a, b).statistic, kept))
    return {c: (len(v), *torch.tensor(v).mean(0).tolist()) for c, v in sorted(found.items())}


def as_dict(shift):
    rows = zip(*(part.tolist() for part in shift), strict=True)
    return {c: pytest.approx((n, r, kept), abs=1e-6) for c, n, r, kept in rows}


MAKES = {"gradient": Saliency, "product": InputXGradient}


def test_it_is_the_mean_over_examples_of_a_class():
    before, x = Network(), points(40)
    after = moved(before)
    predicted = before(x).argmax(1)
    assert len(predicted.unique()) > 1
    assert not torch.equal(predicted, after(x).argmax(1))  # so that it matters who predicts
    shifts = explanation_shift(before, after, MAKES, x.split(13), k=2)
    assert list(shifts) == list(MAKES)
    for name, make in MAKES.items():
        assert by_hand(before, after, make, x, predicted, 2) == as_dict(shifts[name])
    labels = torch.arange(40) % 3
    loader = list(zip(x.split(13), labels.split(13), strict=True))
    shifts = explanation_shift(before, after, MAKES, loader, k=2)
    for name, make in MAKES.items():
        assert by_hand(before, after, make, x, labels, 2) == as_dict(shifts[name])


def test_mean_over_all_examples():
    shift = ExplanationShift(
        torch.tensor([0, 4]), torch.tensor([1, 3]), torch.tensor([1.0, 0.2]), torch.tensor([0, 0.4])
    )
    assert shift.mean() == pytest.approx((0.4, 0.3))


def test_the_same_model_has_not_moved_and_one_explanation_can_move_alone():
    class Twice(nn.Module):
        """The same function where x > 0, by way of another one: gradients differ elsewhere."""

        def forward(self, x):
            return network(x.abs())

    network, x = Network(), points(20)
    (same,) = explanation_shift(network, network, {"gradient": Saliency}, [x]).values()
    assert same.mean() == (1.0, 1.0)
    shifts = explanation_shift(
        network, Twice(), {"gradient": Saliency, "none": lambda _: Saliency(network)}, [x]
    )
    assert shifts["none"].mean() == (1.0, 1.0)
    assert shifts["gradient"].mean()[0] < 0.9


def test_a_tenth_of_the_features_is_the_default_and_options_are_bound():
    torch.manual_seed(0)
    before, after = (nn.Linear(30, 2).eval() for _ in range(2))
    x = torch.randn(6, 30, generator=rng(1))
    # Of a linear model the gradient is the row of the weights.
    a, b = (m.weight.detach().abs() for m in (before, after))
    both = (
        [a[c].topk(3).indices.tolist() for c in (0, 1)],
        [b[c].topk(3).indices.tolist() for c in (0, 1)],
    )
    want = [len({*both[0][c]} & {*both[1][c]}) / 3 for c in (0, 1)]
    labels = torch.tensor([0, 1]).repeat(3)
    make = {"path": lambda m: partial(IntegratedGradients(m, False).attribute, n_steps=3)}
    shift = explanation_shift(before, after, make, [(x, labels)])["path"]
    assert shift.top_k_kept.tolist() == pytest.approx(want)


def test_images_are_compared_as_maps_without_channels():
    before, after = (nn.Sequential(nn.Flatten(), nn.Linear(24, 2)).eval() for _ in range(2))
    x = torch.rand(2, 2, 3, 4, generator=rng(1))
    labels = torch.tensor([0, 0])
    shift = explanation_shift(before, after, {"g": Saliency}, [(x, labels)], k=12)["g"]
    assert shift.top_k_kept.tolist() == [1.0]  # all twelve pixels
    maps = [m[1].weight.detach()[0].view(2, 12).abs().sum(0) for m in (before, after)]
    assert shift.rank_correlation.item() == pytest.approx(spearmanr(*maps).statistic)


def test_outputs_that_are_not_logits_of_classes():
    network, x = Network(), points(12)
    one = nn.Sequential(network, nn.Linear(3, 1).double()).eval()
    with torch.no_grad():
        one[1].bias -= one(x).mean()
    shift = explanation_shift(one, one, {"g": Saliency}, [x], output=Binary())["g"]
    n_above = int((one(x) > 0).sum())
    assert 0 < n_above < 12
    assert shift.classes.tolist() == [0, 1]
    assert shift.n_examples.tolist() == [12 - n_above, n_above]
    values = [(x, torch.randn(12))]  # labels of a regression are no classes
    shift = explanation_shift(one, one, {"g": Saliency}, values, output=Regression(1.0))["g"]
    assert shift.classes.tolist() == [-1]
    several = [(x, torch.ones(12, 3))]
    after = moved(network)
    shift = explanation_shift(network, after, MAKES, several, output=MultiLabel(), k=2)
    strongest = network(x).argmax(1)
    assert by_hand(network, after, Saliency, x, strongest, 2) == as_dict(shift["gradient"])


@pytest.mark.parametrize(
    "make",
    [
        lambda m: partial(NoiseTunnel(Saliency(m)).attribute, nt_samples=2),
        lambda m: partial(KernelSmoothing(Saliency(m)).attribute, n_samples=2),
    ],
    ids=["global state", "generator"],
)
def test_an_explanation_that_draws_noise_draws_the_same_for_both(make):
    network, x = Network(), points(4)
    before = torch.get_rng_state()
    (same,) = explanation_shift(network, network, {"noisy": make}, [x]).values()
    assert same.mean() == pytest.approx((1.0, 1.0))
    assert torch.equal(before, torch.get_rng_state())


def test_nothing_is_left_behind():
    network, x = Network(), points(5)
    state = {k: v.clone() for k, v in network.state_dict().items()}
    explanation_shift(network, moved(network), MAKES, [x])
    assert not x.requires_grad
    assert all(p.grad is None and p.requires_grad for p in network.parameters())
    assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())


BAD = {
    "a list": ({"explanations": [Saliency]}, TypeError, "explanations must be a mapping"),
    "an object": ({"explanations": {"g": Saliency(Network())}}, TypeError, "functions of a model"),
    "none": ({"explanations": {}}, ValueError, "explanations is empty"),
    "no model": ({"before": "a"}, TypeError, "before must be a model, got str"),
    "a tensor": ({"loader": points()}, TypeError, "loader is a tensor"),
    "no batch": ({"loader": []}, ValueError, "loader is empty"),
    "not tensors": ({"loader": [{"x": points()}]}, TypeError, "loader must give .* got dict"),
    "k": ({"k": 5}, ValueError, "k must be from 1 to .* 4, got 5"),
    "no count": ({"k": 0}, ValueError, "k must be"),
    "label": ({"loader": [(points(), torch.tensor([0, 1, 3]))]}, ValueError, "labels must be"),
    "makes none": ({"explanations": {"g": lambda _: 3}}, TypeError, "explanation must be"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    change, error, message = BAD[case]
    arguments = {
        "before": Network(), "after": Network(), "explanations": MAKES, "loader": [points()],
        **change,
    }  # fmt: skip
    with pytest.raises(error, match=message):
        explanation_shift(**arguments)
