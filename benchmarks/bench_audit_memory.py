"""Peak memory of an audit against the number of examples, each in a process of its own.

The examples are those of the zoo, repeated, made when the loader is asked for them.

    python benchmarks/bench_audit_memory.py [--examples 200 2000] [--threads 1]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from _memory import resident_peak
from captum.attr import Saliency
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from captum_robust import audit, zoo
from captum_robust.audit import Budget

parser = argparse.ArgumentParser(description="Peak memory of audits of more and more examples.")
parser.add_argument("--examples", type=int, nargs="+", default=[200, 2000])
parser.add_argument("--threads", type=int, default=1)
parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
args = parser.parse_args()
torch.set_num_threads(args.threads)


class Repeated(Dataset):
    """The images of the zoo, again and again."""

    def __init__(self, n: int) -> None:
        self.n, (self.images, self.labels) = n, zoo.fashion_mnist_sample()

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index % len(self.images)], self.labels[index % len(self.images)]


def inside(n: int) -> None:
    """Audit, write report and numbers, and print the peak of this process."""
    model = zoo.fashion_mnist_cnn()
    explanations = {"gradient": Saliency(model)}
    report = audit.audit(
        model, explanations, DataLoader(Repeated(n), batch_size=50), eps=0.05,
        budget=Budget(evaluations=2, copies=4, perturbations=2, neighbours=1, flips=1),
        show_progress=False,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        report.to_json(Path(folder) / "audit.json")
        report.to_html(Path(folder) / "audit.html")
    print(resident_peak())


def main() -> None:
    first = None
    for n in args.examples:
        options = ["--inside", "--examples", str(n), "--threads", str(args.threads)]
        peak = float(subprocess.check_output([sys.executable, __file__, *options], text=True))
        first = first or peak
        print(f"{n} examples: peak {peak:.0f} MiB, {peak / first:.3f} of the first", flush=True)


if args.inside:
    inside(args.examples[0])
else:
    main()
