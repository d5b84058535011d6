"""What there is of a comparison already, and how long the rest will take."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Literal, TypeAlias

from dyna import checkpoint, runs
from dyna.compare.grids import Cell
from dyna.config import RunConfig
from dyna.errors import UserError
from dyna.runs import Run
from dyna.sources import code_version

FOLDER = "comparisons"
State: TypeAlias = Literal["finished", "resumable", "elsewhere", "missing"]
"""`elsewhere`: another process is writing the run."""


@dataclass(frozen=True)
class Comparison:
    """A grid of runs under a name."""

    name: str
    cells: Sequence[Cell]
    thresholds: Mapping[str, float]  # the return to be reached, by environment
    runs: Path
    any_code: bool = False
    """Whether finished runs count that other code made."""
    argv: Sequence[str] = ()
    joined: Sequence[Path] = field(default=())
    """Files and folders with curves that are drawn beside."""

    @property
    def folder(self) -> Path:
        """Where the report is written."""
        return self.runs / FOLDER / self.name


@dataclass(frozen=True)
class Found:
    """What there is of a cell."""

    state: State
    run: Run | None = None


def look(cell: Cell, *, any_code: bool = False) -> Found:
    """The run of a cell's configuration, made by this code unless any will do: finished before all, else the newest."""
    code = None if any_code else code_version(cell.config.algo, cell.config.env)
    best = Found("missing")
    for run in runs.repetitions(cell.config):
        with contextlib.suppress(UserError):  # killed before it wrote a summary: there is nothing of it
            if code not in (None, run.meta().get("code")):
                continue
            found = Found(_state(run), run)
            if found.state == "finished":
                return found
            if _RANK[found.state] > _RANK[best.state]:
                best = found
    return best


_RANK: dict[State, int] = {"missing": 0, "resumable": 1, "elsewhere": 2, "finished": 3}


def _state(run: Run) -> State:
    status = run.status
    if status == "running":
        return "elsewhere"
    if status == "finished":
        return "finished"
    return "resumable" if checkpoint.steps(run.checkpoints) else "missing"


class Rates:
    """Training seconds a step, from the finished runs below a folder."""

    def __init__(self, folder: Path) -> None:
        self._known: dict[tuple[str, str | None], list[float]] = {}
        for run in runs.find_all(folder):
            with contextlib.suppress(UserError):
                summary = run.summary()
                if summary["status"] == "finished" and summary["steps"] and summary.get("seconds"):
                    rate = summary["seconds"] / summary["steps"]
                    for env in (run.config.env, None):
                        self._known.setdefault((run.config.algo, env), []).append(rate)

    def seconds(self, config: RunConfig, steps: int) -> float | None:
        """For so many steps: the median of runs in that environment, else of all of the algorithm's, else None."""
        rates = self._known.get((config.algo, config.env)) or self._known.get((config.algo, None))
        return steps * median(rates) if rates else None


def steps_left(cell: Cell, found: Found) -> int:
    """Steps that a cell has still to make."""
    if found.state == "finished":
        return 0
    done = found.run.summary()["steps"] if found.run is not None else 0
    return max(0, cell.config.steps - int(done))


def total(seconds: Iterable[float | None], jobs: int) -> float | None:
    """How long runs of so many seconds take side by side, at best; None where that of one is unknown."""
    known = list(seconds)
    if any(each is None for each in known):
        return None
    each = [second for second in known if second]
    return max(sum(each) / jobs, max(each, default=0.0))
