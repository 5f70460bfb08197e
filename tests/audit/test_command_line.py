import io
import json
import os
import sys

import numpy as np
import pytest
from matplotlib.image import imsave

from captum_robust.audit import command_line
from captum_robust.audit.report import SCHEMA
from captum_robust.audit.settings import BUDGETS, Budget

TINY = Budget(evaluations=4, copies=20, perturbations=5, neighbours=2, flips=3)

MODEL = (
    "import torch\n"
    "from torch import nn\n"
    "def images():\n"
    "    torch.manual_seed(0)\n"
    "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))\n"
    "def rows():\n"
    "    torch.manual_seed(0)\n"
    "    return nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))\n"
    "def broken():\n"
    "    raise KeyError('weights')\n"
    "def one():\n"
    "    torch.manual_seed(0)\n"
    "    return nn.Linear(2, 1)\n"
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where a user runs the command: a module, photographs in classes, a table."""
    (tmp_path / "users_own_models.py").write_text(MODEL)
    generator = np.random.default_rng(0)
    for name in ("<b>cat", "dog & co"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(2):
            imsave(tmp_path / "photos" / name / f"<i>{i}.png", generator.random((9, 9, 3)))
    rows = "\n".join(f"{a:.3f},{b:.3f},{int(a > b)}" for a, b in generator.random((4, 2)))
    (tmp_path / "table.csv").write_text(f"age,income,good\n{rows}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setitem(BUDGETS, "quick", TINY)
    yield tmp_path
    sys.modules.pop("users_own_models", None)


IMAGES = ["audit", "--model", "users_own_models:images", "--images", "photos", "--size", "8",
          "--eps", "8/255", "--quick", "--quiet", "--no-certificates"]  # fmt: skip
TABLE = ["audit", "--model", "users_own_models:rows", "--table", "table.csv", "--target", "good",
         "--eps", "0.1", "--quick", "--quiet", "--no-certificates"]  # fmt: skip


def test_images_whose_names_are_full_of_markup(folder, capsys):
    arguments = [*IMAGES, "--json", "a.json", "--out", "a.html", "--mean", "0.5,0.5,0.5"]
    assert command_line.main([*arguments, "--std", "1/2,1/2,1/2", "--limit", "3"]) == 0
    known = json.loads((folder / "a.json").read_text())
    assert known["n_examples"] == 3
    assert known["circumstances"]["command"].startswith("captum-robust audit --model users_own")
    assert known["settings"]["eps"] == pytest.approx(8 / 255)
    assert "<i>" not in (folder / "a.html").read_text().split("</style>")[1]
    assert "The report: a.html" in capsys.readouterr().out
    # The same pictures under plain names give the same numbers.
    (folder / "photos").rename(folder / "plain")
    for number, path in enumerate(sorted((folder / "plain").iterdir())):
        path.rename(folder / "plain" / str(number))
    plain = [*changed(arguments, images="plain"), "--std", "1/2,1/2,1/2", "--limit", "3"]
    assert command_line.main([*plain, "--json", "b.json", "--out", "b.html"]) == 0
    other = json.loads((folder / "b.json").read_text())
    assert {**other, "circumstances": None} == {**known, "circumstances": None}


def test_a_table_keeps_the_names_of_its_columns(folder):
    assert command_line.main([*TABLE, "--out", "a.html"]) == 0
    text = (folder / "a.html").read_text()
    assert ">income<" in text


def test_some_of_the_usual_explanations(folder):
    names = ["--explanations", "gradient, beta-smoothed gradient"]
    assert command_line.main([*TABLE, *names, "--json", "a.json", "--out", "a.html"]) == 0
    known = json.loads((folder / "a.json").read_text())
    assert list(known["explanations"]) == ["gradient", "beta-smoothed gradient"]


def test_a_run_is_resumed(folder):
    for _ in range(2):
        assert command_line.main([*TABLE, "--resume", "parts", "--out", "a.html"]) == 0
    assert list((folder / "parts").glob("batch-*"))


def test_compare_exits_with_one_past_the_tolerance(folder, report, capsys):
    report.to_json("a.json")
    known = json.loads((folder / "a.json").read_text())
    known["explanations"]["gradient"]["values"]["attack/1.0/top_k"]["mean"] -= 0.2
    (folder / "b.json").write_text(json.dumps(known))
    assert command_line.main(["compare", "a.json", "b.json"]) == 1
    assert command_line.main(["compare", "b.json", "a.json"]) == 0
    assert command_line.main(["compare", "a.json", "b.json", "--tolerance", "0.3"]) == 0
    assert "-0.200" in capsys.readouterr().out


def changed(arguments, **changes):
    """The call with other values, or without an option where the value is None."""
    result = list(arguments)
    for name, value in changes.items():
        option = "--" + name.replace("_", "-")
        if option in result:
            at = result.index(option)
            del result[at : at + 2]
        if value is not None:
            result += [option, value]
    return result


MEAN = changed(IMAGES, mean="0.5,0.5,0.5")
WRONG = {
    "a module that is not there": (changed(IMAGES, model="no_such_module:make"), "Run the command"),
    "a function that is not there": (changed(IMAGES, model="users_own_models:nothing"), "has no"),
    "a function that raises": (
        changed(IMAGES, model="users_own_models:broken"), "broken raised KeyError: 'weights'",
    ),
    "a name without a colon": (changed(IMAGES, model="resnet18"), "MODULE:FUNCTION"),
    "a network that is not there": (changed(IMAGES, model="torchvision:resnet1"), "resnet1"),
    "a folder that is not there": (changed(IMAGES, images="pictures"), "there is no folder"),
    "a folder without images": (changed(IMAGES, images="empty"), "has no image"),
    "another size": (changed(IMAGES, size="20"), "shape (1, 3, 20, 20): RuntimeError: mat1"),
    "another number of channels": (changed(IMAGES, channels="1"), "--channels"),
    "a device that is not there": (changed(IMAGES, device="cuda:77"), "--device"),
    "a device that does not exist": (changed(IMAGES, device="abacus"), "--device"),
    "no checkpoint": (changed(IMAGES, checkpoint="missing.pt"), "there is no file"),
    "a damaged checkpoint": (changed(IMAGES, checkpoint="table.csv"), "is damaged or not a state"),
    "a folder that cannot hold the report": (changed(IMAGES, out="nowhere/a.html"), "--out"),
    "a folder where the report should be": (changed(IMAGES, out="empty"), "--out"),
    "a place that takes no files": (changed(IMAGES, out="/proc/a.html"), "--out: the folder /proc"),
    "numbers at a place that takes no files": (changed(IMAGES, json="/proc/a.json"), "--json"),
    "one file for both": (changed(IMAGES, out="a.html", json="a.html"), "--json: a.html is the"),
    "a mean alone": (changed(IMAGES, mean="0.5"), "belong together"),
    "a deviation of zero": (changed(MEAN, std="1,0,1"), "--std: every number must be positive"),
    "deviations of two channels": (changed(MEAN, std="1,1"), "--std: got 2 numbers"),
    "a mean of a table": (changed(TABLE, mean="0", std="1"), "are for images"),
    "a table that is not there": (changed(TABLE, table="missing.csv"), "cannot be read"),
    "a table with a gap": (changed(TABLE, table="gap.csv"), "line 3, column 'income' is empty"),
    "no target": (changed(TABLE, target=None), "--target"),
    "a target that is no column": (changed(TABLE, target="bad"), "has no column 'bad'"),
    "an explanation that is not one of the usual": (
        changed(TABLE, explanations="gradient,magic"), "'magic'",
    ),
    "too large a k": (changed(TABLE, k="3"), "k must be at most"),
    "one output": (changed(TABLE, model="users_own_models:one"), "Binary"),
    "regression without a tolerance": (changed(TABLE, output="regression"), "--tolerance"),
    "a resumed folder of another audit": (changed(TABLE, resume="other"), "another audit"),
    "a report of another kind": (["compare", "table.csv", "table.csv"], "BEFORE: table.csv is not"),
    "a report of another schema": (["compare", "a.json", "a.json"], "BEFORE: a.json is not an"),
    "half a report": (["compare", "half.json", "half.json"], "BEFORE: half.json is not a whole"),
    "a report that is not there": (
        ["compare", "missing.json", "missing.json"], "BEFORE: missing.json cannot be read: No such",
    ),
    "a folder for a report": (["compare", "empty", "empty"], "BEFORE: empty cannot be read: Is a"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_call_is_one_line_and_leaves_nothing(folder, what, capsys):
    (folder / "empty").mkdir()
    (folder / "other").mkdir()
    (folder / "other" / "settings.json").write_text("{}")
    (folder / "gap.csv").write_text("age,income,good\n1,2,1\n2,,0\n")
    (folder / "a.json").write_text('{"schema": "another/1"}')
    (folder / "half.json").write_text(f'{{"schema": "{SCHEMA}"}}')
    arguments, said = WRONG[what]
    before = sorted(folder.iterdir())
    assert command_line.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("captum-robust: ")
    assert captured.err.count("\n") == 1
    assert said in captured.err
    assert ".." not in captured.err.replace("...", "")
    assert "weights_only" not in captured.err
    assert [p for p in sorted(folder.iterdir()) if p.name != "__pycache__"] == before


@pytest.mark.parametrize(
    "arguments",
    [
        [], ["audit"], ["unknown"], changed(IMAGES, eps="a little"), changed(IMAGES, eps="-1"),
        changed(IMAGES, eps="1/0"), changed(IMAGES, budget="endless"), changed(IMAGES, size="0"),
        changed(IMAGES, mean="a,b"), changed(IMAGES, eps="1e999"),
        changed(IMAGES, mean="0,nan,1e999"), [*IMAGES, "--table", "table.csv"],
        ["compare", "a.json"], ["compare", "a.json", "b.json", "--tolerance", "nan"],
    ],
)  # fmt: skip
def test_an_option_that_cannot_be_read(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        command_line.main(arguments)
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("captum-robust: ")
    assert said.count("\n") == 1
    known = arguments[:1] in (["audit"], ["compare"])
    command = f"captum-robust {arguments[0]}" if known else "captum-robust"
    assert said.endswith(f"See {command} --help.\n")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_read_only(folder):
    (folder / "locked").mkdir(mode=0o500)
    assert command_line.main(changed(TABLE, out="locked/a.html")) == 2


def test_a_full_disk_leaves_the_old_report(folder, monkeypatch):
    (folder / "a.html").write_text("old")

    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.open", lambda *args, **kwargs: Full())
    assert command_line.main(changed(TABLE, out="a.html")) == 2
    monkeypatch.undo()
    assert (folder / "a.html").read_text() == "old"
