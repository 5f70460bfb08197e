"""LIME and KernelSHAP of squares of an image, all images of a batch in one pass of the model.

Captum's take one image after another, which is too slow for thousands of queries. These draw the
same masks for all images; the weights and the regression are Captum's, without its lasso.
"""

from __future__ import annotations

import torch
from captum.attr import Attribution
from torch import Tensor, nn

_AT_ONCE = 240  # images in a pass, whose layers a processor's cache can hold


class SquareSurrogate(Attribution):
    """Coefficients of a weighted linear regression of the output on which squares are shown.

    Args:
        model: Gives logits of images (N, 1, H, W).
        masks: (S, F) ones where a square is shown, zeros where it is black.
        squares: (1, 1, H, W) the square of each pixel, 0 to F - 1.
    """

    def __init__(self, model: nn.Module, masks: Tensor, squares: Tensor) -> None:
        super().__init__(model)
        self.masks, self.squares = masks, squares

    def attribute(self, inputs: Tensor, target: Tensor) -> Tensor:
        """Coefficients at each pixel of their square, of the shape of ``inputs``."""
        shown = self.masks[:, self.squares[0]]  # (S, 1, H, W)
        perturbed = inputs[:, None] * shown
        with torch.no_grad():
            parts = perturbed.flatten(0, 1).split(_AT_ONCE)
            output = torch.cat([self.forward_func(part) for part in parts])
        output = output.view(*perturbed.shape[:2], -1)
        y = output.gather(2, target.view(-1, 1, 1).expand(-1, len(shown), 1)).double()
        ones = torch.ones(len(self.masks), 1, dtype=torch.float64)
        z = torch.cat([self.masks.double(), ones], 1)
        root = self.weights(inputs, perturbed).double().sqrt()[:, :, None]
        beta = torch.linalg.lstsq(root * z, root * y).solution[:, :-1, 0]
        return beta.to(inputs)[:, self.squares[0]]

    def weights(self, inputs: Tensor, perturbed: Tensor) -> Tensor:
        """(N, S) the weight of each mask."""
        raise NotImplementedError


class SquareLime(SquareSurrogate):
    """LIME: masks of fair coins, weighted by exp(-(1 - cosine)^2 / 2)."""

    def __init__(self, model: nn.Module, squares: Tensor, n_samples: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        n_features = int(squares.max()) + 1
        masks = (torch.rand(n_samples, n_features, generator=generator) < 0.5).float()
        super().__init__(model, masks, squares)

    def weights(self, inputs: Tensor, perturbed: Tensor) -> Tensor:
        """By how much the perturbed image resembles the image."""
        cosine = torch.cosine_similarity(inputs[:, None].flatten(2), perturbed.flatten(2), dim=2)
        return torch.exp(-((1 - cosine) ** 2) / 2)


class SquareShap(SquareSurrogate):
    """KernelSHAP: sizes by the Shapley kernel; nothing and all, with nearly all of the weight."""

    def __init__(self, model: nn.Module, squares: Tensor, n_samples: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        n = int(squares.max()) + 1
        kernel = torch.tensor([(n - 1) / (size * (n - size)) for size in range(1, n)])
        sizes = torch.multinomial(kernel, n_samples - 2, replacement=True, generator=generator) + 1
        order = torch.rand(n_samples - 2, n, generator=generator).argsort(1).argsort(1)
        drawn = (order < sizes[:, None]).float()
        super().__init__(model, torch.cat([torch.zeros(1, n), torch.ones(1, n), drawn]), squares)

    def weights(self, inputs: Tensor, perturbed: Tensor) -> Tensor:
        """As Captum: 1e6 for nothing and all, one for the others."""
        weights = torch.ones(len(inputs), len(self.masks))
        weights[:, :2] = 1e6
        return weights
