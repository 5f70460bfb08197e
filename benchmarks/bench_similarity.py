"""Similarities and the relevance map against scipy, scikit-image and plain PyTorch.

Both sides are timed in turns within one run; printed are medians, their ratio and the largest
difference of the results.

    python benchmarks/bench_similarity.py [--threads 1] [--repeats 30] [--device cpu]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import numpy as np
import scipy.stats
import skimage.metrics
import torch
from torch import Tensor
from torch.utils.benchmark import Timer

from captum_robust import metrics
from captum_robust._utils.relevance import normalized_relevance

SHAPES = [(1, 3, 224, 224), (16, 3, 224, 224), (200, 1, 28, 28)]


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    return scipy.stats.spearmanr(x.ravel(), y.ravel()).statistic


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    return scipy.stats.pearsonr(x.ravel(), y.ravel()).statistic


def ssim(x: np.ndarray, y: np.ndarray) -> float:
    data_range = max(x.max(), y.max()) - min(x.min(), y.min())
    return skimage.metrics.structural_similarity(x, y, data_range=data_range)


def top_k(x: np.ndarray, y: np.ndarray, k: int) -> float:
    def largest(numbers: np.ndarray) -> np.ndarray:
        return np.argsort(-numbers.ravel(), kind="stable")[:k]

    return len(np.intersect1d(largest(x), largest(y), assume_unique=True)) / k


def loop(peer: Callable[..., float], a: Tensor, b: Tensor) -> Tensor:
    """Apply a function of two numpy arrays to each example, as its users have to."""
    x, y = a.cpu().numpy(), b.cpu().numpy()
    return torch.tensor([float(peer(*pair)) for pair in zip(x, y, strict=True)])


def plain_relevance(attributions: Tensor) -> Tensor:
    maps = attributions.abs().sum(1)
    return maps / maps.sum((1, 2), keepdim=True)


def in_turns(repeats: int, threads: int, *functions: Callable[[], object]) -> list[float]:
    """Median seconds of each function, one call of each after the other."""
    timers = [Timer("f()", globals={"f": function}, num_threads=threads) for function in functions]
    times = [[timer.timeit(1).median for timer in timers] for _ in range(repeats + 1)][1:]
    return np.median(times, axis=0).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)  # once: if Timer switched, each call would pay for it
    generator = torch.Generator().manual_seed(0)
    print(f"{options.threads} threads, {options.device}, medians of {options.repeats}, float32")
    print(f"{'':24}{'shape':>20}{'ours':>10}{'peer':>10}{'peer/ours':>10}{'difference':>12}")
    for shape in SHAPES:
        first, second = (torch.randn(shape, generator=generator) ** 3 for _ in range(2))
        first, second = first.to(options.device), (first + second).to(options.device)
        a, b = metrics.relevance_map(first), metrics.relevance_map(second)
        k = a[0].numel() // 50
        comparisons: dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]] = {
            "relevance_map": (
                partial(metrics.relevance_map, first),
                partial(plain_relevance, first),
            ),
            "normalized_relevance": (
                partial(normalized_relevance, first),
                partial(plain_relevance, first),
            ),
            "spearman_correlation": (
                partial(metrics.spearman_correlation, a, b),
                partial(loop, spearman, a, b),
            ),
            "pearson_correlation": (
                partial(metrics.pearson_correlation, a, b),
                partial(loop, pearson, a, b),
            ),
            "structural_similarity": (
                partial(metrics.structural_similarity, a, b),
                partial(loop, ssim, a, b),
            ),
            f"top_k_intersection {k}": (
                partial(metrics.top_k_intersection, a, b, k),
                partial(loop, partial(top_k, k=k), a, b),
            ),
            "mean_squared_error": (
                partial(metrics.mean_squared_error, a, b),
                partial(loop, skimage.metrics.mean_squared_error, a, b),
            ),
        }
        for name, (ours, peer) in comparisons.items():
            seconds = in_turns(options.repeats, options.threads, ours, peer)
            difference = (ours().cpu() - peer().cpu()).abs().max().item()
            print(
                f"{name:24}{shape!s:>20}{1e3 * seconds[0]:8.2f}ms{1e3 * seconds[1]:8.2f}ms"
                f"{seconds[1] / seconds[0]:10.2f}{difference:12.1e}"
            )


if __name__ == "__main__":
    main()
