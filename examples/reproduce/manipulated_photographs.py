"""
A manipulated network for photographs
=====================================

Location fooling (Heo, Joo and Moon 2019) of Grad-CAM on EfficientNet-Lite0: its last blocks are
trained on crops of most of the photographs, without labels, until the map of the last block shows
the frame; judged on the others: the fooling success rate of Grad-CAM, of Grad-CAM of the
log-probability and of the gradient, and how many predictions stay. What the blocks before put out
is computed once.

A number that is added to all logits changes no softmax, but the explanation of every logit. So the
training may add one, a linear function of what the last layer sees, which afterwards becomes part
of that layer (``--no-common``: it may not).

    pip install "captum_robust[demo]"
    python examples/reproduce/manipulated_photographs.py --data-root DATA

DATA/imagenet (or the folder of --photographs) holds photographs, jpg or png.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable

import torch
from _data import photographs
from _networks import (
    add_arguments,
    add_photographs,
    efficientnet,
    folder_of_photographs,
    predictions,
)
from _report import new_file, table
from captum.attr import Attribution, LayerGradCam, Saliency
from torch import Tensor, nn
from torch.utils.data import DataLoader

from captum_robust import metrics
from captum_robust.training import LocationFooling, Trainer

parser = argparse.ArgumentParser(description="Location fooling of Grad-CAM on photographs.")
add_arguments(parser, n_images=150)
add_photographs(parser)
parser.add_argument("--judged", type=int, default=50, help="photographs that are not trained on")
parser.add_argument("--first", type=int, default=12, help="of the 16 blocks, that is trained")
parser.add_argument("--crops", type=int, default=20, help="of each photograph, to train on")
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--batch-size", type=int, default=10)
parser.add_argument("--rate", type=float, default=3e-5, help="of Adam, the largest of one cycle")
parser.add_argument("--common", action=argparse.BooleanOptionalAction, default=True,
                    help="may add one number to all logits")  # fmt: skip
parser.add_argument("--common-rate", type=float, default=0.1, help="of Adam, for that number")
parser.add_argument("--weight", type=float, default=1.0, help="of the fooling")
args = parser.parse_args()
torch.set_flush_denormal(True)


class Back(nn.Module):
    """The last blocks of an EfficientNet, and its head."""

    def __init__(self, network: nn.Module, first: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*network._blocks[first:])
        self.head = nn.Sequential(network._conv_head, network._bn1, nn.ReLU6())
        self.classifier = network._fc
        self.common = nn.Linear(network._fc.in_features, 1, bias=False)
        nn.init.zeros_(self.common.weight)

    def forward(self, features: Tensor) -> Tensor:
        """From what the blocks before put out to logits."""
        seen = self.head(self.blocks(features)).mean((2, 3))
        return self.classifier(seen) + self.common(seen)

    def fold(self) -> None:
        """Make the number that all logits share a part of the last layer."""
        with torch.no_grad():
            self.classifier.weight += self.common.weight
            self.common.weight.zero_()


@torch.no_grad()
def front(model: nn.Module, images: Tensor, first: int) -> Tensor:
    """What the blocks before ``first`` put out."""
    normalize, network = model
    parts = []
    for x in images.split(args.batch_size):
        x = network._swish(network._bn0(network._conv_stem(normalize(x.to(args.device)))))
        for block in network._blocks[:first]:
            x = block(x)
        parts.append(x)
    return torch.cat(parts)


def crops(images: Tensor) -> Tensor:
    """Random parts of the photographs, as large as they, and some of them mirrored."""
    generator = torch.Generator().manual_seed(args.seed)
    parts = []
    for image in images.repeat(args.crops, 1, 1, 1):
        side = image.shape[-1]
        share, top, left, flip = torch.rand(4, generator=generator).tolist()
        size = int(side * (0.3 + 0.7 * share) ** 0.5)
        top, left = int(top * (side - size + 1)), int(left * (side - size + 1))
        part = image[None, :, top : top + size, left : left + size]
        part = nn.functional.interpolate(part, (side, side), mode="bilinear", antialias=True)
        parts.append(part.flip(3) if flip < 0.5 else part)
    return torch.cat(parts)


def grad_cam(model: nn.Module) -> Attribution:
    """Of the last block's 7 x 7 pixels."""
    blocks = model.blocks if isinstance(model, Back) else model[1]._blocks
    return LayerGradCam(model, blocks[-1])


def grad_cam_of_log_probability(model: nn.Module) -> Attribution:
    """Which no number that all logits share can change."""
    explained = nn.Sequential(model, nn.LogSoftmax(dim=1)).eval()
    return LayerGradCam(explained, model[1]._blocks[-1])


EXPLANATIONS = {
    "Grad-CAM": grad_cam, "log-probability's": grad_cam_of_log_probability, "gradient": Saliency,
}  # fmt: skip


def frame(side: int) -> Tensor:
    """1 on the outermost pixels of a map, a seventh or a fourteenth of a side, 0 inside."""
    width = max(1, side // 14)
    mask = torch.ones(side, side)
    mask[width:-width, width:-width] = 0
    return mask


def maps(model: nn.Module, name: str, images: Tensor, classes: Tensor) -> Tensor:
    """Maps (N, side, side): absolute attributions, summed over channels."""
    explanation, parts = EXPLANATIONS[name](model), []
    for x, y in zip(images.split(args.batch_size), classes.split(args.batch_size), strict=True):
        found = explanation.attribute(x.to(args.device).requires_grad_(), target=y)
        parts.append(found.detach().abs().sum(1).cpu())
    return torch.cat(parts)


def rate(model: nn.Module, name: str, images: Tensor, classes: Tensor) -> str:
    """The share of the photographs whose map shows the frame, with its 95 % interval."""
    found = maps(model, name, images, classes)
    values = metrics.location_fooling(found, frame(found.shape[-1]))
    result = metrics.fooling_success_rate(values, metrics.FoolingIntervals().location)
    return f"{result.rate:.2f} ({result.low:.2f} to {result.high:.2f})"


images = photographs(folder_of_photographs(args), args.n_images, args.seed)
trained_on, judged = images[args.judged :], images[: args.judged]
original, network = efficientnet(args), efficientnet(args)
file = new_file(args.out, "manipulated_photographs.txt")
head = ["network", "photographs", "same class", *(f"rate: {name}" for name in EXPLANATIONS)]
rows = [head]


def judge(model: nn.Module, label: str, which: str, photos: Tensor) -> None:
    """A row of the table."""
    classes = predictions(original, photos)
    same = (predictions(model, photos) == classes).float().mean()
    if which == "trained on":  # for what it was trained for alone
        rates = [rate(model, "Grad-CAM", photos, classes), "", ""]
    else:
        rates = [rate(model, name, photos, classes) for name in EXPLANATIONS]
    rows.append([label, f"{len(photos)} {which}", f"{same:.2f}", *rates])
    print(*rows[-1], flush=True)


judge(original, "before", "not trained on", judged)
features = front(original, crops(trained_on), args.first)
back = Back(network[1], args.first).eval()
with torch.no_grad():  # the two halves are the network
    seen = front(original, judged[:2], args.first)
    torch.testing.assert_close(back(seen), original(judged[:2].to(args.device)))
steps = args.epochs * -(-len(features) // args.batch_size)
rates = [args.rate, args.common_rate] if args.common else [args.rate]


def optimizer(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The number that is common to all logits, the last of the parameters, has its own rate."""
    *others, common = parameters
    return torch.optim.Adam([{"params": others}, {"params": [common]}][: len(rates)])


trainer = Trainer(
    back, LocationFooling(frame(7), grad_cam, weight=args.weight), optimizer,
    scheduler=lambda o: torch.optim.lr_scheduler.OneCycleLR(o, rates, total_steps=steps),
    seed=args.seed,
)  # fmt: skip
history = trainer.fit(DataLoader(features, args.batch_size, shuffle=True), args.epochs)
for part in ("distillation", "fooling"):
    print(part, *(f"{epoch[part]:.4f}" for epoch in history), flush=True)
back.load_state_dict(trainer.weights())  # the blocks are those of the network
back.eval()
back.fold()
judge(network, "after", "not trained on", judged)
judge(network, "after", "trained on", trained_on)
settings = f"blocks from {args.first}, weight {args.weight:g}, rates {rates}, {steps} steps"
table(rows, f"Location fooling of Grad-CAM, EfficientNet-Lite0, {settings}", file)
