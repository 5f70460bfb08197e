"""
What no attack can change
=========================

An attack shows the worst explanation that was found. A certificate says how bad the worst can be.
Here the gradient of a small network is smoothed by sparsified noise, and certified: how many of its
50 most relevant pixels stay, and which pixels keep their verdict, within a radius.
"""

# %%
# Count
# -----
# One sweep of noisy copies, one gradient each, counts how often each pixel is among the most
# relevant tenth. All that follows comes from these integers.

import matplotlib.pyplot as plt
import torch
from captum.attr import Saliency

from captum_robust import zoo
from captum_robust.attr import SparsifiedSmoothing
from captum_robust.certificates import certify_pixels, certify_top_k, collect_counts

model = zoo.fashion_mnist_cnn()
images, _ = zoo.fashion_mnist_sample(4)
smoothing = SparsifiedSmoothing(Saliency(model), kept=0.1, stdev=0.5)
counts = collect_counts(smoothing, images, n_samples=800, seed=0)

# %%
# How many of the top 50 stay
# ---------------------------
# With probability 0.95 for each image, at least this part of them stays at every point of the ball:
# no attack within it can do more. More copies narrow the confidence bounds and certify more.

radii = torch.linspace(0, 0.3, 31).tolist()
found = certify_top_k(counts, radii=radii, k=50, alpha=0.05)
for i, radius in enumerate(found.largest_radius(0.2).tolist()):
    print(f"image {i}: a fifth of the top 50 stays within {radius:.3f}")

# %%
# Which pixels stay
# -----------------
# A pixel is relevant where more than half of the copies keep it. Red pixels stay relevant and grey
# ones stay irrelevant within the radius in the title; of the white ones nothing is certified.

pixels = certify_pixels(counts, threshold=0.6)
figure, axes = plt.subplots(3, 4, figsize=(8, 6.2), layout="constrained")
for i in range(4):
    axes[0, i].imshow(images[i, 0].numpy(), cmap="gray")
    axes[1, i].imshow(counts.shares()[i].numpy(), cmap="inferno")
    colours = torch.tensor([[1.0, 1.0, 1.0], [0.75, 0.75, 0.75], [0.85, 0.1, 0.1]])
    axes[2, i].imshow(colours[pixels.verdict[i].long() + 1].numpy())
titles = ("image", "share of copies", f"certified within {pixels.certified_radius:.2f}")
for row, title in zip(axes, titles, strict=True):
    row[0].set_ylabel(title)
    for axis in row:
        axis.set(xticks=[], yticks=[])

# %%
# The curves of the four images: the certified overlap falls with the radius.

figure, axis = plt.subplots(figsize=(5, 3.2), layout="constrained")
axis.step(radii, found.overlap.T.numpy(), where="post")
axis.set(xlabel="l2 radius", ylabel="certified overlap of the top 50", ylim=(0, 1))
plt.show()
