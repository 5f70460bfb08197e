"""The explanations that Yeh et al. (2019) compare, under their names."""

from __future__ import annotations

from typing import Any

import torch
from captum.attr import Attribution, GuidedBackprop, IntegratedGradients, Saliency
from torch import Tensor, nn

from captum_robust.attr import KernelSmoothing


class Fixed(Attribution):
    """A local explanation of Captum with its options fixed, and its global form."""

    def __init__(
        self, method: Attribution, baseline: float, multiply_by_inputs: bool, **options: Any
    ) -> None:
        super().__init__(method.forward_func)
        self.method, self.options = method, options
        self.baseline, self.multiply_by_inputs = baseline, multiply_by_inputs

    @property
    def multiplies_by_inputs(self) -> bool:
        return self.multiply_by_inputs

    def attribute(self, inputs: Tensor, target: Tensor) -> Tensor:
        """The explanation; the global one is multiplied by the image minus the baseline."""
        ready = inputs.detach().clone().requires_grad_()
        local = self.method.attribute(ready, target=target, **self.options).detach()
        return local * (inputs - self.baseline) if self.multiply_by_inputs else local


class SmoothGrad(Attribution):
    """The mean over uniform noise: fresh noise in every call, as in the published code."""

    def __init__(self, method: Fixed, radius: float, n_samples: int, batch: int, seed: int) -> None:
        super().__init__(method.forward_func)
        device = next(method.forward_func.parameters()).device
        self.smooth = KernelSmoothing(method)
        self.options = {
            "kernel": "uniform", "radius": radius, "n_samples": n_samples,
            "internal_batch_size": batch,
            "generator": torch.Generator(device).manual_seed(seed),
        }  # fmt: skip

    def attribute(self, inputs: Tensor, target: Tensor) -> Tensor:
        """The smoothed explanation."""
        return self.smooth.attribute(inputs, target=target, **self.options)


def gradient_methods(
    model: nn.Module,
    *,
    multiply_by_inputs: bool,
    baseline: float = 0.0,
    radius: float = 0.2,
    n_samples: int = 50,
    batch: int = 500,
    seed: int = 0,
    names: tuple[str, ...] = ("Grad", "IG", "GBP"),
) -> dict[str, Attribution]:
    """Grad, IG and GBP, each followed by its smoothed form, "-SG"."""
    plain: dict[str, tuple[Attribution, dict]] = {
        "Grad": (Saliency(model), {"abs": False}),
        "IG": (
            IntegratedGradients(model, multiply_by_inputs=False),
            {"n_steps": 10, "baselines": baseline},
        ),
        "GBP": (GuidedBackprop(model), {}),
    }
    methods: dict[str, Attribution] = {}
    for name in names:
        method, options = plain[name]
        fixed = Fixed(method, baseline, multiply_by_inputs, **options)
        methods[name] = fixed
        methods[f"{name}-SG"] = SmoothGrad(fixed, radius, n_samples, batch, seed)
    return methods
