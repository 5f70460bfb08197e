"""The command on two processes, as torchrun starts them, against one: same numbers, also killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imsave

pytest.importorskip("accelerate")

ROOT = Path(__file__).parents[2]
N_IMAGES = 12
MODEL = """
import torch
from torch import nn
def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 3))
"""
AUDIT = [
    "-m", "captum_robust", "audit", "--model", "users_model:make", "--images", "photos",
    "--size", "12", "--eps", "8/255", "--quick", "--quiet", "--batch-size", "1",
    "--explanations", "gradient,SmoothGrad", "--no-certificates",
]  # fmt: skip
TWO = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d",
       "--rdzv-endpoint", "localhost:0"]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model and images, and the numbers of one process."""
    path = tmp_path_factory.mktemp("processes")
    (path / "users_model.py").write_text(MODEL)
    (path / "photos").mkdir()
    generator = np.random.default_rng(0)
    for i in range(N_IMAGES):
        imsave(path / "photos" / f"{i:02d}.png", generator.random((12, 12, 3)))
    assert started(path, [*AUDIT, *outputs("one")]).wait(timeout=300) == 0
    return path


def outputs(name):
    return ["--json", f"{name}.json", "--out", f"{name}.html"]


def started(folder, arguments):
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, *arguments], cwd=folder, env=environment)


def assert_close(found, wanted, where=""):
    """Equal up to 1e-6, number by number."""
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys(), where
        for key in wanted:
            assert_close(found[key], wanted[key], f"{where}/{key}")
    elif isinstance(wanted, list):
        assert len(found) == len(wanted), where
        for i, (one, other) in enumerate(zip(found, wanted, strict=True)):
            assert_close(one, other, f"{where}/{i}")
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, abs=1e-6), where
    else:
        assert found == wanted, where


def compared(folder, name):
    found, wanted = (json.loads((folder / f"{n}.json").read_text()) for n in (name, "one"))
    assert found.pop("circumstances")["processes"] == 2
    assert wanted.pop("circumstances")["processes"] == 1
    assert wanted["n_examples"] == N_IMAGES
    assert_close(found, wanted)


def finished(folder, name):
    return len(list((folder / name).glob("batch-*.npz")))


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(folder):
    call = [*TWO, *AUDIT, "--resume", "two", *outputs("two")]
    assert started(folder, call).wait(timeout=300) == 0
    assert finished(folder, "two") == N_IMAGES
    compared(folder, "two")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux to find the workers")
def test_one_of_two_processes_is_killed_and_the_audit_resumed(folder):
    call = [*TWO, *AUDIT, "--resume", "killed", *outputs("killed")]
    launcher = started(folder, call)
    limit = time.monotonic() + 300
    while finished(folder, "killed") < 2:
        assert launcher.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.02)
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    workers = [int(pid) for pid in children if b"captum_robust" in command_of(pid)]
    assert len(workers) == 2
    os.kill(workers[1], signal.SIGKILL)
    assert launcher.wait(timeout=300) != 0
    assert 2 <= finished(folder, "killed") < N_IMAGES
    assert not (folder / "killed.json").exists()
    assert started(folder, call).wait(timeout=300) == 0
    compared(folder, "killed")


def command_of(pid):
    return Path(f"/proc/{pid}/cmdline").read_bytes()
