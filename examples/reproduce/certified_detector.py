"""How well manipulated explanations are told from clean ones, also where the attack knows the test.

Fitted to 200 clean images of Fashion-MNIST, or of CIFAR-10 with ``--network cifar10``, judged on
others: those the attacks change, the same with random noise of the same size, and clean ones, also
in other splits of the clean images. The adaptive attack descends the detector's score beside its
own objective.
"""

from __future__ import annotations

from argparse import ArgumentParser

import torch
from _data import cifar10
from _networks import add_arguments, network
from _report import mean_and_error, new_file, table
from captum.attr import Saliency
from torch import Tensor, nn
from tqdm import tqdm

from captum_robust import attacks, zoo
from captum_robust.attr import BetaSmoothedGradient, differentiable, softplus_activations
from captum_robust.certificates import ManipulationDetector
from captum_robust.metrics import relevance_map, top_k_intersection

K = 50


def relevance(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Relevance maps of the gradient."""
    return relevance_map(Saliency(model).attribute(images.clone().requires_grad_(), target=labels))


def auc(clean: Tensor, attacked: Tensor) -> float:
    """The chance that an attacked image scores above a clean one."""
    above = (attacked[:, None] > clean).double() + 0.5 * (attacked[:, None] == clean).double()
    return above.mean().item()


def adaptive(
    model: nn.Module,
    detector: ManipulationDetector,
    images: Tensor,
    labels: Tensor,
    eps: float,
    steps: int,
    weight: float,
) -> Tensor:
    """Signed steps on the top-k mass plus ``weight`` times the score; the best allowed iterate.

    Allowed are iterates with the predicted label; the best keeps the score below the median of the
    clean images and has the least mass.
    """
    explain = differentiable(BetaSmoothedGradient(model, 10.0))
    clean = relevance(model, images, labels).flatten(1)
    top = clean.topk(K).indices
    limit = detector.scores(images, labels).median()
    best, lowest = images.clone(), torch.full((len(images),), torch.inf)
    x = images
    for step in range(steps):
        x = x.detach().requires_grad_()
        maps = explain(x, target=labels).abs().flatten(1)
        loss = (maps / maps.sum(1, keepdim=True)).gather(1, top).sum(1)
        with softplus_activations(10.0):
            loss = loss + weight * detector.score_with_graph(x, labels)
        (gradient,) = torch.autograd.grad(loss.sum(), x)
        size = 2 * eps * (1 - step / steps) / 5
        x = (x.detach() - size * gradient.sign()).clamp(images - eps, images + eps).clamp(0, 1)
        mass = relevance(model, x, labels).flatten(1).gather(1, top).sum(1)
        # Suspicious iterates count as worse than any other, the less suspicious the better.
        excess = (detector.scores(x, labels) - limit).clamp(min=0)
        merit = torch.where(excess > 0, 1 + excess, mass)
        better = (merit < lowest) & (model(x).argmax(1) == labels)
        best = torch.where(better.view(-1, 1, 1, 1), x.detach(), best)
        lowest = torch.where(better, merit, lowest)
    return best


def false_alarms(model: nn.Module, everything: Tensor, splits: int, seed: int) -> list[Tensor]:
    """Shares of clean images with p <= 0.05 and 0.01: fitted to 200, judged on 200, split anew."""
    generator = torch.Generator().manual_seed(seed)
    shares = []
    for _ in tqdm(range(splits), desc="splits"):
        order = torch.randperm(len(everything), generator=generator)
        detector = ManipulationDetector(Saliency(model), seed=seed, abs=False)
        p = detector.fit(everything[order[:200]]).p_values(everything[order[200:400]])
        shares.append(torch.stack([(p <= alpha).double().mean() for alpha in (0.05, 0.01)]))
    return list(torch.stack(shares).T)


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    add_arguments(parser, n_images=100)
    parser.add_argument("--steps", type=int, default=100, help="of the attacks")
    parser.add_argument("--adaptive-images", type=int, default=16)
    parser.add_argument("--adaptive-steps", type=int, default=25)
    parser.add_argument("--weight", type=float, default=0.02, help="of the score, adaptive attack")
    parser.add_argument("--network", choices=["zoo", "cifar10"], default="zoo")
    parser.add_argument("--splits", type=int, default=20, help="of the clean images")
    args = parser.parse_args()
    if args.network == "zoo":
        model, everything = zoo.fashion_mnist_cnn(), zoo.fashion_mnist_sample(512)[0]
    else:
        model, everything = network("cifar10", args), cifar10(args.data_root, False)[0]
        order = torch.randperm(len(everything), generator=torch.Generator().manual_seed(args.seed))
        everything = everything[order[:512]]
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(args.seed)
    detector = ManipulationDetector(Saliency(model), seed=args.seed, abs=False)
    detector.fit(everything[:200])
    images = everything[200 : 200 + args.n_images]
    labels = model(images).argmax(1)
    others = everything[400 : 400 + args.n_images]
    clean_scores, clean_p = [f(images) for f in (detector.scores, detector.p_values)]
    file = new_file(args.out, f"certified_detector_{args.network}.txt")
    head = ["images", "n", "AUC", "p <= 0.05", "p <= 0.01", "top 50 left", "spoke most often"]
    rows = [head]

    def judge(name: str, changed: Tensor, of: Tensor, classes: Tensor) -> None:
        verdicts = detector.verdicts(changed)
        p = torch.tensor([v.p_value for v in verdicts])
        said = [v.spoke for v in verdicts]
        left = top_k_intersection(
            relevance(model, of, classes), relevance(model, changed, classes), K
        )
        rows.append([
            name, str(len(changed)), f"{auc(clean_scores, detector.scores(changed)):.3f}",
            f"{(p <= 0.05).double().mean():.3f}", f"{(p <= 0.01).double().mean():.3f}",
            f"{left.mean():.3f}", max(set(said), key=said.count),
        ])  # fmt: skip
        table(rows[:1] + rows[-1:])

    rows.append([
        "clean", str(len(images)), "", f"{(clean_p <= 0.05).double().mean():.3f}",
        f"{(clean_p <= 0.01).double().mean():.3f}", "1", "",
    ])  # fmt: skip
    if args.splits:
        alarms = false_alarms(model, everything, args.splits, args.seed)
        of_splits = [
            f"clean, {args.splits} splits",
            "200",
            "",
            *map(mean_and_error, alarms),
            "1",
            "",
        ]
        rows.append(of_splits)
        table(rows[:1] + rows[-1:])
    for eps in (0.02, 0.08):
        sign = 2 * torch.randint(0, 2, images.shape, generator=generator) - 1
        judge(f"random signs, {eps}", (images + eps * sign).clamp(0, 1), images, labels)
        attack = attacks.GhorbaniTopK(
            model, eps=eps, alpha=eps / 10, steps=args.steps, k=K, generator=generator
        )
        judge(f"GhorbaniTopK, {eps}", attack(images, None).detach(), images, labels)
    targets = relevance(model, others, model(others).argmax(1))
    forger = attacks.Dombrowski(model, eps=0.06, steps=args.steps, generator=generator)
    some = slice(len(targets))
    forged = forger(images[some], None, targets).detach()
    judge("Dombrowski, 0.06", forged, images[some], labels[some])
    few = slice(args.adaptive_images)
    for eps in (0.02, 0.08) if args.adaptive_images else ():
        for name, weight in (("not adaptive", 0.0), ("adaptive", args.weight)):
            changed = adaptive(
                model, detector, images[few], labels[few], eps, args.adaptive_steps, weight
            )
            judge(f"{name}, {eps}", changed, images[few], labels[few])
    title = (
        f"Detection of manipulated explanations, {args.network}: 200 clean images to fit, others "
        f"to judge; attacks of {args.steps} steps, adaptive ones of {args.adaptive_steps}; "
        f"torch {torch.__version__}"
    )
    table(rows, title, file)


if __name__ == "__main__":
    main()
