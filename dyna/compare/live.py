"""Shows how far a comparison is: a live table on a terminal, a line for each event elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dyna.compare.execute import Job, Stage

COLOURS: dict[Stage, str] = {
    "waiting": "dim",
    "starting": "cyan",
    "running": "cyan",
    "elsewhere": "yellow",
    "finished": "green",
    "failed": "bold red",
    "interrupted": "yellow",
}
_FIRST: tuple[Stage, ...] = ("running", "starting", "failed", "elsewhere", "interrupted", "waiting", "finished")
_NUMBERS = ("seed", "step", "return", "time left")
BAR = 16


class Board:
    """Every run with its progress, last return and time left; the runs that do not fit are counted."""

    def __init__(self) -> None:
        self._console = Console()
        self._live = Live(console=self._console, auto_refresh=False)

    def __enter__(self) -> Board:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, jobs: Sequence[Job]) -> None:
        """Redraw."""
        self._live.update(board(jobs, self._console.height - 6), refresh=True)


class Lines:
    """One line for each run that begins or ends."""

    def __init__(self) -> None:
        self._told: dict[int, Stage] = {}

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is left open."""

    def show(self, jobs: Sequence[Job]) -> None:
        """Tell what has changed."""
        ended = sum(job.stage in ("finished", "failed", "interrupted") for job in jobs)
        for number, job in enumerate(jobs):
            before = self._told.get(number, "waiting")
            if job.stage != before and job.stage != "starting":
                print(f"[{ended}/{len(jobs)}] {job.cell}: {_said(job)}", flush=True)
            self._told[number] = job.stage


def display() -> Board | Lines:
    """A board on a terminal, lines elsewhere."""
    return Board() if sys.stdout.isatty() else Lines()


def board(jobs: Sequence[Job], height: int) -> Table:
    """The table: what runs, then what failed, waits and has finished, as many rows as the height allows."""
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
    for column in ("environment", "algorithm", "seed", "", "step", "return", "time left"):
        grid.add_column(column, no_wrap=True, justify="right" if column in _NUMBERS else "left")
    grid.add_column("status", no_wrap=True, overflow="ellipsis", ratio=1)  # what the others leave
    ordered = sorted(jobs, key=lambda job: _FIRST.index(job.stage))
    shown = ordered[: max(height, 3)]
    for job in shown:
        grid.add_row(*_cells(job))
    counts = {stage: sum(job.stage == stage for job in jobs) for stage in _FIRST}
    said = ", ".join(f"{count} {stage}" for stage, count in counts.items() if count)
    hidden = f"; {len(ordered) - len(shown)} not shown" if len(ordered) > len(shown) else ""
    grid.caption = Text(f"{len(jobs)} runs: {said}{hidden}", style="dim", justify="left")
    return grid


def duration(seconds: float | None) -> str:
    """Seconds as people say them; empty for None."""
    if seconds is None:
        return ""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def _cells(job: Job) -> tuple[Text, ...]:
    colour = COLOURS[job.stage]
    steps = job.summary.get("steps", 0)
    filled = min(BAR, BAR * steps // job.cell.config.steps)
    bar = Text("━" * filled, colour) + Text("━" * (BAR - filled), "bright_black")
    config = job.cell.config
    left = duration(job.seconds_left) if job.stage == "running" else ""
    status: str = "finished before" if job.reused and job.stage == "finished" else job.stage
    if job.error:
        status += f": {job.error}"
    cells = (config.env, job.cell.label, str(config.seed), f"{steps:,} of {config.steps:,}", _return(job), left)
    plain = [Text(cell, "dim" if job.stage == "waiting" else "") for cell in cells]
    return (*plain[:3], bar, *plain[3:], Text(status, colour))


def _return(job: Job) -> str:
    value = job.summary.get("final_return_mean")
    return "" if value is None else f"{value:,.1f}"


def _said(job: Job) -> str:
    if job.stage == "elsewhere":
        return "another process is running it"
    if job.stage == "finished":
        seconds = duration(job.summary.get("seconds"))
        return f"{'finished before' if job.reused else 'finished'}, return {_return(job) or 'not evaluated'}, {seconds}"
    return job.stage
