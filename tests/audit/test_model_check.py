from dataclasses import replace

import pytest
import torch
from torch import nn

from captum_robust.audit import ModelCheck, Rules
from captum_robust.audit.model_check import check_model
from captum_robust.audit.settings import BUDGETS, Settings

SETTINGS = Settings(eps=0.1, k=1, budget=BUDGETS["quick"])


class Liar(nn.Module):
    """Decides by the first column on data, which are at least 1, and by the second elsewhere."""

    def forward(self, x):
        return torch.where((x > 1).all(1), x[:, 0], x[:, 1] - 9).unsqueeze(1)


def data(n):
    return 1 + torch.rand(n, 3, generator=torch.Generator().manual_seed(0)).square()


def test_a_model_that_lies_off_its_data_is_found_and_an_honest_one_is_not():
    pytest.importorskip("sklearn")
    batches = [[part, torch.zeros(len(part))] for part in data(200).split(30)]
    models = [Liar().train(), nn.Linear(3, 2)]
    before = torch.get_rng_state()
    liar, honest = (check_model(model, batches, SETTINGS) for model in models)
    assert torch.equal(before, torch.get_rng_state())
    assert liar.p_value < Rules().suspicious < honest.p_value
    assert liar.n_rows == 200
    assert check_model(Liar(), batches, SETTINGS) == liar


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [(torch.zeros(60, 1, 2, 2), "rows of a table"), (torch.zeros(49, 3), "49 rows, and 50")],
)
def test_where_it_does_not_apply_it_says_why(inputs, reason):
    found = check_model(Liar(), [inputs], SETTINGS)
    assert found.p_value is None
    assert reason in found.reason


def test_the_report_says_so_first(report):
    for p_value, suspicious in ((0.001, True), (0.5, False), (None, False)):
        found = replace(report, model_check=ModelCheck(p_value))
        assert found.is_suspicious() is suspicious
        assert ("unusual inputs" in found.summary()[0]) is suspicious
