"""The shipped network and images: what they are, how they load, what they leave alone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from captum.attr import Saliency
from torch import nn

from captum_robust import zoo
from captum_robust.attacks import GhorbaniTopK
from captum_robust.metrics import relevance_map, top_k_intersection
from captum_robust.zoo import (
    FASHION_MNIST_CLASSES,
    fashion_mnist_cnn,
    fashion_mnist_cnn_atex,
    fashion_mnist_sample,
)

FILES = ("fashion_mnist_cnn.npz", "fashion_mnist_sample.npz", "fashion_mnist_cnn_atex.npz")


def weights_of(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


# --- the shipped files -----------------------------------------------------------------------


def test_files_are_small_and_free_of_pickle():
    folder = resources.files(zoo)
    total = 0
    for name in FILES:
        with folder.joinpath(name).open("rb") as file:
            total += file.seek(0, 2)
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                assert all(archive[key].dtype != object for key in archive)
    assert 500_000 < total < 2_000_000


def test_the_licence_of_the_data_travels_with_it():
    text = resources.files(zoo).joinpath("LICENSE-fashion-mnist.txt").read_text(encoding="utf-8")
    assert "Zalando SE" in text
    assert "Permission is hereby granted, free of charge" in text


def test_loading_never_allows_pickle(monkeypatch):
    allowed = []
    load = np.load

    def spy(*args, **kwargs):
        allowed.append(kwargs.get("allow_pickle", "default"))
        return load(*args, **kwargs)

    monkeypatch.setattr(np, "load", spy)
    fashion_mnist_cnn()
    fashion_mnist_sample(1)
    assert allowed == [False, False]


# --- images ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 7, 512, np.int64(3)])
def test_sample_shapes_and_types(n):
    images, labels = fashion_mnist_sample(n)
    assert images.shape == (n, 1, 28, 28)
    assert images.dtype == torch.float32
    assert labels.shape == (n,)
    assert labels.dtype == torch.int64
    assert images.device.type == labels.device.type == "cpu"
    assert images.is_contiguous()
    assert labels.is_contiguous()
    every_image, every_label = fashion_mnist_sample()
    assert torch.equal(images, every_image[:n])
    assert torch.equal(labels, every_label[:n])


def test_sample_is_raw_pixels():
    images, labels = fashion_mnist_sample()
    assert images.min() == 0
    assert images.max() == 1
    # Every value is one of the 256 grey levels, bit for bit.
    assert torch.equal((images * 255).round() / 255, images)
    # The opening of the test set's label file, and the counts of its first 512 labels.
    assert labels[:12].tolist() == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7, 4, 5]
    assert labels.bincount().tolist() == [56, 53, 71, 46, 58, 40, 47, 48, 45, 48]
    assert len(images.flatten(1).unique(dim=0)) == 512


@pytest.mark.parametrize("n", [0, -1, 513, 10_000])
def test_sample_rejects_impossible_numbers(n):
    with pytest.raises(ValueError, match=r"n must be in 1\.\.512"):
        fashion_mnist_sample(n)


@pytest.mark.parametrize("n", [1.0, "3", None, True])
def test_sample_rejects_what_is_no_number(n):
    with pytest.raises(TypeError, match="n must be an integer"):
        fashion_mnist_sample(n)


def test_samples_are_independent():
    first, labels = fashion_mnist_sample(5)
    first.zero_()
    labels.zero_()
    images, labels = fashion_mnist_sample(5)
    assert images.any()
    assert labels.any()


def test_class_names():
    assert isinstance(FASHION_MNIST_CLASSES, tuple)
    assert len(set(FASHION_MNIST_CLASSES)) == 10
    assert FASHION_MNIST_CLASSES[1] == "Trouser"
    assert FASHION_MNIST_CLASSES[9] == "Ankle boot"


# --- the trained network ---------------------------------------------------------------------


def test_accuracy_on_the_shipped_images():
    images, labels = fashion_mnist_sample()
    with torch.no_grad():
        right = (fashion_mnist_cnn()(images).argmax(dim=1) == labels).sum()
    # 470 where the weights were made; one image is left to other processors' rounding.
    assert right >= 469


def test_the_network_is_as_described():
    model = fashion_mnist_cnn()
    names = ", ".join(name for name, _ in model.named_children())
    assert names == "conv1, relu1, pool1, conv2, relu2, pool2, flatten, dense1, relu3, dense2"
    assert sum(isinstance(layer, nn.Conv2d) for layer in model) == 2
    assert sum(isinstance(layer, nn.Linear) for layer in model) == 2
    assert sum(type(layer) is nn.ReLU for layer in model) == 3
    assert not any(module.training for module in model.modules())
    for parameter in model.parameters():
        assert parameter.requires_grad
        assert parameter.is_leaf
        assert parameter.grad is None
        assert parameter.dtype == torch.float32
        assert parameter.device.type == "cpu"
    assert model(fashion_mnist_sample(3)[0]).shape == (3, 10)


def test_logits_equal_the_layers_written_out():
    images, _ = fashion_mnist_sample(2)
    weight = {name: value.double() for name, value in fashion_mnist_cnn().state_dict().items()}
    h = images.double()
    for layer in ("conv1", "conv2"):
        # Convolution as a sum over the nine shifted copies of the padded image.
        padded, kernel = nn.functional.pad(h, (1, 1, 1, 1)), weight[f"{layer}.weight"]
        rows, columns = h.shape[2:]
        h = weight[f"{layer}.bias"][:, None, None] + sum(
            torch.einsum(
                "nchw,oc->nohw", padded[:, :, i : i + rows, j : j + columns], kernel[:, :, i, j]
            )
            for i in range(3)
            for j in range(3)
        )
        h = h.clamp(min=0).unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).amax(dim=(3, 5))
    h = (h.flatten(1) @ weight["dense1.weight"].T + weight["dense1.bias"]).clamp(min=0)
    logits = h @ weight["dense2.weight"].T + weight["dense2.bias"]
    torch.testing.assert_close(fashion_mnist_cnn().double()(images.double()), logits)


def test_calls_give_equal_and_independent_networks():
    first, second = fashion_mnist_cnn(), fashion_mnist_cnn()
    assert torch.equal(weights_of(first), weights_of(second))
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.zero_()
    first.train()
    third = fashion_mnist_cnn()
    assert torch.equal(weights_of(second), weights_of(third))
    assert weights_of(third).any()
    assert not third.training


def test_the_network_trains_further():
    model = fashion_mnist_cnn().train()
    images, labels = fashion_mnist_sample(8)
    before = weights_of(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    nn.functional.cross_entropy(model(images), labels).backward()
    optimizer.step()
    assert not torch.equal(before, weights_of(model))


# --- fresh weights ---------------------------------------------------------------------------


def test_untrained_weights_follow_torchs_rule():
    model = fashion_mnist_cnn(pretrained=False, generator=torch.Generator().manual_seed(3))
    for layer, fan_in in {"conv1": 9, "conv2": 288, "dense1": 3136, "dense2": 64}.items():
        weight, bias = (getattr(model.get_submodule(layer), part) for part in ("weight", "bias"))
        bound = fan_in**-0.5
        assert 0.9 * bound < weight.abs().max() <= bound
        assert bias.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
        assert bias.unique().numel() > 5
    assert not any(module.training for module in model.modules())
    images, labels = fashion_mnist_sample()
    assert (model(images).argmax(dim=1) == labels).float().mean() < 0.4


def test_untrained_weights_come_from_the_generator():
    def draw(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return weights_of(fashion_mnist_cnn(pretrained=False, generator=generator))

    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))
    once, again = (weights_of(fashion_mnist_cnn(pretrained=False)) for _ in range(2))
    assert not torch.equal(once, again)


def test_a_generator_for_trained_weights_is_an_error():
    with pytest.raises(ValueError, match=r"generator: .*pretrained=False"):
        fashion_mnist_cnn(generator=torch.Generator())


@pytest.mark.parametrize(
    "call",
    [
        fashion_mnist_cnn,
        lambda: fashion_mnist_cnn(pretrained=False),
        lambda: fashion_mnist_cnn(pretrained=False, generator=torch.Generator()),
        fashion_mnist_sample,
    ],
)
def test_the_global_random_state_is_not_touched(call: Callable[[], object]):
    before = torch.get_rng_state()
    call()
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("pretrained", [True, False])
def test_the_default_dtype_does_not_matter(pretrained: bool):
    torch.set_default_dtype(torch.float64)
    try:
        model, (images, _) = fashion_mnist_cnn(pretrained), fashion_mnist_sample(2)
    finally:
        torch.set_default_dtype(torch.float32)
    assert weights_of(model).dtype == images.dtype == torch.float32


# --- the script that made the files ----------------------------------------------------------


def write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes()
    path.write_bytes(header + array.tobytes())


@pytest.mark.slow
def test_the_script_writes_both_files(tmp_path: Path):
    script = Path(__file__).resolve().parents[2] / "examples" / "train_zoo.py"
    raw, out = tmp_path / "FashionMNIST" / "raw", tmp_path / "out"
    raw.mkdir(parents=True)
    out.mkdir()
    rng = np.random.default_rng(0)
    images = {"train": rng.integers(0, 256, (300, 28, 28), dtype=np.uint8)}
    images["t10k"] = rng.integers(0, 256, (600, 28, 28), dtype=np.uint8)
    labels = {part: (np.arange(len(images[part])) % 10).astype(np.uint8) for part in images}
    for part in images:
        write_idx(raw / f"{part}-images-idx3-ubyte", images[part])
        write_idx(raw / f"{part}-labels-idx1-ubyte", labels[part])
    subprocess.run(
        [sys.executable, script, "--data-root", tmp_path, "--out", out, "--epochs", "1"],
        check=True,
        capture_output=True,
        cwd=script.parents[1],
        env=os.environ | {"PYTHONPATH": str(script.parents[1]), "OMP_NUM_THREADS": "1"},
    )
    with np.load(out / FILES[1], allow_pickle=False) as sample:
        assert np.array_equal(sample["images"], images["t10k"][:512])
        assert np.array_equal(sample["labels"], labels["t10k"][:512])
    shipped = fashion_mnist_cnn().state_dict()
    with np.load(out / FILES[0], allow_pickle=False) as weights:
        assert {name: weights[name].shape for name in weights} == {
            name: tuple(value.shape) for name, value in shipped.items()
        }


# --- the network after ATEX --------------------------------------------------------------------


def test_the_network_after_atex_is_another_one_that_agrees():
    plain, stable = fashion_mnist_cnn(), fashion_mnist_cnn_atex()
    assert str(plain) == str(stable)
    assert not stable.training
    assert not torch.equal(weights_of(plain), weights_of(stable))
    images, labels = fashion_mnist_sample()
    with torch.no_grad():
        predicted = [model(images).argmax(1) for model in (plain, stable)]
    assert (predicted[0] == predicted[1]).float().mean() > 0.94
    assert (predicted[1] == labels).float().mean() > 0.88


def test_an_attack_leaves_more_of_its_explanations():
    images, _ = fashion_mnist_sample(16)
    left = []
    for model in (fashion_mnist_cnn(), fashion_mnist_cnn_atex()):
        labels = model(images).argmax(1)
        attack = GhorbaniTopK(model, eps=0.04, alpha=0.004, steps=15, k=50)
        maps = []
        for batch in (images, attack(images, labels)):
            gradient = Saliency(model).attribute(batch.requires_grad_(), target=labels)
            maps.append(relevance_map(gradient))
        left.append(top_k_intersection(*maps, k=50).mean())
    assert left[1] > left[0] + 0.15
