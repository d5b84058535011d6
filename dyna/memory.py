"""How much memory this process has needed."""

from __future__ import annotations

import sys

if sys.platform != "win32":
    import resource


def peak_memory() -> float | None:
    """The most physical memory that the process has held so far, in MiB; None on Windows, which counts otherwise."""
    if sys.platform == "win32":
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # getrusage(2): bytes there, KiB on Linux
