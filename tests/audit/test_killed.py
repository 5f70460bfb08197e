"""Audits in processes of their own: killed at random moments, and shared by two."""

import json
import os
import subprocess
import sys

import pytest

# Processes are forked from one that has imported everything and computed nothing.
KILLER = """
import json, os, pathlib, random, signal, sys, time
import torch
from torch import nn
from captum_robust import audit
from captum_robust.audit.settings import Budget

torch.set_num_threads(1)
torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()
batches = [[torch.rand(2, 1, 8, 8), torch.tensor([0, 1])] for _ in range(24)]
budget = Budget(evaluations=4, copies=20, perturbations=5, neighbours=2, flips=3, sizes=(1.0,))
root = pathlib.Path(sys.argv[1])


def forked(name, seconds=None):
    pid = os.fork()
    if pid == 0:
        try:
            report = audit.audit(
                model, ["gradient", "SmoothGrad"], batches, eps=0.05, budget=budget,
                folder=root / name, show_progress=False,
            )
            report.to_json(root / f"{name}.json")
            os._exit(0)
        finally:
            os._exit(1)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


start, draws = time.monotonic(), random.Random(0)
found = {"whole": forked("whole"), "killed": [], "batches": []}
seconds = time.monotonic() - start
for _ in range(20):
    found["killed"].append(forked("parts", draws.uniform(0, seconds / 12)))
    found["batches"].append(len(list((root / "parts").glob("batch-*.npz"))))
found["json"] = (root / "parts.json").exists()
found["last"] = forked("parts")
print(json.dumps(found))
"""


def plain(file):
    known = json.loads(file.read_text())
    del known["circumstances"]
    return known


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_twenty_times_the_numbers_are_those_of_one_run(tmp_path):
    script = tmp_path / "killer.py"
    script.write_text(KILLER)
    said = subprocess.check_output([sys.executable, str(script), str(tmp_path)], text=True)
    found = json.loads(said)
    assert found["killed"] == [9] * 20  # by the signal, none was finished before
    assert found["whole"] == found["last"] == 0
    batches = found["batches"]
    assert batches == sorted(batches)
    assert 0 < batches[-1] <= 24  # it was within the work
    assert not found["json"]
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
        "--target", "good", "--eps", "0.1", "--quick", "--quiet", "--batch-size", "5",
        "--explanations", "gradient,SmoothGrad",
    ]  # fmt: skip
    # `accelerate launch --cpu` starts one process unless there is MPI; on GPUs it starts as many.
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    for name, before in (("one", []), ("two", launch)):
        command = [sys.executable, *before, *arguments, "--resume", name, "--json", f"{name}.json"]
        subprocess.run(command, cwd=tmp_path, check=True, env=environment, capture_output=True)
    one, two = plain(tmp_path / "one.json"), plain(tmp_path / "two.json")
    assert json.loads((tmp_path / "two.json").read_text())["circumstances"]["processes"] == 2
    close(one, two)
