"""What the machine is, and how much of it this process has needed."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

if sys.platform != "win32":
    import resource


def peak_memory() -> float | None:
    """The most physical memory that the process has held so far, in MiB; None on Windows, which counts otherwise."""
    if sys.platform == "win32":
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # getrusage(2): bytes there, KiB on Linux


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")  # Linux tells platform.processor() nothing, or only the architecture
    lines = cpuinfo.read_text(errors="replace").splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()
