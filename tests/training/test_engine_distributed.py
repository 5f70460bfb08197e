"""Two processes that share each batch train the weights that one does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed

import captum_robust

ROOT = str(Path(captum_robust.__file__).resolve().parents[1])
SCRIPT = Path(__file__).with_name("shared_run.py")


def results(command: list[str], out: Path, batch_size: int) -> dict:
    out.mkdir()
    done = subprocess.run(
        [sys.executable, *command, str(SCRIPT), str(out), str(batch_size)],
        capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ROOT, "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return torch.load(out / "result", weights_only=True)


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")
def test_two_processes_give_the_result_of_one(tmp_path):
    one = results([], tmp_path / "one", batch_size=8)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    two = results(launcher, tmp_path / "two", batch_size=4)
    for name, weight in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], weight, atol=1e-5, rtol=0)
    assert two["history"][-1] == pytest.approx(one["history"][-1], rel=1e-5)
    assert "second derivatives" in two["refused"]
    assert one["history"][-1]["distillation"] > 0
