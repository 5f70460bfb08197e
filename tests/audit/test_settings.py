import json

import pytest
import torch

from captum_robust.audit.settings import BUDGETS, Budget, Settings, budget_of, generator_for
from captum_robust.outputs import Regression


def test_a_budget_by_name_by_number_and_itself():
    assert budget_of("quick") is BUDGETS["quick"]
    own = Budget(1, 2, 3, 4, 5)
    assert budget_of(own) is own
    scaled = budget_of(600)
    standard = BUDGETS["standard"]
    assert scaled.evaluations == 600
    assert scaled.copies == 2 * standard.copies
    assert scaled.flips == standard.flips


@pytest.mark.parametrize(
    ("budget", "error"), [("huge", ValueError), (0, ValueError), (1.5, TypeError)]
)
def test_a_budget_that_is_none(budget, error):
    with pytest.raises(error, match="budget"):
        budget_of(budget)


@pytest.mark.parametrize("sizes", [(), (0.5,), (1.0, 0.5), (0.0, 1.0), (0.5, 0.5, 1.0), (1.5,)])
def test_sizes_that_do_not_rise_to_one(sizes):
    with pytest.raises(ValueError, match="sizes must rise"):
        Budget(1, 1, 1, 1, 1, sizes=sizes)


def test_draws_depend_on_the_seed_and_on_what_they_are_for():
    def draw(*parts):
        return torch.rand(4, generator=generator_for(*parts))

    assert torch.equal(draw(0, "gradient", 3), draw(0, "gradient", 3))
    assert not torch.equal(draw(0, "gradient", 3), draw(1, "gradient", 3))
    assert not torch.equal(draw(0, "gradient", 3), draw(0, "gradient", 4))


def test_settings_are_plain_json():
    eps = torch.tensor([0.0, 0.2])
    settings = Settings(
        eps, 1, BUDGETS["quick"], output=Regression(0.5), input_range=(eps, eps + 1),
        feature_names=("age", "income"),
    )  # fmt: skip
    known = json.loads(json.dumps(settings.as_json()))
    assert known["eps"] == pytest.approx([0.0, 0.2])
    assert known["output"] == "Regression(tolerance=0.5)"
    assert known["feature_names"] == ["age", "income"]
    assert settings.largest_eps() == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eps": 0.0}, "eps must be positive"),
        ({"eps": float("nan")}, "eps must be positive"),
        ({"eps": torch.zeros(2)}, "eps must be 0 or more"),
        ({"eps": torch.tensor([-1.0, 1.0])}, "eps must be 0 or more"),
        ({"k": 0}, "k must be at least 1"),
        ({"certified_stdev": 0.0}, "certified_stdev must be positive"),
        ({"certified_radii": (0.1, 0.0)}, "certified_radii must be positive"),
    ],
)
def test_settings_out_of_range(changes, message):
    with pytest.raises(ValueError, match=message):
        Settings(**{"eps": 0.1, "k": 3, "budget": BUDGETS["quick"], **changes})
