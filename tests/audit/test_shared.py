import pytest
import torch
from captum.attr import IntegratedGradients, Saliency
from torch import nn

from captum_robust import metrics
from captum_robust.audit.explanations import Explained
from captum_robust.audit.measurements import Measurements
from captum_robust.audit.progress import Progress
from captum_robust.audit.settings import Settings, generator_for
from captum_robust.audit.shared import Shared
from captum_robust.perturbations import SquareRemoval
from tests.audit.conftest import TINY, make_batches, make_model


class Counting(nn.Module):
    """The tiny model, which counts the examples that it is asked about without a gradient."""

    def __init__(self):
        super().__init__()
        self.inner, self.asked = make_model(), 0

    def forward(self, x):
        self.asked += 0 if torch.is_grad_enabled() else len(x)
        return self.inner(x)


def explained(model):
    return {
        "gradient": Explained(Saliency(model)),
        "ig": Explained(IntegratedGradients(model), {"n_steps": 2}),
    }


def measured(names):
    model = Counting()
    kinds = {"gradient": Saliency(model), "ig": IntegratedGradients(model)}
    explanations = {
        n: Explained(kinds[n], {} if n == "gradient" else {"n_steps": 2}) for n in names
    }
    settings = Settings(eps=0.1, k=6, budget=TINY, certify=False)
    [(images, labels), _] = make_batches()
    measure = Measurements(model, explanations, settings, Progress())
    return measure(images, labels, 4).rows, model.asked


def test_the_numbers_are_those_of_the_metrics_on_their_own():
    rows, _ = measured(["gradient", "ig"])
    model, (images, _) = make_model(), make_batches()[0]
    target = model(images).argmax(1)
    for name, explanation in explained(model).items():
        wanted = metrics.infidelity(
            model, SquareRemoval(range(1, 3)), images, explanation(images, target), target=target,
            normalize=True, n_perturb_samples=5, generator=generator_for(0, 4, "removal"),
        )  # fmt: skip
        found = [row["explanations"][name]["infidelity"] for row in rows]
        assert found == pytest.approx(wanted.tolist(), rel=1e-5)
        flipped = metrics.pixel_flipping(
            model, images, None, target=target, n_steps=3, generator=generator_for(0, 4, "flipping")
        )
        found = [row["explanations"][name]["flipping_random"] for row in rows]
        assert found == pytest.approx(flipped.area().tolist(), rel=1e-5)


def test_a_second_explanation_does_not_ask_again():
    (_, one), (_, other), (_, both) = (
        measured(["gradient"]),
        measured(["ig"]),
        measured(["ig", "gradient"]),
    )
    removed, in_random_order, first_look = 3 * (5 + 1), 3 * (3 + 2), 3
    assert both == one + other - removed - in_random_order - first_look


def test_other_inputs_get_no_answer_of_these():
    shared = Shared(nn.Flatten())
    inputs = torch.rand(2, 3)
    with pytest.raises(RuntimeError), shared.answers("x") as model:  # what failed is not kept
        nn.Linear(2, 2)(model(inputs))
    for _ in range(2):
        with shared.answers("x") as model:
            assert torch.equal(model(inputs), inputs)
    with shared.answers("x") as model, pytest.raises(ValueError, match="draws differ"):
        model(inputs + 1)
    with shared.answers("x") as model:
        model(inputs)
        with pytest.raises(ValueError, match="draws differ"):
            model(inputs)
