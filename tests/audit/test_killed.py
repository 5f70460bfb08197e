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
