"""Runs what is missing of a comparison, and isolates what fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from dyna import files, runs
from dyna.compare.grids import Cell
from dyna.compare.plan import Found, look
from dyna.errors import UserError
from dyna.interrupts import Interrupts
from dyna.runs import Run

Stage: TypeAlias = Literal["waiting", "starting", "running", "elsewhere", "finished", "failed", "interrupted"]
LOOK_SECONDS = 1.0
"""Between two looks at the runs."""


@dataclass
class Job:
    """One cell and how far it is."""

    cell: Cell
    stage: Stage = "waiting"
    run: Run | None = None
    error: str | None = None
    reused: bool = False
    summary: dict[str, Any] = field(default_factory=dict)

    def read(self) -> None:
        """Look how far the run is; one that has none yet, or is just being replaced, is as it was."""
        if self.run is not None:
            try:
                self.summary = self.run.summary()
            except UserError:
                return

    @property
    def seconds_left(self) -> float | None:
        """Of training, at the rate so far; None where nothing can be said."""
        steps, seconds = self.summary.get("steps", 0), self.summary.get("seconds", 0.0)
        return (self.cell.config.steps - steps) * seconds / steps if steps and seconds else None


@dataclass(frozen=True)
class Ended:
    """How the process of a cell ended; a sentence where it failed."""

    cell: Cell
    stage: Literal["finished", "failed", "interrupted"]
    error: str | None = None


class Backend(Protocol):
    """What trains cells."""

    def has_room(self) -> bool:
        """Whether another cell can be started."""
        ...

    def start(self, cell: Cell, found: Found) -> None:
        """Begin to train a cell, or go on with what there is of it."""
        ...

    def ended(self) -> Sequence[Ended]:
        """The cells that have ended since the last call."""
        ...

    def interrupt(self) -> None:
        """Ask every run to save and stop."""
        ...


def words(cell: Cell, found: Found, folder: Path) -> list[str]:
    """The command that trains a cell or goes on with it: what follows `dyna`. Writes the cell's configuration."""
    if found.state == "resumable" and found.run is not None:
        return ["train", "--resume", str(found.run.path), "--no-progress"]
    path = folder / "configs" / f"{slug(cell)}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    files.replace(path, cell.config.to_yaml())
    return ["train", "--config", str(path), "--no-progress"]


def slug(cell: Cell) -> str:
    """A cell's name for files."""
    return runs.file_safe(f"{cell.config.env}_{cell.label}_seed{cell.config.seed}")


def execute(
    cells: Sequence[Cell],
    backend: Backend,
    show: Callable[[Sequence[Job]], None],
    interrupts: Interrupts,
    *,
    any_code: bool = False,
) -> list[Job]:
    """Train every cell that has no finished run; returns all, in their order, with how each ended.

    After an interrupt nothing is started, and what runs is asked to save and stop.
    """
    jobs = {id(cell): Job(cell) for cell in cells}
    for job in jobs.values():
        _settle(job, look(job.cell, any_code=any_code), reused=True)
    asked, looked = False, 0.0
    while any(job.stage in _OPEN for job in jobs.values()):
        if interrupts.asked and not asked:
            asked = True
            backend.interrupt()
        for ended in backend.ended():
            _end(jobs[id(ended.cell)], ended, any_code)
        if asked:
            for job in jobs.values():
                job.stage = "interrupted" if job.stage in ("waiting", "elsewhere") else job.stage
        else:
            _start(list(jobs.values()), backend, any_code)
        if time.monotonic() - looked >= LOOK_SECONDS:
            _read(jobs.values(), any_code)
            show(list(jobs.values()))
            looked = time.monotonic()
        time.sleep(0.05)
    show(list(jobs.values()))
    return list(jobs.values())


_OPEN = ("waiting", "starting", "running", "elsewhere")


def _start(jobs: Sequence[Job], backend: Backend, any_code: bool) -> None:
    for job in jobs:
        if job.stage == "waiting" and backend.has_room():
            found = look(job.cell, any_code=any_code)  # it may have been run in the meantime
            _settle(job, found, reused=True)
            if job.stage == "waiting":
                backend.start(job.cell, found)
                job.stage, job.run = "starting", found.run


def _read(jobs: Sequence[Job] | Any, any_code: bool) -> None:
    """Bring every open job up to date."""
    for job in jobs:
        if job.stage == "starting":
            found = look(job.cell, any_code=any_code)
            if found.state == "elsewhere":  # it is written: by our process
                job.stage, job.run = "running", found.run
        if job.stage == "elsewhere":
            job.stage = "waiting"
            _settle(job, look(job.cell, any_code=any_code), reused=True)
        if job.stage == "running":
            job.read()


def _settle(job: Job, found: Found, *, reused: bool) -> None:
    job.run = found.run
    if found.state in ("finished", "elsewhere"):
        job.stage = "finished" if found.state == "finished" else "elsewhere"
        job.reused = reused
    job.read()


def _end(job: Job, ended: Ended, any_code: bool) -> None:
    found = look(job.cell, any_code=any_code)
    job.stage, job.error = ended.stage, ended.error
    if ended.stage == "finished" and found.state != "finished":
        job.stage = "failed"
        if look(job.cell, any_code=True).state == "finished":
            job.error = "the code changed while the comparison ran: call it again"
        else:
            job.error = "its process ended before the training did, and without a word: see its log"
    if ended.stage != "failed" or found.run is not None:
        _settle(job, found, reused=False)
    if job.stage == "failed" and job.run is not None:
        job.error = job.summary.get("error") or job.error
