"""How many runs go side by side, and how many threads each may use."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from dyna.compare.grids import Cell

VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
"""What OpenMP, MKL, OpenBLAS, Numba and Apple's Accelerate read when they start."""


@dataclass(frozen=True)
class Share:
    """The processor's cores, dealt to runs."""

    jobs: int
    threads: int  # of each run; the most, where runs differ
    cores: int

    def __str__(self) -> str:
        parts = (f"{_counted(self.jobs, 'run')} side by side", f"{_counted(self.threads, 'thread')} each")
        said = f"{', '.join(parts)}, on {_counted(self.cores, 'core')}"
        crowded = self.jobs * self.threads > self.cores
        return said + (": more threads than cores, so their seconds say little" if crowded else "")


def share(cells: Sequence[Cell], jobs: int | None) -> Share:
    """So many jobs, or as many as there are cores for; a run that leaves the choice to torch gets its part of them."""
    cores = available_cores()
    asked = max((cell.config.threads for cell in cells), default=1)
    jobs = jobs or max(1, cores // max(asked, 1))
    return Share(jobs, asked or max(1, cores // jobs), cores)


def environment(threads: int) -> dict[str, str]:
    """Environment variables that hold a process to so many threads."""
    return dict.fromkeys(VARIABLES, str(threads))


def available_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
