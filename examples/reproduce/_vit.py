"""A small vision transformer of plain ``torch.nn`` modules, for images of 28 x 28."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SmallViT(nn.Module):
    """Patches of 7 x 7, a class from the mean of their tokens.

    Args:
        width: Numbers in a token.
        depth: Layers of attention.
        heads: Attention heads of each layer.
        n_classes: Outputs.
    """

    def __init__(
        self, width: int = 64, depth: int = 2, heads: int = 4, n_classes: int = 10
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, kernel_size=7, stride=7)
        self.positions = nn.Parameter(0.02 * torch.randn(1, 16, width))
        layer = nn.TransformerEncoderLayer(
            width, heads, 2 * width, dropout=0.0, activation="gelu", batch_first=True,
            norm_first=True,
        )  # fmt: skip
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, n_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, 1, 28, 28) in [0, 1]."""
        tokens = self.patches((images - 0.5) / 0.25).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.encoder(tokens + self.positions)).mean(1))
