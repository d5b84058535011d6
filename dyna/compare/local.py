"""Trains cells in processes on this machine, so many side by side."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from dyna.compare import threads
from dyna.compare.execute import Ended, slug, words
from dyna.compare.grids import Cell
from dyna.compare.plan import Found

INTERRUPTED = 130
"""What `dyna train` returns after Ctrl-C."""
PATIENCE = 30.0
"""Seconds until a process that was told to end at once is killed."""


class Processes:
    """A process for each cell: `dyna train`, with its output in a file and its threads limited."""

    def __init__(self, share: threads.Share, folder: Path) -> None:
        self._share, self._folder = share, folder
        self._running: list[tuple[Cell, subprocess.Popen[bytes], IO[bytes]]] = []

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        """End what is left: after a second Ctrl-C, or an error."""
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGTERM)  # the second ends at once
        for _cell, process, output in self._running:
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            output.close()

    def has_room(self) -> bool:
        """Whether fewer run than may run side by side."""
        return len(self._running) < self._share.jobs

    def start(self, cell: Cell, found: Found) -> None:
        """Train a cell in a process and session of its own: Ctrl-C reaches it through us alone."""
        path = self._folder / "logs" / f"{slug(cell)}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        output = path.open("wb")
        limits = threads.environment(cell.config.threads or self._share.threads)
        process = subprocess.Popen(
            [sys.executable, "-m", "dyna", *words(cell, found, self._folder)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **limits},
            start_new_session=True,
        )
        self._running.append((cell, process, output))

    def ended(self) -> Sequence[Ended]:
        """The cells whose processes have ended since the last call."""
        over = [each for each in self._running if each[1].poll() is not None]
        self._running = [each for each in self._running if each not in over]
        found = []
        for cell, process, output in over:
            output.close()
            found.append(_ended(cell, process.returncode, Path(str(output.name))))
        return found

    def interrupt(self) -> None:
        """Ask every process to save and stop."""
        self._signal(signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> None:
        for _, process, _ in self._running:
            if process.poll() is None:
                process.send_signal(number)


def _ended(cell: Cell, code: int, log: Path) -> Ended:
    if code == 0:
        return Ended(cell, "finished")
    if code == INTERRUPTED:
        return Ended(cell, "interrupted")
    if code < 0:
        return Ended(cell, "failed", f"killed by {signal.Signals(-code).name}: call the comparison again to go on")
    return Ended(cell, "failed", last_line(log.read_text(errors="replace")) or f"it ended with code {code}; see {log}")


def last_line(text: str) -> str:
    """The last line that says anything; empty where none does."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
