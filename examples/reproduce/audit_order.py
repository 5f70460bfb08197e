"""
Whether an audit gives the same order of explanations again
===========================================================

Explanations of the network of the zoo are ordered by the share of their top k that the strongest
attack leaves. Kendall's tau between the orders of audits with several seeds, and with a larger
budget of the attack.

    python examples/reproduce/audit_order.py [--n-images 100] [--seeds 0 1 2] [--budgets 300 1000]

The audits are one for each seed with the first budget, and one for each further budget with the
first seed. Budgets are for the attack alone, at the largest change; no certificates are computed,
and faithfulness and sensitivity take one draw each, since the order does not depend on them.

After each audit the shares so far are written to ``--out``; with ``--batches FOLDER`` an audit that
was interrupted goes on from its finished batches.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import combinations
from pathlib import Path

import torch
from _report import new_file, table
from scipy.stats import kendalltau

from captum_robust import audit, zoo
from captum_robust.audit import AuditReport, Budget

parser = argparse.ArgumentParser(description="The order of explanations in repeated audits.")
parser.add_argument("--n-images", type=int, default=100)
parser.add_argument("--batch", type=int, default=25)
parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
parser.add_argument("--budgets", type=int, nargs="+", default=[300, 1000])
parser.add_argument("--eps", type=float, default=0.05)
parser.add_argument("--threads", type=int, default=1)
parser.add_argument("--batches", type=Path, help="keep finished batches here, and go on from them")
parser.add_argument("--out", type=Path, default=Path("reproductions/audit_order"))
args = parser.parse_args()
torch.set_num_threads(args.threads)
torch.set_flush_denormal(True)
model = zoo.fashion_mnist_cnn()
images, labels = zoo.fashion_mnist_sample(args.n_images)
batches = list(zip(images.split(args.batch), labels.split(args.batch), strict=True))


def audited(evaluations: int, seed: int) -> tuple[AuditReport, float]:
    """A report, and the processor time that it took."""
    start = time.process_time()
    budget = Budget(evaluations, copies=1, perturbations=1, neighbours=1, flips=1, sizes=(1.0,))
    folder = None if args.batches is None else args.batches / f"{evaluations}-{seed}"
    report = audit.audit(
        model, None, batches, eps=args.eps, budget=budget, certify=False, seed=seed, folder=folder
    )
    return report, time.process_time() - start


def written(left: dict[str, dict[str, float]], seconds: dict[str, float]) -> None:
    """The shares so far, and the agreement of the orders, as JSON and as tables."""
    whole = {"settings": {**vars(args), "batches": None, "out": None}, "left": left,
             "seconds": seconds}  # fmt: skip
    (args.out / "audit_order.json").write_text(json.dumps(whole, indent=1) + "\n")
    file = new_file(args.out, "audit_order.txt")
    names = list(next(iter(left.values())))
    lines = [[name, *(f"{shares[e]:.3f}" for e in names)] for name, shares in left.items()]
    table([["left of the top k", *names], *lines], f"{args.n_images} images", file)
    pairs = [
        [
            f"{a} / {b}",
            f"{kendalltau(list(left[a].values()), list(left[b].values())).statistic:.2f}",
        ]
        for a, b in combinations(left, 2)
    ]
    if pairs:
        table([["audits", "Kendall's tau"], *pairs], "Agreement of the orders", file)


args.out.mkdir(parents=True, exist_ok=True)
first, *others = args.budgets
settings = [*((first, seed) for seed in args.seeds), *((n, args.seeds[0]) for n in others)]
left: dict[str, dict[str, float]] = {}
seconds: dict[str, float] = {}
for evaluations, seed in settings:
    name = f"{evaluations} evaluations, seed {seed}"
    report, seconds[name] = audited(evaluations, seed)
    left[name] = {e: found.left()[-1][1].mean for e, found in report.explanations.items()}
    print(f"{name}: {seconds[name]:.0f} s of processor time", flush=True)
    written(left, seconds)
