import io

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from captum_robust.audit import progress
from captum_robust.audit.progress import Progress, count_examples
from captum_robust.audit.settings import BUDGETS, Settings
from captum_robust.audit.steps import count_steps


@pytest.fixture
def bar(monkeypatch):
    """What is shown."""
    shown = io.StringIO()
    bars = progress.tqdm
    monkeypatch.setattr(
        progress, "tqdm", lambda **options: bars(file=shown, mininterval=0, **options)
    )
    return shown


def test_the_bar_moves_within_a_batch_and_counts_what_was_there_before(bar):
    shown = Progress(10, 6, is_shown=True)
    shown.advance(4)
    assert "4/60" in bar.getvalue()
    shown.reach(5)  # a batch that another process measured
    shown.advance(5)
    shown.close()
    assert "35/60" in bar.getvalue()


def test_as_many_steps_as_are_counted(run, monkeypatch, bar):
    counted = []
    monkeypatch.setattr(Progress, "advance", lambda self, n: counted.append(n))
    monkeypatch.setattr(Progress, "reach", lambda self, n: None)
    for certify in (True, False):
        counted.clear()
        report = run(certify=certify)
        budget = Settings(eps=0.1, k=1, budget=BUDGETS["standard"], certify=certify)
        # Five examples in two batches; the randomised parameters of the first are not counted.
        assert sum(counted) == 5 * count_steps(budget)
        assert not report.explanations["gradient"].errors


def test_examples_are_counted_where_the_loader_tells():
    data = TensorDataset(torch.zeros(7, 2), torch.zeros(7))
    assert count_examples(DataLoader(data, 3)) == 7
    assert count_examples(DataLoader(data, 3, drop_last=True)) is None
    assert count_examples([[torch.zeros(3, 2), torch.zeros(3)], [torch.zeros(2, 2)]]) == 5

    class Stream(IterableDataset):
        def __iter__(self):
            yield torch.zeros(2)

    assert count_examples(DataLoader(Stream())) is None
    assert count_examples({"not": "a sequence"}) is None
