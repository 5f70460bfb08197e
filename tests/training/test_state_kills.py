"""A training process that is killed at any moment, and started again, ends where it would have."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import captum_robust

ROOT = str(Path(captum_robust.__file__).resolve().parents[1])


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs fork and SIGKILL")
def test_twenty_kills_at_random_moments(tmp_path):
    script = Path(__file__).with_name("killed_run.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), "20"],
        capture_output=True, text=True, check=False, timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ROOT},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = re.fullmatch(
        r"(\d+) kills, (\d+) after a checkpoint, (\d+) runs ended bit-equal\n", done.stdout
    )
    assert found, done.stdout
    kills, resumed, compared = map(int, found.groups())
    assert kills >= 20
    assert resumed >= 5
    assert compared >= 1
