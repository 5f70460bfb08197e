"""The detector: its rate of false alarms is exact, its score can be differentiated, it says why."""

from __future__ import annotations

import math

import pytest
import torch
from captum.attr import Saliency
from torch import nn

from captum_robust.attr import softplus_activations
from captum_robust.certificates import ManipulationDetector
from captum_robust.certificates.features import (
    BetaDisagreement,
    ClassDistance,
    Feature,
    Instability,
    KernelDisagreement,
    missing_mass,
)


def network(dtype=torch.float64):
    model = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 3)).to(dtype)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=generator)
    return model.eval()


def images(n, seed=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 8, generator=generator, dtype=torch.float64).to(dtype)


class Coordinate(Feature):
    """A coordinate of the image: its distribution is known."""

    def __init__(self, index):
        self.index = index

    def __call__(self, looked):
        return looked.images[:, self.index] + 0 * looked.relevance.sum(1)

    @property
    def name(self):
        return f"coordinate {self.index}"


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_five_per_cent_are_five_per_cent(alpha):
    """Over fits and clean images: alarms at exactly floor(alpha (n + 1)) / (n + 1)."""
    rates = []
    for seed in range(40):
        detector = ManipulationDetector(Saliency(network()), [Coordinate(0), Coordinate(1)])
        detector.fit(images(118, seed=seed))
        p = detector.p_values(images(100, seed=1000 + seed))
        rates.append((p <= alpha).double().mean())
    rate = torch.stack(rates)
    error = (rate.std() / math.sqrt(len(rate))).item()
    want = math.floor(alpha * 60) / 60
    assert rate.mean().item() == pytest.approx(want, abs=3.5 * error)


def test_p_values_by_hand():
    detector = ManipulationDetector(Saliency(network()), [Coordinate(3), Coordinate(5)])
    clean, new = images(60), images(20, seed=9)
    detector.fit(clean)
    usual, calibration = clean[::2][:, [3, 5]], clean[1::2][:, [3, 5]]

    def score(x):
        return ((x - usual.mean(0)) / usual.std(0)).sum(1)

    torch.testing.assert_close(detector.scores(new), score(new[:, [3, 5]]))
    scores = score(calibration)
    want = [(1 + int((scores >= s).sum())) / 31 for s in score(new[:, [3, 5]])]
    assert detector.p_values(new).tolist() == pytest.approx(want)


def test_a_verdict_names_the_feature_that_spoke():
    detector = ManipulationDetector(Saliency(network()), [Coordinate(0), Coordinate(1)])
    detector.fit(images(200))
    strange = images(1, seed=5)
    strange[0, :2] = torch.tensor([0.2, 9.0])
    (verdict,) = detector.verdicts(strange)
    assert verdict.manipulated
    assert verdict.spoke == "coordinate 1"
    assert verdict.features["coordinate 1"] == pytest.approx(1 / 101)
    assert verdict.p_value == detector.p_values(strange).item() == pytest.approx(1 / 101)
    assert not detector.verdicts(0 * strange, alpha=0.01)[0].manipulated


def test_missing_mass_by_hand():
    relevance = torch.tensor([[0.5, 0.2, 0.2, 0.1]])
    other = torch.tensor([[0.0, 3.0, 1.0, 2.0]])
    assert missing_mass(relevance, other, 0.5).item() == pytest.approx(1 - 0.2 - 0.1)
    assert missing_mass(relevance, relevance, 0.25).item() == pytest.approx(0.5)


def test_the_default_features():
    model = network()
    detector = ManipulationDetector(Saliency(model)).fit(images(100))
    labels = model(images(3, seed=8)).argmax(1)
    measured = detector.measure(images(3, seed=8), labels)
    assert measured.shape == (3, 7)
    torch.testing.assert_close(measured, detector.measure(images(3, seed=8)))
    names = [feature.name for feature in detector.features]
    assert len(set(names)) == 7
    steps = Instability(parallel=False, distance=1e-9)
    assert ManipulationDetector(Saliency(model), [steps]).measure(images(3)).abs().max() < 1e-6


def test_batches_do_not_change_the_features():
    detector = ManipulationDetector(Saliency(network()), batch_size=50).fit(images(60))
    other = ManipulationDetector(Saliency(network()), batch_size=7).fit(images(60))
    x = images(11, seed=3)
    torch.testing.assert_close(detector.measure(x), other.measure(x))
    torch.testing.assert_close(detector.scores(x), other.scores(x))
    torch.testing.assert_close(detector.measure(x)[4:6], detector.measure(x[4:6]))


def test_the_score_with_a_graph_is_the_score_and_its_gradient_is_right():
    features = [KernelDisagreement(0.1, 3), BetaDisagreement(2.0), ClassDistance()]
    model = nn.Sequential(nn.Linear(8, 12), nn.Softplus(), nn.Linear(12, 3)).double()
    detector = ManipulationDetector(Saliency(model), features[::2]).fit(images(60))
    x = images(2, seed=4).requires_grad_()
    labels = model(x).argmax(1)
    torch.testing.assert_close(detector.score_with_graph(x, labels), detector.scores(x, labels))
    assert torch.autograd.gradcheck(lambda z: detector.score_with_graph(z, labels), (x,))
    rectified = ManipulationDetector(Saliency(network()), features).fit(images(60))
    with softplus_activations(10.0):
        score = rectified.score_with_graph(x, labels)
    (gradient,) = torch.autograd.grad(score.sum(), x)
    assert gradient.abs().sum() > 0


def test_classes_that_were_never_seen_and_order_of_use():
    model = network()
    detector = ManipulationDetector(Saliency(model), [ClassDistance()])
    with pytest.raises(ValueError, match=r"Call fit\(images\) first"):
        detector.p_values(images(2))
    with pytest.raises(ValueError, match="fit the detector"):
        detector.measure(images(2))
    detector.fit(images(60), torch.zeros(60, dtype=torch.int64))
    assert detector.measure(images(2), torch.tensor([1, 2])).isfinite().all()


def test_bad_arguments():
    with pytest.raises(TypeError, match="explanation must be a captum Attribution"):
        ManipulationDetector(network())
    with pytest.raises(TypeError, match="features must be Feature objects, got str"):
        ManipulationDetector(Saliency(network()), ["kernel"])
    with pytest.raises(ValueError, match="too few to know"):
        ManipulationDetector(Saliency(network())).fit(images(39))
    with pytest.raises(ValueError, match="NaN or Inf"):
        ManipulationDetector(Saliency(network())).fit(images(60) * math.nan)
