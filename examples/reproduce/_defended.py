"""Networks whose explanations are defended, each beside the one that it comes from."""

from __future__ import annotations

import math
from argparse import Namespace
from functools import partial
from typing import Any

import torch
from _data import fashion_mnist, mnist
from _networks import fit, mnist_cnn
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from captum_robust.training import ATEXTrainer, CrossEntropy, SoftplusNetwork, Trainer

DATA = {"fashion-mnist": fashion_mnist, "mnist": mnist}
STEPS = {"fashion-mnist": 3000, "mnist": 1200}

# How ATEX trains: with uniform points and the temperature of the published code; with the farthest
# of the perpendicular points, found by a search of one step; or so, and along the explanations of
# the network as it is at the time. ``rate`` is the highest of one cycle of the learning rate.
_SEARCHED: dict[str, Any] = {
    "batch": 100, "rate": 1e-2, "delta1": 2.0, "delta2": 0.6, "n_perpendicular": 1, "search": 1,
    "alpha": 20.0, "temperature": 1.0,
}  # fmt: skip
SETTINGS: dict[str, dict[str, Any]] = {
    "ATEX": {
        "batch": 50, "rate": 5e-3, "delta1": 0.32, "delta2": 1.0, "norm": math.inf,
        "n_perpendicular": 8, "alpha": 2.5, "temperature": 4.0,
    },
    "ATEX, searched": _SEARCHED,
    "ATEX, following": {**_SEARCHED, "follow_student": True},
}  # fmt: skip
WAYS = ("none", "softplus", *SETTINGS)
REPEATS = 5  # steps on each batch


def defended(data: str, way: str, seed: int, args: Namespace) -> nn.Module:
    """The network of ``data`` and ``seed`` after one of ``WAYS``.

    Trained where ``args.networks`` has no file of it.
    """
    torch.manual_seed(seed)  # of the initial weights
    plain = mnist_cnn()
    model = SoftplusNetwork(plain, beta=10.0) if way == "softplus" else plain
    path = args.networks / f"{data}-{way.replace(', ', '-')}-{seed}.pt"
    if not path.exists():
        print(f"{path} is not there: training the network", flush=True)
        examples = DATA[data](args.data_root, True)
        if way == "none":
            fit(plain, *examples, epochs=5, device=args.device, seed=seed)
        else:
            plain.load_state_dict(defended(data, "none", seed, args).cpu().state_dict())
            make = _softplus if way == "softplus" else partial(_atex, way=way, steps=STEPS[data])
            model = make(model, examples, seed, args)
        args.networks.mkdir(parents=True, exist_ok=True)
        torch.save(model.cpu().state_dict(), path)
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.to(args.device).eval()


def _softplus(
    model: nn.Module, data: tuple[Tensor, Tensor], seed: int, args: Namespace
) -> nn.Module:
    """Trained on with smooth rectifiers, so that its accuracy is that of before."""
    trainer = Trainer(model, CrossEntropy(), _adam(5e-4), seed=seed, accelerator=_on(args))
    trainer.fit(DataLoader(TensorDataset(*data), 128, shuffle=True), 1)
    return trainer.model


def _atex(
    model: nn.Module,
    data: tuple[Tensor, Tensor],
    seed: int,
    args: Namespace,
    way: str,
    steps: int,
) -> nn.Module:
    settings = dict(SETTINGS[way])
    batch, rate = settings.pop("batch"), settings.pop("rate")
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
