"""The Fashion-MNIST network of the zoo, and real test images for it."""

from __future__ import annotations

import math
from collections import OrderedDict
from importlib import resources

import numpy as np
import torch
from torch import Tensor, nn

FASHION_MNIST_CLASSES: tuple[str, ...] = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
"""The names of the ten classes; the label is the index."""

_N_IMAGES = 512


def fashion_mnist_cnn(
    pretrained: bool = True, *, generator: torch.Generator | None = None
) -> nn.Sequential:
    """A ReLU network with two convolutions and two dense layers, trained on Fashion-MNIST.

    The kind of network on which Tang et al. (2021) attack and defend explanations: two
    3 x 3 convolutions (32 and 64 channels), each followed by ReLU and 2 x 2 max-pooling, a
    dense layer of 64 units with ReLU, and a dense layer of 10 logits. It reads raw pixels of
    shape (N, 1, 28, 28) in [0, 1], without normalisation, and gives logits of shape (N, 10).

    The trained weights classify 91.75 % of the 10,000 test images correctly.
    ``examples/train_zoo.py`` made them.

    Args:
        pretrained: Whether to load the trained weights. ``False`` draws fresh ones as
            :class:`torch.nn.Linear` and :class:`torch.nn.Conv2d` do.
        generator: Source of the fresh weights, a CPU generator. With ``None`` they come from
            the operating system's entropy. The global random state is never touched.

    Returns:
        A new float32 network on the CPU, in evaluation mode, whose layers are named
        ``conv1, relu1, pool1, conv2, relu2, pool2, flatten, dense1, relu3, dense2``.

    Raises:
        ValueError: ``generator`` is given together with ``pretrained=True``.

    Example:
        >>> from captum_robust.zoo import fashion_mnist_cnn, fashion_mnist_sample
        >>> images, labels = fashion_mnist_sample(4)
        >>> fashion_mnist_cnn()(images).argmax(dim=1).tolist(), labels.tolist()
        ([9, 2, 1, 1], [9, 2, 1, 1])
    """
    if pretrained:
        if generator is not None:
            raise ValueError(
                "generator: trained weights are not drawn at random; "
                "leave it out, or pass pretrained=False"
            )
        return _trained("fashion_mnist_cnn.npz")
    model = _empty_network()
    _draw_weights(model.to_empty(device="cpu"), generator)
    return model.eval()


def fashion_mnist_cnn_atex() -> nn.Sequential:
    """The network of :func:`fashion_mnist_cnn` after ATEX: its explanations resist manipulation.

    Trained on from those weights by :class:`~captum_robust.training.ATEXTrainer` (Tang et al.
    2021, along the explanations of the network as it learns, with a search for the farthest
    perpendicular points); ``examples/train_zoo_atex.py`` made them. 89.80 % of the 10,000 test
    images are classified correctly. Of the 50 most relevant pixels of the gradient
    :class:`~captum_robust.attacks.AutoExplanationAttack` with 100 gradients an image leaves
    0.477 at eps 0.02 and 0.177 at eps 0.08 (first 1,000 test images; of the plain network's 0.243
    and 0.043).

    Returns:
        A new float32 network on the CPU, in evaluation mode; inputs, outputs and layers are those
        of :func:`fashion_mnist_cnn`.

    Example:
        >>> from captum_robust.zoo import fashion_mnist_cnn_atex, fashion_mnist_sample
        >>> images, labels = fashion_mnist_sample(4)
        >>> fashion_mnist_cnn_atex()(images).argmax(dim=1).tolist(), labels.tolist()
        ([9, 2, 1, 1], [9, 2, 1, 1])
    """
    return _trained("fashion_mnist_cnn_atex.npz")


def fashion_mnist_sample(n: int = _N_IMAGES) -> tuple[Tensor, Tensor]:
    """The first ``n`` images of the Fashion-MNIST test set, with labels.

    The package carries the first 512 of the 10,000 test images, in their order and without
    any choice; :func:`fashion_mnist_cnn` was not trained on them, and classifies
    470 of the 512 correctly. Fashion-MNIST: Xiao, Rasul and Vollgraf (2017), MIT licence.

    Args:
        n: Number of images, 1 to 512.

    Returns:
        The images, float32 in [0, 1] of shape (n, 1, 28, 28), and their labels, int64 of
        shape (n,), both on the CPU. :data:`FASHION_MNIST_CLASSES` names the labels.

    Raises:
        TypeError: ``n`` is not an integer.
        ValueError: ``n`` is not in 1..512.

    Example:
        >>> from captum_robust.zoo import FASHION_MNIST_CLASSES, fashion_mnist_sample
        >>> images, labels = fashion_mnist_sample(3)
        >>> images.shape, [FASHION_MNIST_CLASSES[label] for label in labels]
        (torch.Size([3, 1, 28, 28]), ['Ankle boot', 'Pullover', 'Trouser'])
    """
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)):
        raise TypeError(f"n must be an integer, got {type(n).__name__}")
    if not 1 <= n <= _N_IMAGES:
        raise ValueError(f"n must be in 1..{_N_IMAGES}, the number of shipped images; got {n}")
    arrays = _load("fashion_mnist_sample.npz")
    images = torch.from_numpy(arrays["images"][:n]).unsqueeze(1).to(torch.float32) / 255
    return images, torch.from_numpy(arrays["labels"][:n]).to(torch.int64)


def _load(name: str) -> dict[str, np.ndarray]:
    with (
        resources.files(__package__).joinpath(name).open("rb") as file,
        np.load(file, allow_pickle=False) as archive,
    ):
        return dict(archive)


def _trained(name: str) -> nn.Sequential:
    model = _empty_network()
    weights = {layer: torch.from_numpy(w) for layer, w in _load(name).items()}
    model.load_state_dict(weights, assign=True)
    return model.eval()


def _empty_network() -> nn.Sequential:
    # On the meta device no layer draws initial weights, so the global random state stays as
    # it is; the explicit dtype makes the network independent of the default dtype.
    kind: dict = {"device": "meta", "dtype": torch.float32}
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 32, kernel_size=3, padding=1, **kind),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(32, 64, kernel_size=3, padding=1, **kind),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            dense1=nn.Linear(64 * 7 * 7, 64, **kind),
            relu3=nn.ReLU(),
            dense2=nn.Linear(64, 10, **kind),
        )
    )


@torch.no_grad()
def _draw_weights(model: nn.Sequential, generator: torch.Generator | None) -> None:
    if generator is None:
        generator = torch.Generator()
        generator.seed()
    for layer in model:
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            # The rule of torch's own layers: weights and biases uniform in +-1/sqrt(fan-in).
            bound = 1 / math.sqrt(layer.weight[0].numel())
            layer.weight.uniform_(-bound, bound, generator=generator)
            assert layer.bias is not None
            layer.bias.uniform_(-bound, bound, generator=generator)
