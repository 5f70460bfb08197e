"""Small trained networks and real images that travel with the package: no download, no pickle."""

from __future__ import annotations

from captum_robust.zoo.fashion_mnist import (
    FASHION_MNIST_CLASSES,
    fashion_mnist_cnn,
    fashion_mnist_cnn_atex,
    fashion_mnist_sample,
)

__all__ = [
    "FASHION_MNIST_CLASSES",
    "fashion_mnist_cnn",
    "fashion_mnist_cnn_atex",
    "fashion_mnist_sample",
]
