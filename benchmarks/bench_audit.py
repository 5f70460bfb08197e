"""An audit against its parts called by hand: attacks, noise, metrics and certificates alone.

By hand nothing is stored, no interval is computed and no report is made. Both sides run in turns in
one process; what is compared is the processor time.

    python benchmarks/bench_audit.py [--images 6] [--rounds 3] [--budget quick] [--threads 1]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from captum.attr import Attribution, Saliency
from torch import Tensor

from captum_robust import attacks, audit, certificates, metrics, perturbations, zoo
from captum_robust.attr import BetaSmoothedGradient, SparsifiedSmoothing
from captum_robust.audit.settings import BUDGETS

EPS, K, RADII = 0.05, 50, (0.05, 0.1, 0.2)

parser = argparse.ArgumentParser(description="Overhead of an audit over its parts.")
parser.add_argument("--images", type=int, default=6)
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--budget", choices=list(BUDGETS), default="quick")
parser.add_argument("--threads", type=int, default=1)
args = parser.parse_args()
torch.set_num_threads(args.threads)
warnings.simplefilter("ignore", UserWarning)

model = zoo.fashion_mnist_cnn()
images, labels = zoo.fashion_mnist_sample(args.images)
explanations = {
    "gradient": Saliency(model),
    "beta-smoothed gradient": BetaSmoothedGradient(model, beta=1.0),
}


def whole() -> None:
    """The audit, with its report."""
    report = audit.audit(
        model, explanations, [(images, labels)], eps=EPS, k=K, budget=args.budget,
        show_progress=False,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        report.to_html(Path(folder) / "audit.html")
        report.to_json(Path(folder) / "audit.json")


def by_hand() -> None:
    """What the audit calls."""
    with torch.no_grad():
        target = model(images).argmax(1)
    maps = [parts(explanation, target) for explanation in explanations.values()]
    metrics.spearman_correlation(*maps)


def parts(explanation: Attribution, target: Tensor) -> Tensor:
    """The measurements of one explanation; returns its maps."""
    budget, seeded = BUDGETS[args.budget], torch.Generator().manual_seed(0)
    attributions = explanation.attribute(images, target=target).detach()
    clean = metrics.relevance_map(attributions)
    clean = clean / clean.flatten(1).sum(1).view(-1, 1, 1)
    for fraction in budget.sizes:
        eps = fraction * EPS
        strongest = attacks.AutoExplanationAttack(
            model, explanation, eps, measure=attacks.TopKIntersection(K),
            budget=budget.evaluations, generator=seeded,
        )  # fmt: skip
        for attack in (strongest, attacks.RandomSign(model, explanation, eps, generator=seeded)):
            moved = metrics.explained_relevance(explanation, attack(images, target), target)
            metrics.top_k_intersection(clean, moved, K)
            metrics.spearman_correlation(clean, moved)
            metrics.structural_similarity(clean, moved)
    removal = perturbations.SquareRemoval(range(1, 10))
    order = torch.rand(len(images), 784, generator=seeded).argsort(1)
    shuffled = attributions.flatten(1).gather(1, order).view_as(attributions)
    for values in (attributions, shuffled):
        metrics.infidelity(
            model, removal, images, values, target=target, normalize=True,
            n_perturb_samples=budget.perturbations, generator=seeded,
        )  # fmt: skip
    for ranked in (attributions, None):
        metrics.pixel_flipping(
            model, images, ranked, target=target, n_steps=budget.flips, generator=seeded
        ).area()
    metrics.sensitivity_max(
        explanation, images, perturb_radius=EPS, n_perturb_samples=budget.neighbours,
        target=target, generator=seeded,
    )  # fmt: skip
    smoothed = SparsifiedSmoothing(explanation, kept=0.1, stdev=0.5)
    certificates.certify_top_k(
        smoothed, images, RADII, K, target=target, n_samples=budget.copies, seed=0
    )
    metrics.parameter_randomization(
        explanation, images, model, layers=[""], target=target, generator=seeded
    )
    return clean


def seconds(run: Callable[[], None]) -> float:
    """Of the processor."""
    start = time.process_time()
    run()
    return time.process_time() - start


def main() -> None:
    whole()
    by_hand()
    ratios = []
    for i in range(args.rounds):
        pair = [
            (name, seconds(run))
            for name, run in (("audit", whole), ("hand", by_hand))[:: 1 - 2 * (i % 2)]
        ]
        found = dict(pair)
        ratios.append(found["audit"] / found["hand"])
        print(f"audit {found['audit']:.2f} s, by hand {found['hand']:.2f} s, {ratios[-1]:.3f}")
    print(f"median ratio {statistics.median(ratios):.3f}, {args.images} images, {args.budget}")


main()
