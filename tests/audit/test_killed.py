"""Audits in processes of their own: killed at random moments, and shared by two."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

CHILD = """
import sys
import torch
from captum_robust import audit, zoo
from captum_robust.audit.settings import Budget

torch.set_num_threads(1)
images, labels = zoo.fashion_mnist_sample(60)
budget = Budget(evaluations=4, copies=20, perturbations=5, neighbours=2, flips=3)
print("ready", flush=True)
batches = list(zip(images.split(2), labels.split(2)))
report = audit.audit(
    zoo.fashion_mnist_cnn(), ["gradient", "SmoothGrad"], batches, eps=0.05, budget=budget,
    folder=sys.argv[1], show_progress=False,
)
report.to_json(sys.argv[2])
"""


def start(script, folder, file):
    child = subprocess.Popen(
        [sys.executable, str(script), str(folder), str(file)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "ready\n"
    return child


def plain(file):
    known = json.loads(file.read_text())
    del known["circumstances"]
    return known


@pytest.mark.slow
def test_killed_twenty_times_the_numbers_are_those_of_one_run(tmp_path):
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    child, began = start(script, tmp_path / "whole", tmp_path / "whole.json"), time.monotonic()
    assert child.wait() == 0
    seconds = time.monotonic() - began
    draws, kills, finished = random.Random(0), 0, []
    for _ in range(20):
        child = start(script, tmp_path / "parts", tmp_path / "parts.json")
        time.sleep(draws.uniform(0, seconds / 15))
        child.send_signal(signal.SIGKILL)
        kills += child.wait() == -signal.SIGKILL
        finished.append(len(list((tmp_path / "parts").glob("batch-*.npz"))))
    assert kills == 20
    assert finished == sorted(finished)
    assert 0 < finished[-1] < 30  # it was within the work, and not yet done
    assert not (tmp_path / "parts.json").exists()
    assert start(script, tmp_path / "parts", tmp_path / "parts.json").wait() == 0
    assert plain(tmp_path / "parts.json") == plain(tmp_path / "whole.json")


def close(a, b, path="report"):
    """Equal but for numbers, which may differ by 1e-6."""
    if isinstance(a, dict):
        assert list(a) == list(b), path
        for key in a:
            close(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            close(x, y, f"{path}/{i}")
    elif isinstance(a, float):
        assert a == pytest.approx(b, abs=1e-6), path
    else:
        assert a == b, path


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(tmp_path):
    pytest.importorskip("accelerate")
    (tmp_path / "table.csv").write_text(
        "a,b,good\n" + "".join(f"{i / 20},{(7 * i) % 20 / 20},{i % 2}\n" for i in range(20))
    )
    (tmp_path / "models.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "torch.manual_seed(0)\n"
        "model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))\n"
    )
    arguments = [
        "-m", "captum_robust", "audit", "--model", "models:model", "--table", "table.csv",
        "--target", "good", "--eps", "0.1", "--quick", "--quiet", "--batch-size", "3",
    ]  # fmt: skip
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for name, before in (("one", []), ("two", launch)):
        command = [sys.executable, *before, *arguments, "--resume", name, "--json", f"{name}.json"]
        subprocess.run(command, cwd=tmp_path, check=True, env=environment, capture_output=True)
    one, two = plain(tmp_path / "one.json"), plain(tmp_path / "two.json")
    assert json.loads((tmp_path / "two.json").read_text())["circumstances"]["processes"] == 2
    close(one, two)
