import re
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imsave
from torch import nn
from torchvision.models import resnet18

from captum_robust.audit.sources import Normalized, UsageError, image_folder, load_model, table


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of a user, in the folder where the command runs."""
    text = (
        "from torch import nn\n"
        "def make(): return nn.Linear(4, 2)\n"
        "ready = nn.Linear(4, 2)\n"
        "def wrong(): return 3\n"
        "def raising(): raise KeyError('weights')\n"
        "def lacking(): return nn.no_such_layer\n"
    )
    (tmp_path / "users_own_models.py").write_text(text)
    (tmp_path / "needs_another.py").write_text("import no_such_package\n")
    (tmp_path / "half_written.py").write_text("def make(\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield "users_own_models"
    sys.modules.pop("users_own_models", None)


def test_a_model_by_function_or_by_name(module):
    assert isinstance(load_model(f"{module}:make", None), nn.Linear)
    assert isinstance(load_model(f"{module}:ready", None), nn.Linear)
    assert isinstance(load_model("zoo:fashion_mnist_cnn", None), nn.Module)
    assert not load_model("zoo:fashion_mnist_cnn", None).training


def test_the_module_of_the_guide_is_whole(tmp_path, monkeypatch):
    page = Path(__file__).parents[2] / "docs" / "audit_your_model.rst"
    code = page.read_text(encoding="utf-8").split(".. code-block:: python\n\n")[1]
    code = re.split(r"\n(?=\S)", code)[0]
    (tmp_path / "mymodels.py").write_text(textwrap.dedent(code))
    torch.save(resnet18(num_classes=5).state_dict(), tmp_path / "flowers.pt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert load_model("mymodels:make_model", None)(torch.zeros(1, 3, 64, 64)).shape == (1, 5)
    sys.modules.pop("mymodels")


def test_weights_come_from_a_checkpoint_without_pickle(module, tmp_path):
    weights = nn.Linear(4, 2).state_dict()
    torch.save(weights, tmp_path / "a.pt")
    torch.save({"state_dict": weights}, tmp_path / "b.pt")
    for name in ("a.pt", "b.pt"):
        model = load_model(f"{module}:make", str(tmp_path / name))
        assert torch.equal(model.weight, weights["weight"])
    torch.save(nn.Linear(4, 2), tmp_path / "object.pt")
    with pytest.raises(UsageError, match="--checkpoint"):
        load_model(f"{module}:make", str(tmp_path / "object.pt"))


@pytest.mark.parametrize(
    ("name", "checkpoint", "message"),
    [
        ("resnet18", None, "--model must be MODULE:FUNCTION"),
        ("torchvision:", None, "--model must be MODULE:FUNCTION"),
        ("torchvision:no_such_net", None, "torchvision has no model"),
        ("no_such_module:make", None, "No module named"),
        ("users_own_models:nothing", None, "has no 'nothing'"),
        ("users_own_models:wrong", None, "gave int"),
        ("users_own_models:raising", None, "raising raised KeyError: 'weights'"),
        ("users_own_models:lacking", None, "lacking raised AttributeError: .*no_such_layer"),
        ("needs_another:make", None, "No module named 'no_such_package'\\.$"),
        ("half_written:make", None, "importing half_written raised SyntaxError: "),
        ("users_own_models:make", "missing.pt", "there is no file"),
    ],
)
def test_a_model_that_is_none(module, name, checkpoint, message):
    with pytest.raises(UsageError, match=message):
        load_model(name, checkpoint)


def test_a_checkpoint_of_another_model(module, tmp_path):
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "other.pt")
    (tmp_path / "damaged.pt").write_bytes(b"no weights")
    (tmp_path / "empty.pt").touch()
    whole = (tmp_path / "other.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    torch.save({"epoch": 3}, tmp_path / "numbers.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save(nn.Linear(4, 2), tmp_path / "object.pt")
    with pytest.raises(UsageError, match="not hold the weights of this model: size mismatch"):
        load_model(f"{module}:make", str(tmp_path / "other.pt"))
    for file in ("damaged.pt", "empty.pt", "cut.pt", "numbers.pt", "list.pt", "object.pt"):
        with pytest.raises(UsageError, match="is damaged or not a state dict") as found:
            load_model(f"{module}:make", str(tmp_path / file))
        # Torch advises to load such a file without protection, and that would run its code.
        assert "weights_only" not in str(found.value)


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    imsave(path, np.random.default_rng(0).random((10, 12, 3)))


def test_images_with_and_without_classes(tmp_path):
    for name in ("<b>cat</b>", "dog"):
        picture(tmp_path / "by class" / name.replace("/", "") / "1.png")
    data, classes = image_folder(str(tmp_path / "by class"), size=8, channels=3)
    assert classes == ["<b>cat<b>", "dog"]
    pixels, label = data[1]
    assert pixels.shape == (3, 8, 8)
    assert label == 1
    assert 0 <= pixels.min() < pixels.max() <= 1
    picture(tmp_path / "flat" / "1.png")
    grey, no_classes = image_folder(str(tmp_path / "flat"), size=6, channels=1)
    assert grey[0].shape == (1, 6, 6)
    assert no_classes is None
    assert len(grey) == 1


def test_images_that_cannot_be_read(tmp_path):
    with pytest.raises(UsageError, match="there is no folder"):
        image_folder(str(tmp_path / "missing"), 8, 3)
    with pytest.raises(UsageError, match="has no image"):
        image_folder(str(tmp_path), 8, 3)
    picture(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"not an image")
    with pytest.raises(UsageError, match=r"bad\.png cannot be read"):
        image_folder(str(tmp_path), 8, 3)


def test_a_table(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("age,income,good\n30,1.5,1\n40,2.5,0\n")
    data, names = table(str(path), "good")
    assert names == ["age", "income"]
    assert torch.equal(data[1][0], torch.tensor([40.0, 2.5]))
    assert data[1][1] == 0
    assert data[1][1].dtype == torch.int64
    values, _ = table(str(path), "income")
    assert values[0][1] == 1.5  # a value that is predicted is not cut


@pytest.mark.parametrize(
    ("text", "target", "message"),
    [
        (None, "good", "cannot be read"),
        ("age,good\n", "good", "has no rows"),
        ("age,good\n1,0\n", "bad", "has no column 'bad'"),
        ("age,good\n1,0\nold,0\n", "good", "line 3, column 'age' holds 'old', which is no fin"),
        ("age,good\n1,nan\n", "good", "line 2, column 'good' holds 'nan', which is no finite"),
        ("age,good\ninf,1\n", "good", "line 2, column 'age' holds 'inf', which is no finite"),
        ("age,good\n1,0\n\n,1\n", "good", "line 4, column 'age' is empty"),
        ("age,good\n1\n", "good", "line 2 has 1 cells, and the first line names 2 columns"),
        ("age,good\n1,0,3\n", "good", "line 2 has 3 cells"),
        ("age;good\n1;0\n", "good", "must be separated by commas"),
        ("age,age,good\n1,2,0\n", "good", "more than one column 'age'"),
    ],
)
def test_a_table_that_is_none(tmp_path, text, target, message):
    path = tmp_path / "a.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=message):
        table(str(path), target)


def test_a_table_from_a_spreadsheet_has_a_mark_before_its_first_name(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("good,age\n1,30\n", encoding="utf-8-sig")
    _, names = table(str(path), "good")
    assert names == ["age"]


def test_a_normalisation_before_the_model():
    model = Normalized(nn.Identity(), [0.5], [0.25])
    assert model(torch.ones(1, 1, 2, 2)).unique().item() == 2.0
