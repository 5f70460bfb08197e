"""What is measured of a model in training, one value per example."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captum_robust._utils.checks import check_count, check_positive
from captum_robust._utils.forward import compute_gradients
from captum_robust._utils.model_state import preserve_model
from captum_robust.outputs import Outputs
from captum_robust.training.predicted import PredictedScore

Measure = Callable[..., Tensor]
"""From model, inputs and labels to one value per example.

Where the model takes more arguments, they come as ``additional_forward_args=(...)``.
"""


class CosineStability:
    r"""How well the gradient keeps its direction in a small ball: 1 is perfect.

    .. math:: \min_j \cos\angle\big(\phi(g, x + d_j),\ \phi(g, x)\big)

    over moves d drawn uniformly in the L-inf ball, the same for all examples. A scale costs
    nothing, as in Definition 1 of Tang et al. (2021). It is cheap and says nothing of an attack;
    hand the trainer ``measures={"name": function}`` for one that does. The model is measured in
    evaluation mode.

    Args:
        radius: Radius of the ball, in units of the inputs.
        n_samples: Points for each example.
        seed: Of the moves, which are the same in every call.
        output: What the model's outputs mean; None: logits of two or more classes.

    Raises:
        ValueError, TypeError: ``radius`` is not positive, ``n_samples`` is not a count from 1 on;
            when called, the model gives one number per example and ``output`` is None.

    Example:
        >>> import torch
        >>> stability = CosineStability()(torch.nn.Linear(4, 2), torch.rand(3, 4), None)
        >>> torch.allclose(stability, torch.ones(3))
        True
    """

    def __init__(
        self,
        radius: float = 0.05,
        n_samples: int = 4,
        seed: int = 0,
        output: Outputs | None = None,
    ) -> None:
        check_positive(radius=radius)
        check_count(n_samples=n_samples)
        self.radius, self.n_samples, self.seed = radius, n_samples, seed
        self.output = output

    def __call__(
        self,
        model: nn.Module,
        inputs: Tensor,
        labels: Tensor | None,
        additional_forward_args: tuple[Any, ...] = (),
    ) -> Tensor:
        """(N,), between -1 and 1; of what the model predicts."""
        with preserve_model(model):
            return self._smallest_cosine(model.eval(), inputs, additional_forward_args)

    def _smallest_cosine(self, model: nn.Module, inputs: Tensor, more: tuple[Any, ...]) -> Tensor:
        score = PredictedScore(model, inputs, more, self.output)
        generator = torch.Generator(inputs.device).manual_seed(self.seed)

        def gradient(x: Tensor) -> Tensor:
            ready = x.detach().requires_grad_()
            (found,) = compute_gradients(score, (ready,), None, score.arguments)
            return found.flatten(1)

        clean, cosines = gradient(inputs), []
        for _ in range(self.n_samples):
            # The same for all examples, so that batches and processes change nothing.
            noise = torch.rand(
                inputs.shape[1:], generator=generator, device=inputs.device, dtype=inputs.dtype
            )
            moved = gradient(inputs + self.radius * (2 * noise - 1))
            cosines.append(F.cosine_similarity(moved, clean, dim=1))
        return torch.stack(cosines).amin(0).clamp(-1, 1)
