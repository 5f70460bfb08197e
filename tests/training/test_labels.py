"""Labels, as what the outputs mean has them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from captum_robust.outputs import Binary, Categorical, MultiLabel, Outputs, Regression
from captum_robust.training import Batch, Draws
from captum_robust.training.labels import label_loss, need_labels

CLASSES, BITS = torch.tensor([2, 0, 1]), torch.tensor([1, 0, 1])
SETS, VALUES = torch.tensor([[1, 0], [1, 1], [0, 0]]), torch.tensor([0.5, -1.0, 2.0])


@pytest.mark.parametrize(
    ("meaning", "shape", "labels", "fits"),
    [
        (Categorical(), (3, 4), CLASSES, True),
        (Categorical(), (3, 4), CLASSES.to(torch.uint8), True),
        (Categorical(), (3, 4), CLASSES.double(), False),
        (Categorical(), (3, 4), SETS, False),
        (Binary(), (3, 1), BITS, True),
        (Binary(), (3,), BITS.unsqueeze(1).float(), True),
        (Binary(), (3, 1), BITS.bool(), True),
        (Binary(), (3, 1), CLASSES, False),
        (MultiLabel(), (3, 2), SETS, True),
        (MultiLabel(), (3, 2), BITS, False),
        (Regression(tolerance=1.0), (3, 1), VALUES, True),
        (Regression(tolerance=1.0), (3, 2), VALUES, False),
    ],
)
def test_which_labels_fit(meaning, shape, labels, fits):
    assert meaning.labels_fit(labels, torch.zeros(shape)) is fits
    if not fits:
        with pytest.raises(ValueError, match=r"loader must yield \(inputs, labels\), with"):
            label_loss(torch.zeros(shape), labels, meaning)


def test_the_losses_are_the_negative_log_likelihoods():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, generator=generator)
    expected = F.cross_entropy(logits, CLASSES, reduction="none")
    torch.testing.assert_close(label_loss(logits, CLASSES, None), expected)
    z = logits[:, :1]
    p = (z - 0.3).sigmoid()
    expected = torch.stack([-(p[i] if BITS[i] else 1 - p[i]).log()[0] for i in range(3)])
    for given in (z, z[:, 0]):
        torch.testing.assert_close(label_loss(given, BITS, Binary(threshold=0.3)), expected)
    q = logits[:, :2].sigmoid()
    expected = -(SETS * q.log() + (1 - SETS) * (1 - q).log()).sum(1)
    torch.testing.assert_close(label_loss(logits[:, :2], SETS, MultiLabel()), expected)
    expected = (z[:, 0] - VALUES).square() / (2 * 0.5**2)
    torch.testing.assert_close(label_loss(z, VALUES, Regression(tolerance=0.5)), expected)


def test_one_logit_without_its_meaning_has_no_loss():
    """F.cross_entropy of one logit is 0, silently."""
    with pytest.raises(ValueError, match=r"output=outputs\.Binary\(\)"):
        label_loss(torch.zeros(3, 1), torch.zeros(3, dtype=torch.long), None)


def test_what_is_needed_is_named():
    x = torch.rand(3, 5)
    for meaning, wanted in (
        (None, "integer classes"), (Binary(), "0 and 1"), (Regression(tolerance=1.0), "values"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=rf"for Mine, with labels.*{wanted}"):
            need_labels(Batch(x, None, Draws(seed=0)), "Mine", meaning)
    found = need_labels(Batch(x, CLASSES.to(torch.uint8), Draws(seed=0)), "Mine", None)
    assert found.dtype == torch.int64


def test_the_loss_of_a_meaning_of_ones_own_is_not_guessed():
    class Own(Regression, Outputs):
        pass

    class Other(Outputs):
        prediction = same = score = imitation_loss = lambda self, *_: None

    assert label_loss(torch.zeros(3, 1), VALUES, Own(tolerance=1.0)).shape == (3,)
    with pytest.raises(TypeError, match="the loss of Other on labels is not known"):
        label_loss(torch.zeros(3, 1), VALUES, Other())
