"""One writer a folder: a lock that ends with the process that holds it."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from dyna.errors import UserError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCK = ".lock"


@contextlib.contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Keep other processes from writing into a folder; raises UserError, which names `what`, where one does."""
    try:
        opened = (folder / LOCK).open("a+")
    except OSError as error:
        raise UserError(f"{what} {str(folder)!r} cannot be written: {error}") from error
    with opened as file:
        if not _lock(file):
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise UserError(f"{what} {str(folder)!r} is being written by process {holder}: wait until it ends")
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def is_locked(folder: Path) -> bool:
    """Whether a process is writing into a folder; nothing is written to find it out."""
    try:
        with (folder / LOCK).open("r+") as file:
            return not _try_lock(file)
    except OSError:  # never locked, or of somebody else
        return False


def _lock(file: IO[str]) -> bool:
    for _ in range(20):  # for a second: another process may just be looking whether the run died
        if _try_lock(file):
            return True
        time.sleep(0.05)
    return False


def _try_lock(file: IO[str]) -> bool:
    try:
        if sys.platform == "win32":
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
