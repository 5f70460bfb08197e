"""Share of certified pixels at the settings of Anani et al. (2025), for five explanations.

Noise of standard deviation 0.15, 100 copies, threshold 0.75, alpha 0.001 over all pixels of an
image, the most relevant 50, 25 or 5 per cent kept. With ``--network zoo`` Fashion-MNIST, with
``--network efficientnet`` photographs (needs the extra ``demo``). One pass of each explanation
serves all three shares.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator

import torch
from _data import photographs
from _networks import add_arguments, add_photographs, efficientnet, folder_of_photographs
from _remembered import Remembered
from _report import mean_and_error, new_file, table
from captum.attr import Attribution, InputXGradient, IntegratedGradients, Saliency
from torch import Tensor, nn
from tqdm import tqdm

from captum_robust import zoo
from captum_robust.attr import GuidedBackprop, RelevancePropagation, SparsifiedSmoothing
from captum_robust.certificates import certify_pixels

KEPT = (0.5, 0.25, 0.05)
STDEV, COPIES, THRESHOLD, ALPHA = 0.15, 100, 0.75, 0.001


NAMES = ["gradient", "input x gradient", "integrated gradients", "guided backpropagation", "LRP"]


def explanations(model: nn.Module, steps: int) -> Iterator[tuple[str, Attribution, dict]]:
    """The methods of the table, with the arguments of each."""
    yield "gradient", Saliency(model), {}
    yield "input x gradient", InputXGradient(model), {}
    yield "integrated gradients", IntegratedGradients(model), {"n_steps": steps}
    yield "guided backpropagation", GuidedBackprop(model), {}
    # Noisy copies leave [0, 1]: these bounds are six standard deviations away.
    yield "LRP", RelevancePropagation(model, -0.9, 1.9), {}


def chosen(args: Namespace) -> tuple[nn.Module, Tensor]:
    """The network and its images."""
    if args.network == "zoo":
        return zoo.fashion_mnist_cnn().to(args.device), zoo.fashion_mnist_sample(args.n_images)[0]
    return efficientnet(args), photographs(folder_of_photographs(args), args.n_images, args.seed)


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    add_arguments(parser, n_images=50)
    add_photographs(parser)
    parser.add_argument("--network", choices=["zoo", "efficientnet"], default="zoo")
    parser.add_argument("--explanations", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--ig-steps", type=int, default=10, help="of integrated gradients")
    parser.add_argument("--batch", type=int, default=320, help="noisy copies in a pass")
    args = parser.parse_args()
    model, images = chosen(args)
    model.to(memory_format=torch.channels_last).requires_grad_(False)  # faster on a processor
    file = new_file(args.out, f"certified_pixels_{args.network}.txt")
    rows = [["explanation", *(f"{kept:.0%} kept" for kept in KEPT), "relevant, 5% kept"]]
    for name, method, arguments in explanations(model, args.ig_steps):
        if name not in args.explanations:
            continue
        remembered, shares, relevant = Remembered(method), [], []
        for image in tqdm(images.split(1), desc=name):
            found = [
                certify_pixels(
                    SparsifiedSmoothing(remembered, kept=kept, stdev=STDEV), image.to(args.device),
                    THRESHOLD, n_samples=COPIES, alpha=ALPHA, seed=args.seed,
                    internal_batch_size=args.batch, **arguments,
                )
                for kept in KEPT
            ]  # fmt: skip
            remembered.forget()
            shares.append(torch.cat([f.certified_share for f in found]))
            relevant.append((torch.as_tensor(found[-1].verdict) == 1).double().mean())
        each = torch.stack(shares, 1)
        rows.append([name, *map(mean_and_error, each), mean_and_error(torch.stack(relevant))])
    title = (
        f"Share of pixels with a certified verdict: {args.network}, {len(images)} images, s = "
        f"{STDEV}, {COPIES} copies, threshold {THRESHOLD}, alpha {ALPHA}; torch {torch.__version__}"
    )
    table(rows, title, file)


if __name__ == "__main__":
    main()
