"""What a repetition of an audit may do differently: versions, hardware, time."""

from __future__ import annotations

import datetime
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from captum_robust import __version__


def circumstances(
    device: torch.device, seconds: float, n_processes: int, n_before: int
) -> dict[str, Any]:
    """Versions, hardware and time, as texts and numbers.

    Args:
        device: Of the model.
        seconds: That this run took.
        n_processes: How many shared the work.
        n_before: Batches that an earlier run had finished: their time is not in ``seconds``.
    """
    packages = {name: _version(name) for name in ("captum", "torchattacks", "numpy")}
    is_cuda = device.type == "cuda"
    return {
        "versions": {
            "captum_robust": __version__, "torch": torch.__version__,
            "python": platform.python_version(), **packages,
        },
        "device": torch.cuda.get_device_name(device) if is_cuda else f"{device.type}, "
        f"{platform.machine()}, {torch.get_num_threads()} threads",
        "processes": n_processes,
        "finished": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "batches of earlier runs": n_before,
    }  # fmt: skip


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
