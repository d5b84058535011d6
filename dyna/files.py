"""Files that are either there whole or not at all: written beside their place, flushed to the disk, then renamed."""

from __future__ import annotations

import errno
import os
from pathlib import Path


def write(path: Path, *pieces: bytes | memoryview) -> None:
    """Write a file and wait until the disk has it; raises OSError, and then leaves no file."""
    try:
        with open(path, "wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def replace(path: Path, content: bytes | str) -> None:
    """Give a file new content in one step; raises OSError, and then leaves the old content."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    write(temporary, content.encode() if isinstance(content, str) else content)
    os.replace(temporary, path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Wait until the disk has a folder's list of names."""
    if os.name == "nt":  # Windows opens no folders, and keeps their names itself
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_full(error: BaseException) -> bool:
    """Whether an error says that the disk has no room left, or no more for this user or this file."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
