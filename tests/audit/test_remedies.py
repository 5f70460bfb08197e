"""What a message of the audit advises works when it is followed."""

from __future__ import annotations

import pytest
import torch
from captum.attr import Saliency
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from captum_robust.audit.sources import UsageError, load_model, table
from captum_robust.outputs import Binary, Regression
from tests.audit.conftest import make_batches, make_model, run_audit

MODEL = make_model()
IMAGES = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def report(batches=None, explanations=None, model=MODEL, **changes):
    return run_audit(model, explanations, batches, **changes)


FOLLOWED = {
    "a tensor: a list of batches": (
        lambda: report(IMAGES), r"a list of batches: \[inputs\]", lambda: report([IMAGES]),
    ),
    "a tensor: a DataLoader": (
        lambda: report(IMAGES), "Pass a DataLoader",
        lambda: report(DataLoader(TensorDataset(IMAGES), 2)),
    ),
    "a generator: a list": (
        lambda: report(iter(make_batches())), "or a list", lambda: report(list(make_batches())),
    ),
    "a loader that shuffles": (
        lambda: report(DataLoader(TensorDataset(IMAGES), 2, shuffle=True)), "shuffle=False",
        lambda: report(DataLoader(TensorDataset(IMAGES), 2, shuffle=False)),
    ),
    "explanations without names": (
        lambda: report(explanations=[Saliency(MODEL)]), r"\{'gradient': Saliency\(model\)\}",
        lambda: report(explanations={"gradient": Saliency(MODEL)}),
    ),
    "a model in place of an explanation": (
        lambda: report(explanations={"gradient": MODEL}), r"Wrap the model: Saliency\(model\)",
        lambda: report(explanations={"gradient": Saliency(MODEL)}),
    ),
    "k over the features": (
        lambda: report(k=65), "at most the number of features, 64", lambda: report(k=64),
    ),
    "one output: Binary": (
        lambda: report(model=make_model(1)), r"outputs\.Binary\(\)",
        lambda: report(model=make_model(1), output=Binary()),
    ),
    "one output: Regression": (
        lambda: report(model=make_model(1)), r"outputs\.Regression\(tolerance=",
        lambda: report(model=make_model(1), output=Regression(tolerance=0.1)),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("wrong", "remedy", "right"), FOLLOWED.values(), ids=FOLLOWED)
def test_a_remedy_works_when_it_is_followed(wrong, remedy, right):
    with pytest.raises((TypeError, ValueError), match=remedy):
        wrong()
    assert "gradient" in right().explanations


def test_remedies_of_the_command(tmp_path, monkeypatch):
    path = tmp_path / "people.csv"
    path.write_text("age,city,good\n30,Rome,1\n40,Oslo,0\n")
    with pytest.raises(UsageError, match="one column for each value"):
        table(str(path), "good")
    path.write_text("age,Rome,Oslo,good\n30,1,0,1\n40,0,1,0\n")
    assert table(str(path), "good")[1] == ["age", "Rome", "Oslo"]

    (tmp_path / "owned.py").write_text("from torch import nn\nmake = lambda: nn.Linear(2, 2)\n")
    with pytest.raises(UsageError, match=r"Run the command where owned\.py lies"):
        load_model("owned:make", None)
    monkeypatch.syspath_prepend(tmp_path)
    assert isinstance(load_model("owned:make", None), nn.Linear)
