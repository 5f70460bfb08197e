"""One iteration of an attack against the same mathematics in plain PyTorch: time and peak memory.

The limit is a double backward pass through a copy of the network with ``nn.Softplus`` modules, a
signed step, and the gradient of the true network at the new image, which scores it; parameters
without gradients. Both ways run in turns in one process. For the memory each way runs in a process
of its own, since only the peak of a whole process can be read on a CPU.

Run from the root of the repository: ``python benchmarks/bench_attack_iteration.py``.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Callable

import torch
from _alternate import alternate
from _memory import resident_peak
from _smooth_copy import smooth_copy
from torch import Tensor, nn
from torchvision import models

from captum_robust.attacks import AutoExplanationAttack, GhorbaniTopK, TopKIntersection
from captum_robust.zoo import fashion_mnist_cnn, fashion_mnist_sample

EPS, ALPHA, BETA, K = 8 / 255, 1 / 255, 10.0, 50


def network(name: str, device: str) -> tuple[nn.Module, Tensor]:
    """A network and a batch of images for it."""
    torch.manual_seed(0)
    if name == "zoo":
        return fashion_mnist_cnn().to(device), fashion_mnist_sample(64)[0].to(device)
    model = models.get_model(name, weights=None).eval().to(device)
    return model, torch.rand(1, 3, 224, 224, device=device)


def relevance(model: nn.Module, x: Tensor, labels: Tensor, graph: bool) -> tuple[Tensor, Tensor]:
    logits = model(x)
    (gradient,) = torch.autograd.grad(
        logits.gather(1, labels[:, None]).sum(), x, create_graph=graph
    )
    r = gradient.abs().sum(1)
    return r / r.sum((1, 2), keepdim=True), logits.detach()


def bare(model: nn.Module, images: Tensor, steps: int, score: bool) -> Callable[[], Tensor]:
    """The attack written out, with or without the score on the true network."""
    smooth = smooth_copy(model, BETA).requires_grad_(False)
    true = smooth_copy(model, BETA) if not score else model.requires_grad_(False)

    def run() -> Tensor:
        labels = model(images).argmax(1).detach()
        clean, _ = relevance(true, images.clone().requires_grad_(), labels, graph=False)
        top = torch.zeros_like(clean.flatten(1))
        top.scatter_(1, clean.flatten(1).topk(K).indices, 1.0)
        top = top.view_as(clean)
        best, best_mass = images, (clean * top).sum((1, 2))
        x = images
        for _ in range(steps):
            x = x.detach().requires_grad_()
            r, _ = relevance(smooth, x, labels, graph=True)
            (gradient,) = torch.autograd.grad((r * top).sum(), x)
            x = (x - ALPHA * gradient.sign()).detach()
            x = (images + (x - images).clamp(-EPS, EPS)).clamp(0, 1)
            if score:
                r, logits = relevance(true, x.detach().requires_grad_(), labels, graph=False)
                mass = (r * top).sum((1, 2))
                better = (mass < best_mass) & (logits.argmax(1) == labels)
                best_mass = torch.where(better, mass, best_mass)
                best = torch.where(better[:, None, None, None], x, best)
        return best

    return run


def ours(model: nn.Module, images: Tensor, steps: int) -> Callable[[], Tensor]:
    attack = GhorbaniTopK(model, eps=EPS, alpha=ALPHA, steps=steps, k=K, beta=BETA)
    return lambda: attack(images)


def ensemble(model: nn.Module, images: Tensor, steps: int) -> Callable[[], Tensor]:
    """As many gradients as the others take steps; a measure and a loss of its own on top."""
    attack = AutoExplanationAttack(model, eps=EPS, measure=TopKIntersection(K), budget=steps)
    return lambda: attack(images)


def ways(name: str, steps: int, device: str) -> dict[str, Callable[[], Tensor]]:
    model, images = network(name, device)
    return {
        "bare": bare(model, images, steps, score=True),
        "ours": ours(model, images, steps),
        "ensemble": ensemble(model, images, steps),
        "without the score": bare(model, images, steps, score=False),
    }


def peak(name: str, way: str, steps: int, device: str) -> float:
    """Peak memory of one way in MB, beyond what was there before it ran, in a fresh process."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_peak, (name, way, steps, device, torch.get_num_threads()))


def _peak(name: str, way: str, steps: int, device: str, threads: int) -> float:
    torch.set_num_threads(threads)
    run = ways(name, steps, device)[way]
    if device.startswith("cuda"):
        run()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    before = resident_peak(reset=True)
    run()
    return resident_peak() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--networks", nargs="+", default=["zoo", "resnet18", "vgg16"])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    steps, device = arguments.steps, arguments.device
    for name in arguments.networks:
        median = alternate(ways(name, steps, device), arguments.rounds, device)
        memory = {way: peak(name, way, steps, device) for way in median}
        for way, seconds in median.items():
            print(f"{name:10s} {way:22s} {seconds / steps:8.4f} s/iteration {memory[way]:8.1f} MB")
        print(
            f"{name:10s} ours / bare: time {median['ours'] / median['bare']:.3f}, "
            f"memory {memory['ours'] / memory['bare']:.3f}; ensemble / bare: "
            f"time {median['ensemble'] / median['bare']:.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
