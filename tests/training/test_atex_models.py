"""ATEX on a recurrent network, a vision transformer, a table and a volume."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models import VisionTransformer

from captum_robust.training import ATEXTrainer, GradientPenalty, Trainer
from tests.training.runs import same


class Recurrent(nn.Module):
    """A series (N, T, F) to classes."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.rnn, self.head = kind(3, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


def transformer() -> nn.Module:
    vit = VisionTransformer(
        image_size=8, patch_size=4, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=16,
        num_classes=3, dropout=0.1,
    )  # fmt: skip
    nn.init.normal_(vit.heads.head.weight)
    return vit


def table() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def volume() -> nn.Module:
    return nn.Sequential(nn.Conv3d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 8, 3))


def signal() -> nn.Module:
    return nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 8, 3))


MODELS = {
    "LSTM": (lambda: Recurrent(nn.LSTM), (5, 3)),
    "GRU": (lambda: Recurrent(nn.GRU), (5, 3)),
    "vision transformer": (transformer, (3, 8, 8)),
    "table": (table, (6,)),
    "volume": (volume, (1, 4, 4, 4)),
    "signal": (signal, (2, 10)),
}
each_model = pytest.mark.parametrize(("make", "shape"), MODELS.values(), ids=MODELS)


@each_model
def test_atex_trains_it(make, shape):
    model = make().eval()
    x = torch.randn(12, *shape)  # a standardised table, a signal: not in [0, 1]
    with torch.no_grad():
        loader = [(x, model(x).argmax(1))]
    trainer = ATEXTrainer(
        model, lambda p: torch.optim.Adam(p, lr=1e-3), delta1=0.3, delta2=0.3, temperature=1.0,
        n_perpendicular=2, search=1, steps_per_batch=2,
    )  # fmt: skip
    assert trainer.evaluate(loader)["accuracy"] == 1.0
    history = trainer.fit(loader, 10, validation=loader, show_progress=False)
    first, last = (history[i]["neighbourhood"] for i in (0, -1))
    assert 0 < last < first
    assert -1 <= history[-1]["val_stability"] <= 1


@each_model
def test_a_penalty_on_gradients_trains_it_too(make, shape):
    """Second derivatives: attention needs a form that has one."""
    model, x = make(), torch.randn(6, *shape)
    trainer = Trainer(model, GradientPenalty(0.1), lambda p: torch.optim.Adam(p, lr=1e-3))
    (record,) = trainer.fit([(x, torch.arange(6) % 3)], 1, show_progress=False)
    assert record["explanations"] > 0
    assert not same(trainer.weights(), model.state_dict())
