"""Learning curves: one training each, read from a run folder."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dyna import tree
from dyna.errors import UserError
from dyna.logs import EVALUATIONS
from dyna.runs import Run

Floats: TypeAlias = NDArray[np.float64]
Axis: TypeAlias = Literal["steps", "seconds"]
AXES: tuple[Axis, ...] = ("steps", "seconds")
MONITOR = "monitor.csv"


@dataclass(frozen=True)
class Curve:
    """Returns of one training over the environment steps that it had made."""

    env: str
    label: str
    seed: int
    steps: Floats  # [T] environment steps, increasing
    returns: Floats  # [T] mean undiscounted return of an evaluation, environment units
    seconds: Floats | None = None  # [T] of training, evaluation not counted; None where nobody measured them
    source: str = ""
    """The file that it was read from; empty for a run of this toolkit."""

    def along(self, axis: Axis) -> Floats:
        """The places [T] of the returns on an axis; raises ValueError where the curve has no seconds."""
        places = self.steps if axis == "steps" else self.seconds
        if places is None:
            raise ValueError(f"the curve of {self.source} has no seconds")
        return places

    def at(self, axis: Axis, places: Floats) -> Floats:
        """Returns at places on an axis, straight lines between the evaluations."""
        return np.interp(places, self.along(axis), self.returns)

    def same(self, other: Curve) -> bool:
        """Whether two curves of a name are one training, read twice: the same returns of a seed at the same places."""
        ours, theirs = ((each.seed, each.steps, each.returns, each.seconds) for each in (self, other))
        return tree.same(ours, theirs)

    def first_at(self, axis: Axis, threshold: float) -> float:
        """Where on the axis an evaluation first reached a return; infinite where none did."""
        reached = np.flatnonzero(self.returns >= threshold)
        return float(self.along(axis)[reached[0]]) if len(reached) else float("inf")


def of_run(run: Run, label: str | None = None) -> Curve | None:
    """The evaluations of a run, or None where it has none yet; raises UserError for a file that cannot be read."""
    path = run.path / EVALUATIONS
    if not path.exists():
        return None
    columns = read_columns(path, {"step": float, "seconds": float, "return_mean": float})
    if not columns["step"]:
        return None
    steps, seconds, returns = (np.array(column) for column in columns.values())
    return Curve(run.config.env, label or run.config.algo, run.config.seed, steps, returns, seconds)


def read_columns(
    path: Path, kinds: Mapping[str, Callable[[str], object]], optional: Sequence[str] = (), skip: int = 0
) -> dict[str, list[object]]:
    """Columns of a CSV file with a heading, each cell read by its column's kind; further columns are passed over.

    An optional column that is not there is empty. Raises UserError, with the line, for what cannot be read.
    """
    found: dict[str, list[object]] = {name: [] for name in kinds}
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            for _ in range(skip):
                next(file, None)
            reader = csv.DictReader(file, skipinitialspace=True)
            heads = [head.strip().lower() for head in reader.fieldnames or ()]
            reader.fieldnames = heads
            missing = [name for name in kinds if name not in heads and name not in optional]
            if missing:
                raise UserError(f"{path} lacks the column {missing[0]!r}: it needs {', '.join(kinds)}, got {heads}")
            for row in reader:
                for name, kind in kinds.items():
                    if name in heads:
                        found[name].append(_cell(path, reader.line_num + skip, name, row[name], kind))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    return found


def _cell(path: Path, line: int, name: str, text: str | None, kind: Callable[[str], object]) -> object:
    try:
        return kind((text or "").strip())
    except ValueError as error:
        raise UserError(f"{path}, line {line}: {name} must be a number, got {text!r}") from error
