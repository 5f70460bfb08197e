"""Peak memory of a process, which on a CPU can be read only of a whole one."""

from __future__ import annotations

import re
from pathlib import Path


def resident_peak(reset: bool = False) -> float:
    """Peak resident memory of this process in MB; with ``reset`` the peak starts anew (Linux)."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    return int(kilobytes) / 2**10
