"""Max-sensitivity against Captum's, Quantus' (where it is installed) and the bare explanations.

All run in turns in one process: the same images, number of points, radius and explanation
(Saliency on the network of the zoo). The bare explanations are those that every way needs: one of
the clean images, one of each point. Printed are median seconds, their ratio to ours and the mean
result, which differs by the draws alone.

    python benchmarks/bench_sensitivity.py [--threads 1] [--repeats 9] [--images 100] [--samples 10]
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from _alternate import alternate
from captum.attr import Saliency
from captum.metrics import sensitivity_max as captum_sensitivity_max
from torch import Tensor, nn

from captum_robust.metrics import sensitivity_max
from captum_robust.zoo import fashion_mnist_cnn, fashion_mnist_sample

RADIUS = 0.02


def quantus_way(model: nn.Module, x: Tensor, labels: Tensor, samples: int) -> Callable[[], Any]:
    import quantus

    def explain(model: nn.Module, inputs: np.ndarray, targets: np.ndarray, **_: Any) -> np.ndarray:
        points = torch.as_tensor(inputs, dtype=torch.float32).to(x.device).requires_grad_()
        target = torch.as_tensor(targets).to(x.device)
        return Saliency(model).attribute(points, target=target).cpu().numpy()

    metric = quantus.MaxSensitivity(
        nr_samples=samples, lower_bound=RADIUS, disable_warnings=True, display_progressbar=False
    )
    images, classes = x.detach().cpu().numpy(), labels.cpu().numpy()

    def run() -> Tensor:
        scores = metric(
            model=model,
            x_batch=images,
            y_batch=classes,
            explain_func=explain,
            batch_size=len(images),
            device=str(x.device),
        )
        return torch.as_tensor(np.asarray(scores))

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--batch", type=int, default=None, help="points at once, ours and Captum's")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = fashion_mnist_cnn().to(options.device)
    x, labels = (t.to(options.device) for t in fashion_mnist_sample(options.images))
    x.requires_grad_()  # as Captum likes its inputs
    saliency = Saliency(model)
    arguments: dict[str, Any] = {
        "perturb_radius": RADIUS,
        "n_perturb_samples": options.samples,
        "max_examples_per_batch": options.batch,
        "target": labels,
    }
    batch = options.batch or options.images * options.samples
    copies = max(1, batch // options.images)

    def bare() -> Tensor:
        saliency.attribute(x, target=labels)
        for start in range(0, options.samples, copies):
            n = min(copies, options.samples - start)
            points = x.detach().repeat_interleave(n, dim=0).requires_grad_()
            last = saliency.attribute(points, target=labels.repeat_interleave(n))
        return last

    def quiet_saliency(points: Any, **kwargs: Any) -> Any:
        points = tuple(p.detach().requires_grad_() for p in points)  # else Captum warns
        return saliency.attribute(points, **kwargs)

    def captum_way() -> Tensor:
        return captum_sensitivity_max(
            lambda p, **kw: quiet_saliency(p if isinstance(p, tuple) else (p,), **kw),
            x,
            **arguments,
        )

    ways: dict[str, Callable[[], Any]] = {
        "ours": lambda: sensitivity_max(saliency, x, **arguments),
        "captum": captum_way,
    }
    if importlib.util.find_spec("quantus"):
        ways["quantus"] = quantus_way(model, x, labels, options.samples)
    ways["bare explanations"] = bare
    seconds = alternate(ways, options.repeats, options.device)
    print(
        f"{options.images} images, {options.samples} points each, {options.device}, "
        f"{options.threads} threads, medians of {options.repeats}"
    )
    for name, value in seconds.items():
        mean = "" if name == "bare explanations" else f"{ways[name]().mean().item():10.4f}"
        print(f"{name:20}{value:9.3f} s{value / seconds['ours']:8.2f}{mean}")


if __name__ == "__main__":
    main()
