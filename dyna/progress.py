"""How far a training is: a live bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import datetime
import sys
import time
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_SECONDS = 10.0
"""Between two plain lines."""
BAR_SECONDS = 0.25
"""Between two looks at the training; in between, a step costs one comparison of times."""


@dataclass(frozen=True)
class Reading:
    """What there is to show at one moment."""

    step: int
    seconds: float  # of training
    updates: int  # of the critic
    evaluated: float | None = None  # mean return of the last evaluation
    holdout_error: float | None = None  # of the world model


class Display(Protocol):
    """Shows readings."""

    seconds: float
    """The least time between two."""

    def show(self, reading: Reading, text: str, total: int, left: float | None) -> None:
        """Show one; `text` is what it says besides the step, `left` how many seconds there are to go, if known."""
        ...

    def close(self) -> None:
        """Leave the terminal as it was."""
        ...


class Meter:
    """Makes rates of readings and hands them to a display, if any."""

    def __init__(self, total: int, display: Display | None) -> None:
        self._total, self._display = total, display
        self._first: Reading | None = None  # of this process: a resumed run may have been faster elsewhere
        self._last: Reading | None = None
        self._next = time.monotonic() + display.seconds if display else float("inf")

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._display:
            self._display.close()

    @property
    def is_due(self) -> bool:
        """Whether it is time for a reading."""
        return time.monotonic() >= self._next

    def update(self, reading: Reading) -> None:
        """Take a reading; one that shows nothing new is passed over."""
        if self._display is None or reading == self._last:
            return
        self._first = self._first or reading
        left = _left(self._first, reading, self._total)
        self._display.show(reading, _text(self._last, reading), self._total, left)
        self._last, self._next = reading, time.monotonic() + self._display.seconds


class Bar:
    """A live bar."""

    seconds = BAR_SECONDS

    def __init__(self, total: int) -> None:
        columns = (
            BarColumn(24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
        )
        self._progress = Progress(*columns, console=Console(), refresh_per_second=4)
        self._task = self._progress.add_task("", total=total)
        self._progress.start()

    def show(self, reading: Reading, text: str, total: int, left: float | None) -> None:
        """Move the bar, which estimates itself what is left."""
        self._progress.update(self._task, completed=reading.step, description=text, total=total)

    def close(self) -> None:
        """Leave the bar where it is."""
        self._progress.stop()


class Lines:
    """A line every so often."""

    seconds = LINE_SECONDS

    def show(self, reading: Reading, text: str, total: int, left: float | None) -> None:
        """Print one."""
        said = [text] if text else []
        said += [f"{datetime.timedelta(seconds=round(left))} left"] if left else []
        print(f"step {reading.step} of {total}" + (f": {', '.join(said)}" if said else ""), flush=True)

    def close(self) -> None:
        """Nothing is left open."""


def meter(total: int, show: bool | None) -> Meter:
    """A meter that shows a bar on a terminal and lines elsewhere, or with `show=False` nothing."""
    if show is False:
        return Meter(total, None)
    return Meter(total, Bar(total) if sys.stdout.isatty() else Lines())


def say(sentence: str) -> None:
    """A sentence for the person at the terminal, apart from what the program puts out."""
    print(sentence, file=sys.stderr, flush=True)


def _left(first: Reading, now: Reading, total: int) -> float | None:
    """Seconds of training to go, at the mean speed of this process; evaluations are not in it."""
    if now.step <= first.step:
        return None
    return max(0, total - now.step) * (now.seconds - first.seconds) / (now.step - first.step)


def _text(last: Reading | None, now: Reading) -> str:
    parts = []
    if last is not None and now.step > last.step and now.seconds > last.seconds:
        seconds = now.seconds - last.seconds
        parts.append(f"{(now.step - last.step) / seconds:.3g} steps/s")
        parts.append(f"{(now.updates - last.updates) / seconds:.3g} updates/s")
    if now.evaluated is not None:
        parts.append(f"return {now.evaluated:.4g}")
    if now.holdout_error is not None:
        parts.append(f"model error {now.holdout_error:.3g}")
    return ", ".join(parts)
