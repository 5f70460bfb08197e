"""
Training the network of the zoo
===============================

Train the network of the zoo again. This script made two files in ``captum_robust/zoo``: the
weights of :func:`captum_robust.zoo.fashion_mnist_cnn` and the images of
:func:`captum_robust.zoo.fashion_mnist_sample`. Ordinary training, Adam on the cross-entropy; the
weights after the last epoch are kept, and the test images are used once, at the end.

    python examples/train_zoo.py --data-root DATA [--download] [--out FOLDER]

It takes about six minutes on two busy cores. The last digits of the weights depend on the processor
and the number of threads; with two threads it printed 91.75 % for the 10,000 test images.
"""

# %%
# Settings
# --------
from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.datasets import FashionMNIST
from tqdm import tqdm

from captum_robust.zoo import fashion_mnist_cnn

ZOO = Path(__file__).resolve().parents[1] / "captum_robust" / "zoo"

parser = argparse.ArgumentParser(description="Train the Fashion-MNIST network of the zoo.")
parser.add_argument("--data-root", default="data", help="folder that torchvision calls `root`")
parser.add_argument("--download", action="store_true", help="fetch Fashion-MNIST if it is absent")
parser.add_argument("--out", type=Path, default=ZOO, help="where the two .npz files go")
parser.add_argument("--epochs", type=int, default=8)
parser.add_argument("--batch-size", type=int, default=128)
parser.add_argument("--lr", type=float, default=1e-3)
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()


# %%
# Data: raw pixels in [0, 1]
# --------------------------
def load(train: bool) -> tuple[Tensor, Tensor]:
    """The images as (N, 1, 28, 28) in [0, 1], and their labels."""
    data = FashionMNIST(args.data_root, train=train, download=args.download)
    return data.data.unsqueeze(1).float() / 255, data.targets


train_images, train_labels = load(train=True)
test_images, test_labels = load(train=False)

# %%
# Training
# --------
generator = torch.Generator().manual_seed(args.seed)
model = fashion_mnist_cnn(pretrained=False, generator=generator).train()
optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
for epoch in range(args.epochs):
    total = 0.0
    order = torch.randperm(len(train_images), generator=generator).split(args.batch_size)
    for batch in tqdm(order, desc=f"epoch {epoch + 1}"):
        loss = nn.functional.cross_entropy(model(train_images[batch]), train_labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(batch)
    print(f"epoch {epoch + 1}: mean training loss {total / len(train_images):.4f}", flush=True)

# %%
# Test
# ----
model.eval()
with torch.no_grad():
    predicted = torch.cat([model(images).argmax(dim=1) for images in test_images.split(500)])
right = predicted == test_labels
print(f"test images right: {right.sum()} of {len(right)} ({100 * right.float().mean():.2f} %)")
print(f"of the first 512:  {right[:512].sum()}")

# %%
# The two files of the package
# ----------------------------
# The images are the first 512 of the test set, in order: nothing is chosen.
weights = {name: weight.numpy() for name, weight in model.state_dict().items()}
np.savez_compressed(args.out / "fashion_mnist_cnn.npz", **weights)
np.savez_compressed(
    args.out / "fashion_mnist_sample.npz",
    images=(test_images[:512, 0] * 255).round().to(torch.uint8).numpy(),
    labels=test_labels[:512].to(torch.uint8).numpy(),
)
for path in sorted(args.out.glob("fashion_mnist_*.npz")):
    print(f"{path.name}: {path.stat().st_size:,} bytes")
