"""Networks whose explanations are defended, each beside the one that it comes from."""

from __future__ import annotations

import math
from argparse import Namespace
from functools import partial
from typing import Any

import torch
from _data import fashion_mnist, mnist
from _networks import network
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from captum_robust.training import ATEXTrainer, CrossEntropy, SoftplusNetwork, Trainer

DATA = {"fashion-mnist": fashion_mnist, "mnist": mnist}
BATCH = 100

# What ATEX is given: Uniform points as in the paper, with the settings of its published code; or
# the farthest of the perpendicular points, found by a search of one step.
ATEX: dict[str, dict[str, Any]] = {
    "ATEX": {
        "delta1": 0.32, "delta2": 0.32, "norm": math.inf, "n_across": 8, "temperature": 4.0,
        "steps_per_batch": 22,
    },
    "ATEX, searched": {
        "delta1": 0.32, "delta2": 0.5, "n_across": 1, "search": 1, "temperature": 1.0,
        "alpha": 20.0, "steps_per_batch": 4,
    },
}  # fmt: skip
STEPS = {"ATEX": 1200, "ATEX, searched": 1200}
RATES = {"ATEX": 1.5e-3, "ATEX, searched": 5e-3}


def defended(data: str, way: str, seed: int, args: Namespace) -> nn.Module:
    """The network of ``data`` after a defence: "none", "softplus", or one of ``ATEX``.

    Trained where ``args.networks`` has no file of it.
    """
    plain = network(data, args)
    if way == "none":
        return plain
    model = SoftplusNetwork(plain, beta=10.0) if way == "softplus" else plain
    path = args.networks / f"{data}-{way.replace(', ', '-')}-{seed}.pt"
    if not path.exists():
        print(f"{path} is not there: training the network", flush=True)
        make = partial(_softplus if way == "softplus" else _atex, way=way)
        trained = make(model, DATA[data](args.data_root, True), seed, args)
        torch.save(trained.cpu().state_dict(), path)
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.to(args.device).eval()


def _softplus(
    model: nn.Module, data: tuple[Tensor, Tensor], seed: int, args: Namespace, way: str
) -> nn.Module:
    """Trained on, so that its accuracy is that of before."""
    trainer = Trainer(model, CrossEntropy(), _adam(5e-4), seed=seed)
    trainer.fit(DataLoader(TensorDataset(*data), BATCH, shuffle=True), 1)
    return trainer.model


def _atex(
    model: nn.Module, data: tuple[Tensor, Tensor], seed: int, args: Namespace, way: str
) -> nn.Module:
    steps = STEPS[way]
    trainer = ATEXTrainer(
        model, _adam(RATES[way]), seed=seed, **ATEX[way],
        scheduler=lambda o: torch.optim.lr_scheduler.OneCycleLR(o, RATES[way], total_steps=steps),
    )  # fmt: skip
    images = data[0][: BATCH * math.ceil(steps / ATEX[way]["steps_per_batch"])]
    return trainer.model


def _adam(rate: float) -> Any:
    return lambda parameters: torch.optim.Adam(parameters, lr=rate)
