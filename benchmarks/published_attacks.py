"""The attacks of three papers, as they stand there, beside the ensemble at a third of their cost.

They are written from the formulas, with the loops and the settings of the papers, and share nothing
with the attacks of this library: no scoring on the true model unless the paper has it, no restart.

- Ghorbani et al. 2019, iterative feature importance attack, top-k: 300 sign steps of eps / 16 down
  the relevance of the clean top k, on a softplus network; the iterate that keeps the label and has
  the fewest of the clean top k is taken.
- Tang et al. 2021: 200 sign steps down the relevance of the current top k, which is found anew at
  every step, on a softplus network; the last iterate that keeps the label.
- Chen et al. 2019 (RAR): 100 sign steps up the l1 norm of the integrated gradients of the loss from
  the clean image to the iterate, 5 points on the line, from a random start; the last iterate.

All are judged by what is left of the top k of the gradient of the true network. An image whose
label changed counts as not attacked. A gradient evaluation is one double backward pass; those of
RAR are counted per point on the line.

    OMP_NUM_THREADS=1 python benchmarks/published_attacks.py [--n-images 60] [--radii 0.02 0.08]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from captum.attr import Saliency
from torch import Tensor, nn
from torch.nn import functional as F

from captum_robust import attacks, metrics, zoo

parser = argparse.ArgumentParser()
parser.add_argument("--n-images", type=int, default=60)
parser.add_argument("--radii", type=float, nargs="+", default=[0.02, 0.08])
parser.add_argument("--k", type=int, default=50)
parser.add_argument("--beta", type=float, default=10.0, help="of the softplus network")
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
torch.set_flush_denormal(True)

model = zoo.fashion_mnist_cnn().requires_grad_(False)
images, _ = zoo.fashion_mnist_sample(args.n_images)
labels = model(images).argmax(1)
N = len(images)


def softplus_network() -> nn.Module:
    """The same weights, each rectifier a softplus."""
    smooth = zoo.fashion_mnist_cnn().requires_grad_(False)
    for name, module in list(smooth.named_modules()):
        if isinstance(module, nn.ReLU):
            parent = smooth.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], nn.Softplus(args.beta))
    return smooth


smooth = softplus_network()


def saliency(network: nn.Module, x: Tensor, create_graph: bool = False) -> Tensor:
    """Absolute gradients of the label's logit that sum to one, (N, d)."""
    if not x.requires_grad:
        x = x.detach().requires_grad_()
    score = network(x).gather(1, labels[:, None]).sum()
    (gradient,) = torch.autograd.grad(score, x, create_graph=create_graph)
    relevance = gradient.abs().flatten(1)
    return relevance / relevance.sum(1, keepdim=True)


def step(x: Tensor, gradient: Tensor, alpha: float, eps: float) -> Tensor:
    """A sign step downhill, back into the ball and the range of an image."""
    x = x.detach() - alpha * gradient.sign()
    return x.clamp(images - eps, images + eps).clamp(0, 1)


clean_top = saliency(model, images).topk(args.k).indices


def kept_of_top(x: Tensor) -> Tensor:
    mask = torch.zeros(N, images[0].numel()).scatter(1, saliency(model, x).topk(args.k).indices, 1)
    return mask.gather(1, clean_top).mean(1)


def keeps_label(x: Tensor) -> Tensor:
    return model(x).argmax(1) == labels


def ghorbani(eps: float) -> Tensor:
    x, best, least = images, images, torch.ones(N)
    for _ in range(300):
        x = x.detach().requires_grad_()
        loss = saliency(smooth, x, True).gather(1, clean_top).sum()
        x = step(x, torch.autograd.grad(loss, x)[0], eps / 16, eps)
        left = kept_of_top(x)
        better = (left < least) & keeps_label(x)
        least = torch.where(better, left, least)
        best = torch.where(better.view(-1, 1, 1, 1), x, best)
    return best


def tang(eps: float) -> Tensor:
    x, last = images, images
    for _ in range(200):
        x = x.detach().requires_grad_()
        relevance = saliency(smooth, x, True)
        loss = relevance.gather(1, relevance.topk(args.k).indices).sum()
        x = step(x, torch.autograd.grad(loss, x)[0], eps / 50, eps)
        last = torch.where(keeps_label(x).view(-1, 1, 1, 1), x, last)
    return last


RAR_POINTS = 5


def rar(eps: float) -> Tensor:
    generator = torch.Generator().manual_seed(args.seed)
    start = images + eps * (2 * torch.rand(images.shape, generator=generator) - 1)
    x = start.clamp(0, 1)
    for _ in range(100):
        x = x.detach().requires_grad_()
        total = torch.zeros_like(images)
        for i in range(1, RAR_POINTS + 1):
            point = images + (x - images) * (i / RAR_POINTS)
            loss = F.cross_entropy(smooth(point), labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, point, create_graph=True)
            total = total + gradient / RAR_POINTS
        size = ((x - images) * total).abs().sum()
        x = step(x, -torch.autograd.grad(size, x)[0], eps / 10, eps)
    return torch.where(keeps_label(x).view(-1, 1, 1, 1), x, images)


PUBLISHED: dict[str, tuple[Callable[[float], Tensor], int]] = {
    "Ghorbani et al. 2019": (ghorbani, 300),
    "Tang et al. 2021": (tang, 200),
    "Chen et al. 2019": (rar, 100 * RAR_POINTS),
}


def left(changed: Tensor) -> Tensor:
    """Share of the top k that is left."""
    before, after = (
        metrics.explained_relevance(Saliency(model), x.detach(), labels) for x in (images, changed)
    )
    return metrics.top_k_intersection(before, after, args.k)


def shown(values: Tensor) -> str:
    return f"{values.mean():.3f} ± {values.std() / N**0.5:.3f}"


print(f"{N} images of the zoo, top {args.k} of the gradient, seed {args.seed}")
for eps in args.radii:
    for name, (attack, budget) in PUBLISHED.items():
        theirs = left(attack(eps))
        generator = torch.Generator().manual_seed(args.seed)
        ensemble = attacks.AutoExplanationAttack(
            model, eps=eps, measure=attacks.TopKIntersection(args.k), budget=budget // 3,
            generator=generator,
        )  # fmt: skip
        ours = left(ensemble(images, labels))
        print(
            f"eps {eps:<5} {name:21} {budget:4} gradients {shown(theirs)}   "
            f"ensemble, {budget // 3:3} gradients {shown(ours)}",
            flush=True,
        )
