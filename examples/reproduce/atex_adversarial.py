"""
Adversarial training after ATEX
===============================

Figure 4 of Tang et al. (2021): a network is trained by ATEX for 0 to 5 rounds; after each, a copy
is trained on with 50,000 adversarial examples of FGSM, made for that network, beside the original
data, and attacked by FGSM anew (eps 0.1). The paper finds that more rounds of ATEX make the
adversarial training more effective.

    python examples/reproduce/atex_adversarial.py --data-root DATA [--data mnist] [--seeds 3]

On MNIST about twenty minutes on one core.
"""

from __future__ import annotations

import argparse
import math
import statistics

import matplotlib.pyplot as plt
import torch
import torchattacks
from _data import fashion_mnist, mnist
from _networks import accuracy, add_arguments, fit, mnist_cnn
from _report import new_file, table
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from captum_robust.training import ATEXTrainer, CrossEntropy, Trainer

DATA = {"mnist": mnist, "fashion-mnist": fashion_mnist}

parser = argparse.ArgumentParser(description="FGSM training after rounds of ATEX.")
add_arguments(parser, n_images=10_000)
parser.add_argument("--data", choices=DATA, default="mnist")
parser.add_argument("--seeds", type=int, default=3)
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--round-steps", type=int, default=300, help="steps of ATEX in a round")
parser.add_argument("--eps", type=float, default=0.1)
parser.add_argument("--n-adversarial", type=int, default=50_000)
parser.add_argument("--epochs", type=int, default=1, help="of the adversarial training")
args = parser.parse_args()

images, labels = DATA[args.data](args.data_root, True)
test_images, test_labels = (x[: args.n_images] for x in DATA[args.data](args.data_root, False))


def attacked(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """FGSM's images."""
    fgsm = torchattacks.FGSM(model, eps=args.eps)
    return torch.cat([fgsm(*part) for part in zip(x.split(500), y.split(500), strict=True)])


def adversarially_trained(model: nn.Module, seed: int) -> nn.Module:
    """A copy trained on with its own adversarial examples."""
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    chosen = chosen[: args.n_adversarial]
    examples = attacked(model, images[chosen], labels[chosen]).cpu()
    data = TensorDataset(torch.cat([images, examples]), torch.cat([labels, labels[chosen]]))
    trainer = Trainer(
        model, CrossEntropy(), lambda p: torch.optim.Adam(p, lr=1e-3), seed=seed, measures={},
        accelerator=Accelerator(cpu=args.device == "cpu"),
    )  # fmt: skip
    trainer.fit(DataLoader(data, 128, shuffle=True), args.epochs, show_progress=False)
    return trainer.model.eval()


file = new_file(args.out, f"atex_adversarial-{args.data}.txt")
columns: dict[str, list[list[float]]] = {"clean": [], "robust": [], "ATEX alone": []}
for seed in range(args.seeds):
    torch.manual_seed(seed)
    start = fit(mnist_cnn(), images, labels, epochs=3, device=args.device, seed=seed)
    trainer = ATEXTrainer(
        start, delta1=0.32, delta2=1.0, norm=math.inf, alpha=2.5, steps_per_batch=4, seed=seed,
        measures={}, accelerator=Accelerator(cpu=args.device == "cpu"),
    )  # fmt: skip
    shown = images[: 50 * args.round_steps // 4]
    found: dict[str, list[float]] = {name: [] for name in columns}
    for number in range(args.rounds + 1):
        if number > 0:
            trainer.fit(DataLoader(shown, 50, shuffle=True), number, show_progress=False)
        model = trainer.model.eval()
        trained = adversarially_trained(model, seed)
        found["clean"].append(accuracy(trained, test_images, test_labels))
        for name, one in (("robust", trained), ("ATEX alone", model)):
            found[name].append(
                accuracy(one, attacked(one, test_images, test_labels).cpu(), test_labels)
            )
        print(seed, number, {name: f"{v[-1]:.4f}" for name, v in found.items()}, flush=True)
    for name, values in found.items():
        columns[name].append(values)


def spread(values: tuple[float, ...]) -> str:
    """Mean and standard deviation over the seeds."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.4f} ± {deviation:.4f}"


head = ["rounds of ATEX", "clean accuracy", "under FGSM", "under FGSM, ATEX alone"]
rows = [
    [str(number), *(spread(tuple(v[number] for v in c)) for c in columns.values())]
    for number in range(args.rounds + 1)
]
table(
    [head, *rows],
    f"{args.data}: FGSM training after ATEX, eps {args.eps}, {args.seeds} seeds",
    file,
)
figure, axis = plt.subplots(figsize=(5, 3.5))
for values in columns["robust"]:
    axis.plot(values, "o-", color="tab:blue", alpha=0.6)
axis.set(xlabel="rounds of ATEX", ylabel="accuracy under FGSM", title=args.data)
figure.savefig(args.out / f"atex_adversarial-{args.data}.png", dpi=120, bbox_inches="tight")
