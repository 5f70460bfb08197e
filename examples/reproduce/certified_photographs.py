"""Certified top-k of photographs: EfficientNet-Lite0, the gradient, by pixels and by blocks.

A pixel's gradient hardly stands out from that of its 50,000 neighbours, and a bound that holds for
all of them at once needs many copies; the 196 blocks of 16 x 16 pixels are another matter. One pass
of the gradient for each noisy copy serves both. Needs the extra ``demo``.
"""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

import torch
from _data import photographs
from _networks import add_arguments, add_photographs, efficientnet, folder_of_photographs
from _remembered import Remembered
from _report import mean_and_error, new_file, table
from captum.attr import Attribution, Saliency
from torch import Tensor
from tqdm import tqdm

from captum_robust.attr import SparsifiedSmoothing
from captum_robust.certificates import certify_top_k, collect_counts

RADII = (0.025, 0.05, 0.1, 0.2, 0.5)


class Blocks(Attribution):
    """The mean of an explanation over each block of 16 x 16 pixels."""

    def __init__(self, method: Attribution) -> None:
        super().__init__(method.forward_func)
        self.method = method

    def attribute(self, inputs: Tensor, target: Tensor, **kwargs: Any) -> Tensor:
        """Relevance of the blocks, (N, 1, H / 16, W / 16)."""
        pixels = self.method.attribute(inputs, target=target, **kwargs)
        return torch.nn.functional.avg_pool2d(pixels, 16)


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    add_arguments(parser, n_images=20)
    add_photographs(parser)
    parser.add_argument("--n-samples", type=int, default=300, help="noisy copies of a photograph")
    parser.add_argument("--stdev", type=float, default=0.15)
    parser.add_argument("--batch", type=int, default=20, help="noisy copies in a pass")
    args = parser.parse_args()
    model = efficientnet(args).to(memory_format=torch.channels_last).requires_grad_(False)
    images = photographs(folder_of_photographs(args), args.n_images, args.seed)
    remembered = Remembered(Saliency(model))
    ways = {"pixels": (remembered, 1000), "blocks": (Blocks(remembered), 20)}
    found: dict[str, list[Tensor]] = {way: [] for way in ways}
    for image in tqdm(images.split(1), desc="photographs"):
        for way, (method, k) in ways.items():
            smoothing = SparsifiedSmoothing(method, kept=0.1, stdev=args.stdev)
            counts = collect_counts(
                smoothing, image.to(args.device), args.n_samples, seed=args.seed,
                internal_batch_size=args.batch,
            )  # fmt: skip
            certificate = certify_top_k(counts, radii=RADII, k=k)
            found[way].append(certificate.overlap)
        remembered.forget()
    rows = [["features", "k", *(f"within {r}" for r in RADII)]]
    for way, (_, k) in ways.items():
        rows.append([way, str(k), *map(mean_and_error, torch.cat(found[way]).T)])
    title = (
        f"Certified overlap of the top k within l2 balls; {len(images)} photographs, "
        f"{args.n_samples} copies, s = {args.stdev}, 10 % kept, alpha 0.05; torch "
        f"{torch.__version__}"
    )
    table(rows, title, new_file(args.out, "certified_photographs.txt"))


if __name__ == "__main__":
    main()
