"""A map as text, and what it says about where one can go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

WALL, START, GOAL, FREE = "#SG."
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left


@dataclass(frozen=True, eq=False)
class Grid:
    """Cells, numbered row by row from the upper left corner; S of them, of which the walls are never entered."""

    wall: npt.NDArray[np.bool_]  # [rows, columns]
    goal: npt.NDArray[np.bool_]  # [rows, columns]
    start: int

    @property
    def cells(self) -> int:
        """How many cells there are, walls included."""
        return self.wall.size

    @cached_property
    def moves(self) -> npt.NDArray[np.int32]:
        """The cell in which each action ends [S, A]: where it would leave the map or enter a wall, one stays."""
        cells = np.arange(self.cells, dtype=np.int32).reshape(self.wall.shape)
        wall, target = np.pad(self.wall, 1, constant_values=True), np.pad(cells, 1)
        rows, columns = np.indices(self.wall.shape) + 1
        targets = []
        for down, right in MOVES:
            to = rows + down, columns + right
            targets.append(np.where(wall[to], cells, target[to]).ravel())
        return np.stack(targets, axis=1)


def parse(text: str | Sequence[str], resolution: int = 1) -> Grid:
    """The grid of a map, each of whose cells becomes resolution x resolution of them; raises ValueError.

    `#` is a wall, `S` the start (of its cells the upper left one), `G` a goal (all of its cells) and `.` free. The text
    has a line for each row; a sequence has a text for each row.
    """
    rows = text.split() if isinstance(text, str) else list(text)
    if resolution < 1:
        raise ValueError(f"the resolution of a map must be at least 1, got {resolution}")
    if not rows or len(set(map(len, rows))) != 1:
        raise ValueError(f"the rows of a map must be equally long, got the lengths {sorted(set(map(len, rows)))}")
    strange = sorted(set("".join(rows)) - {WALL, START, GOAL, FREE})
    if strange:
        raise ValueError(f"a map has #, S, G and . for walls, start, goals and free cells, got {' '.join(strange)}")
    signs = np.array([list(row) for row in rows])
    starts, goals = (signs == START).sum(), (signs == GOAL).sum()
    if starts != 1 or not goals:
        raise ValueError(f"a map has one start S and at least one goal G, got {starts} and {goals}")
    signs = signs.repeat(resolution, axis=0).repeat(resolution, axis=1)
    return Grid(signs == WALL, signs == GOAL, int(np.flatnonzero(signs == START)[0]))
