"""
Whether an audit gives the same order of explanations again
===========================================================

Explanations of the network of the zoo are ordered by the share of their top k that the strongest
attack leaves. Kendall's tau between the orders of audits with several seeds, and with a larger
budget of the attack.

    python examples/reproduce/audit_order.py [--images 100] [--standard 300] [--thorough 1000]

Both budgets are for the attack alone, at the largest change; no certificates are computed, and
faithfulness and sensitivity take one draw each, since the order does not depend on them.
"""

from __future__ import annotations

import argparse
import time
from itertools import combinations

import torch
from _report import table
from scipy.stats import kendalltau

from captum_robust import audit, zoo
from captum_robust.audit import AuditReport, Budget

parser = argparse.ArgumentParser(description="The order of explanations in repeated audits.")
parser.add_argument("--images", type=int, default=100)
parser.add_argument("--batch", type=int, default=25)
parser.add_argument("--seeds", type=int, default=3)
parser.add_argument("--standard", type=int, default=300)
parser.add_argument("--thorough", type=int, default=1000)
parser.add_argument("--eps", type=float, default=0.05)
parser.add_argument("--threads", type=int, default=1)
args = parser.parse_args()
torch.set_num_threads(args.threads)
torch.set_flush_denormal(True)
model = zoo.fashion_mnist_cnn()
images, labels = zoo.fashion_mnist_sample(args.images)
batches = list(zip(images.split(args.batch), labels.split(args.batch), strict=True))


def audited(evaluations: int, seed: int) -> tuple[AuditReport, float]:
    """A report, and the processor time that it took."""
    start = time.process_time()
    budget = Budget(evaluations, copies=1, perturbations=1, neighbours=1, flips=1, sizes=(1.0,))
    report = audit.audit(
        model, None, batches, eps=args.eps, budget=budget, certify=False, seed=seed
    )
    return report, time.process_time() - start


settings = {f"standard, seed {seed}": (args.standard, seed) for seed in range(args.seeds)}
settings["thorough, seed 0"] = (args.thorough, 0)
left, lines = {}, []
for name, (evaluations, seed) in settings.items():
    report, seconds = audited(evaluations, seed)
    left[name] = [found.left()[-1][1].mean for found in report.explanations.values()]
    print(f"{name}: {seconds:.0f} s of processor time", flush=True)
    lines.append([name, *(f"{share:.3f}" for share in left[name])])
table([["left of the top k", *report.explanations], *lines], f"{args.images} images")
pairs = [
    [f"{a} / {b}", f"{kendalltau(left[a], left[b]).statistic:.2f}"]
    for a, b in combinations(settings, 2)
]
table([["audits", "Kendall's tau"], *pairs], "Agreement of the orders")
