"""A maze as text and as a picture: walls, the agent, and what it believes.

Of a table of action values it shows, in each cell, the greedy action and the value of the state, and which actions were
never tried there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from dyna.environments.grid import Grid

ARROWS = "↑→↓←"
TEXT_COLUMNS = 100  # which a text with values may have
WALL_SIGN = "█"

Picture = npt.NDArray[np.uint8]
Color = tuple[int, int, int]
WALL: Color = (62, 66, 74)
UNKNOWN: Color = (226, 228, 232)
LOW: Color = (255, 255, 255)
HIGH: Color = (64, 145, 185)
GOAL: Color = (245, 190, 65)
START: Color = (225, 130, 60)
INK: Color = (30, 34, 42)
AGENT: Color = (200, 50, 60)
UNTRIED: Color = (200, 120, 120)


@dataclass(frozen=True)
class Shown:
    """What there is to see."""

    grid: Grid
    agent: int
    values: npt.NDArray[np.float64] | None = None  # [S, A]
    visits: npt.NDArray[np.int64] | None = None  # [S, A]

    @cached_property
    def prefers(self) -> npt.NDArray[np.int64]:
        """The greedy action of each state [S], -1 where all are worth the same."""
        if self.values is None:
            return np.full(self.grid.cells, -1)
        return np.where(np.ptp(self.values, axis=1) > 0, self.values.argmax(axis=1), -1)

    @cached_property
    def worth(self) -> npt.NDArray[np.float64]:
        """The value of each state [S]."""
        return np.zeros(self.grid.cells) if self.values is None else self.values.max(axis=1)


def text(shown: Shown) -> str:
    """The maze in lines: `@` the agent, `S` the start, `G` a goal, an arrow the greedy action, behind it the value."""
    rows, columns = shown.grid.wall.shape
    words = [_word(shown, cell) for cell in range(shown.grid.cells)]
    if columns * (max(map(len, words)) + 1) > TEXT_COLUMNS:
        words = [word[0] for word in words]
    width = max(map(len, words)) + 1
    cells = [word.ljust(width, WALL_SIGN if word == WALL_SIGN else " ") for word in words]
    lines = ["".join(cells[columns * row : columns * (row + 1)]).rstrip() for row in range(rows)]
    if shown.visits is not None:
        open_cells = ~(shown.grid.wall | shown.grid.goal).ravel()
        tried = shown.visits[open_cells] > 0
        lines.append(f"{tried.sum()} of {tried.size} pairs of cell and action tried")
    return "\n".join(lines)


def _word(shown: Shown, cell: int) -> str:
    prefers, is_agent = shown.prefers[cell], cell == shown.agent
    if shown.grid.wall.flat[cell] and not is_agent:  # walls may move over it
        return WALL_SIGN
    if shown.grid.goal.flat[cell]:
        return "@" if is_agent else "G"
    sign = "S" if cell == shown.grid.start else "·"
    sign = ARROWS[prefers] if prefers >= 0 else sign
    sign = "@" if is_agent else sign
    return sign if prefers < 0 else f"{sign}{shown.worth[cell]:.2f}"


def picture(shown: Shown) -> Picture:
    """The maze in colours [height, width, 3]: the bluer a cell, the higher its value; red marks untried actions."""
    rows, columns = shown.grid.wall.shape
    side = 2 * int(np.clip(240 // max(rows, columns), 4, 24))  # even, as films want it
    stencils = Stencils(side)
    tiles = np.empty((rows * columns, side, side, 3), np.uint8)
    tiles[:] = _shades(shown)[:, None, None]
    tiles[shown.agent][stencils.disc] = AGENT
    for cell, prefers in enumerate(shown.prefers):
        if shown.grid.wall.flat[cell] or shown.grid.goal.flat[cell]:
            continue
        if cell == shown.grid.start:
            tiles[cell][stencils.frame] = START
        if shown.visits is not None and shown.visits[cell].any():
            for action in np.flatnonzero(shown.visits[cell] == 0):
                tiles[cell][stencils.edges[action]] = UNTRIED
        if prefers >= 0:
            tiles[cell][stencils.arrows[prefers]] = INK
    found: Picture = tiles.reshape(rows, columns, side, side, 3).swapaxes(1, 2).reshape(rows * side, columns * side, 3)
    return found


def _shades(shown: Shown) -> Picture:
    """The colour of each cell [S, 3]."""
    worth = shown.worth
    span = np.ptp(worth) or 1.0
    share = ((worth - worth.min()) / span)[:, None]
    shades = np.array(LOW) + share * (np.array(HIGH) - np.array(LOW))
    if shown.visits is not None:
        shades[~shown.visits.any(axis=1)] = UNKNOWN
    shades[shown.grid.wall.ravel()] = WALL
    shades[shown.grid.goal.ravel()] = GOAL
    return np.asarray(shades, np.uint8)


class Stencils:
    """Where to put ink in a tile [side, side]; of four, one for each action."""

    def __init__(self, side: int) -> None:
        across = (np.arange(side) + 0.5) / side * 2 - 1
        down, right = np.meshgrid(across, across, indexing="ij")
        self.disc = down**2 + right**2 < 0.3
        self.frame = np.maximum(abs(down), abs(right)) > 0.88
        self.arrows = _turned((abs(right) < (down + 0.6) * 0.5) & (down < 0.4))
        self.edges = _turned((down < -0.8) & (abs(right) < 0.35))


def _turned(up: npt.NDArray[np.bool_]) -> list[npt.NDArray[np.bool_]]:
    return [np.rot90(up, -quarter) for quarter in range(4)]
