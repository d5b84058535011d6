"""Trains cells on a Ray cluster whose nodes share the folder of the runs."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dyna.compare import threads
from dyna.compare.execute import Ended, words
from dyna.compare.grids import Cell
from dyna.compare.local import INTERRUPTED, last_line
from dyna.compare.plan import Found, look
from dyna.errors import UserError

RETRIES = 10
"""How often a cell is begun again whose node has died."""
LOCAL = "local"
"""The address that means: start Ray on this machine."""


class Cluster:
    """A task for each cell, in a process of its own; one whose node dies is gone on with from its checkpoint elsewhere.

    Nodes need this toolkit, the environments, and the same path to the runs. Raises UserError where Ray is not
    installed or no cluster answers.
    """

    def __init__(self, address: str, share: threads.Share, folder: Path, *, any_code: bool) -> None:
        try:
            import ray
        except ModuleNotFoundError as error:
            raise UserError("--ray needs the package 'ray': pip install -c constraints.txt -e '.[ray]'") from error
        self._ray, self._share, self._folder, self._any_code = ray, share, folder, any_code
        self._tasks: dict[Any, Cell] = {}
        here: dict[str, Any] = {"num_cpus": share.jobs * share.threads, "include_dashboard": False}
        options = here if address == LOCAL else {"address": address}
        self._ours = not ray.is_initialized()
        try:
            if self._ours:
                ray.init(**options, log_to_driver=False, logging_level=logging.WARNING)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(f"no Ray cluster answers at {address!r}: {last_line(str(error))}") from error

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        for task in self._tasks:
            self._ray.cancel(task, force=True)
        if self._ours:
            self._ray.shutdown()

    def has_room(self) -> bool:
        """Always: the cluster's scheduler keeps what has to wait."""
        return True

    def start(self, cell: Cell, found: Found) -> None:
        """Hand a cell to the cluster."""
        limit = cell.config.threads or self._share.threads
        task = self._ray.remote(max_calls=1)(_train).options(  # a process trains one cell, as on one machine
            num_cpus=limit,
            max_retries=RETRIES,
            runtime_env={"env_vars": threads.environment(limit)},
            name=str(cell),
        )
        self._tasks[task.remote(cell, self._folder, os.getcwd(), self._any_code)] = cell

    def ended(self) -> Sequence[Ended]:
        """The cells whose tasks have ended since the last call."""
        if not self._tasks:
            return []
        ready, _ = self._ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=0)
        return [self._ended(task, self._tasks.pop(task)) for task in ready]

    def interrupt(self) -> None:
        """Ask every run to save and stop; what has not begun does not begin."""
        for task in self._tasks:
            self._ray.cancel(task, force=False)

    def _ended(self, task: Any, cell: Cell) -> Ended:
        try:
            code, said = self._ray.get(task)
        except self._ray.exceptions.TaskCancelledError:
            return Ended(cell, "interrupted")
        except self._ray.exceptions.RayError as error:
            return Ended(cell, "failed", f"its node died {RETRIES} times, or Ray failed: {last_line(str(error))}")
        if code == INTERRUPTED:
            return Ended(cell, "interrupted")
        return Ended(cell, "failed", said) if code else Ended(cell, "finished")


def _train(cell: Cell, folder: Path, here: str, any_code: bool) -> tuple[int, str]:
    """Train a cell on the node where this is called; its exit code, and the last line that it said."""
    from dyna import cli

    os.chdir(here)  # a user's own environments are found from there
    found = look(cell, any_code=any_code)
    while found.state == "elsewhere":  # by the process of a node that is just dying
        time.sleep(1.0)
        found = look(cell, any_code=any_code)
    if found.state == "finished":
        return 0, ""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = cli.main(words(cell, found, folder))
    return code, last_line(said.getvalue())
