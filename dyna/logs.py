"""The logs of a run - SB3's progress.csv and TensorBoard events - which a resumed run continues."""

from __future__ import annotations

import re
from pathlib import Path

from stable_baselines3.common.logger import CSVOutputFormat, Logger, TensorBoardOutputFormat
from stable_baselines3.common.monitor import Monitor
from torch.utils.tensorboard import SummaryWriter

from dyna import audit, files

PROGRESS, EVALUATIONS = "progress.csv", "evaluations.csv"
_OWN = re.compile(rf"{PROGRESS}|{EVALUATIONS}|{audit.FILE}|(\d+\.)?{Monitor.EXT}")


class CSV(CSVOutputFormat):
    """SB3's CSV log; a file that is there already is continued."""

    def __init__(self, path: Path) -> None:
        self.file = open(path, "r+" if path.exists() else "w+")  # noqa: SIM115 - closed by the logger
        self.keys = [key for key in self.file.readline().rstrip("\n").split(",") if key]
        self.file.seek(0, 2)
        self.separator, self.quotechar = ",", '"'


class TensorBoard(TensorBoardOutputFormat):
    """SB3's TensorBoard log; what an earlier process wrote after `step` is not shown any more."""

    def __init__(self, folder: Path, step: int | None) -> None:
        self.writer = SummaryWriter(str(folder), purge_step=None if step is None else step + 1)
        self._is_closed = False


def logger(folder: Path, step: int | None) -> Logger:
    """The logger of a run that goes on from a step, or starts."""
    return Logger(str(folder), [CSV(folder / PROGRESS), TensorBoard(folder, step)])


def lengths(folder: Path) -> dict[str, int]:
    """How many lines each CSV log has."""
    return {path.name: path.read_bytes().count(b"\n") for path in _own(folder)}


def shorten(folder: Path, lengths: dict[str, int]) -> None:
    """Drop what was written after `lengths` was taken; a log that is younger than that is removed."""
    for path in _own(folder):
        if path.name in lengths:
            files.replace(path, b"".join(path.read_bytes().splitlines(keepends=True)[: lengths[path.name]]))
        else:
            path.unlink()


def _own(folder: Path) -> list[Path]:
    """The CSV logs that runs write; what else is there is the user's."""
    return [path for path in sorted(folder.glob("*.csv")) if _OWN.fullmatch(path.name)]
