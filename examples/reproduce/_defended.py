"""Networks whose explanations are defended, each beside the one that it comes from."""

from __future__ import annotations

import math
from argparse import Namespace
from functools import partial
from typing import Any

import torch
from _data import fashion_mnist, mnist
from _networks import network
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from captum_robust.training import ATEXTrainer, CrossEntropy, SoftplusNetwork, Trainer

DATA = {"fashion-mnist": fashion_mnist, "mnist": mnist}

# How ATEX trains: with uniform points and the temperature of the published code, or with the
# farthest of the perpendicular points, found by a search of one step. ``rate`` is the highest of
# one cycle of the learning rate.
SETTINGS: dict[str, dict[str, Any]] = {
    "ATEX": {
        "steps": 1200, "batch": 50, "rate": 3e-3, "delta1": 0.32, "delta2": 1.0,
        "norm": math.inf, "n_across": 8, "alpha": 2.5, "temperature": 4.0,
    },
    "ATEX, searched": {
        "steps": 1500, "batch": 100, "rate": 3e-3, "delta1": 0.32, "delta2": 0.5,
        "n_across": 1, "search": 1, "alpha": 10.0, "temperature": 1.0,
    },
}  # fmt: skip
REPEATS = 4  # steps on each batch


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
    """Trained on with smooth rectifiers, so that its accuracy is that of before."""
    trainer = Trainer(model, CrossEntropy(), _adam(5e-4), seed=seed, accelerator=_on(args))
    trainer.fit(DataLoader(TensorDataset(*data), 128, shuffle=True), 1)
    return trainer.model


def _atex(
    model: nn.Module, data: tuple[Tensor, Tensor], seed: int, args: Namespace, way: str
) -> nn.Module:
    settings = dict(SETTINGS[way])
    steps, batch, rate = (settings.pop(name) for name in ("steps", "batch", "rate"))
    trainer = ATEXTrainer(
        model, _adam(rate), seed=seed, steps_per_batch=REPEATS, accelerator=_on(args), **settings,
        scheduler=lambda o: torch.optim.lr_scheduler.OneCycleLR(o, rate, total_steps=steps),
    )  # fmt: skip
    order = torch.randperm(len(data[0]), generator=torch.Generator().manual_seed(seed))
    images = data[0][order[: batch * steps // REPEATS]]  # labels are not needed
    trainer.fit(DataLoader(images, batch, shuffle=True), 1)
    return trainer.model


def _adam(rate: float) -> Any:
    return lambda parameters: torch.optim.Adam(parameters, lr=rate)


def _on(args: Namespace) -> Accelerator:
    return Accelerator(cpu=args.device == "cpu")
