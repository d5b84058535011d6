"""A maze: find the way from the start to a goal."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from dyna.environments import drawing
from dyna.environments.drawing import Shown
from dyna.environments.grid import MOVES, Grid, parse


class Maze(gym.Env[Any, Any]):
    """A grid of cells: 1 for reaching a goal, which ends the episode, 0 for any other step.

    The observation is the number of the cell, row by row. The actions are up, right, down and left; one that would lead
    into a wall or off the map changes nothing. There is no time limit. Raises ValueError for a map that is none.

    :param map: The rows of the map, in which `#` is a wall, `S` the start, `G` a goal and `.` a free cell.
    :param resolution: Cells in each direction that each cell of the map becomes.
    :param render_mode: `human` draws in the terminal, `ansi` returns that text, `rgb_array` a picture.
    """

    metadata: dict[str, Any] = {"render_modes": ["human", "ansi", "rgb_array"], "render_fps": 10}

    def __init__(self, map: str | Sequence[str], resolution: int = 1, render_mode: str | None = None) -> None:
        self.grid = parse(map, resolution)
        self.cell = self.grid.start
        self.observation_space = spaces.Discrete(self.grid.cells)
        self.action_space = spaces.Discrete(len(MOVES))
        self.render_mode = render_mode
        self._values: npt.NDArray[np.float64] | None = None
        self._visits: npt.NDArray[np.int64] | None = None
        self._drawn = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """Gymnasium's reset."""
        super().reset(seed=seed)
        self.cell = self.grid.start
        self._draw()
        return self.cell, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """Gymnasium's step."""
        self.cell = int(self.grid.moves[self.cell, action])
        at_goal = bool(self.grid.goal.flat[self.cell])
        self._draw()
        return self.cell, float(at_goal), at_goal, False, {}

    def show_values(self, values: npt.NDArray[np.float64], visits: npt.NDArray[np.int64] | None) -> None:
        """Draw an agent's action values [S, A] from now on, and what it has tried, if visits [S, A] tell that."""
        self._values, self._visits = values, visits

    def render(self) -> Any:
        """Gymnasium's render: a text, a picture [height, width, 3], or nothing."""
        shown = Shown(self.grid, self.cell, self._values, self._visits)
        if self.render_mode == "rgb_array":
            return drawing.picture(shown)
        return drawing.text(shown) if self.render_mode == "ansi" else None

    def _draw(self) -> None:
        """Draw in the terminal, each time over the last drawing; elsewhere one drawing below the other."""
        if self.render_mode != "human":
            return
        text = drawing.text(Shown(self.grid, self.cell, self._values, self._visits))
        if sys.stdout.isatty():
            if self._drawn:
                text = f"\x1b[{text.count(chr(10)) + 1}F{text}"
            time.sleep(1 / self.metadata["render_fps"])
        print(text, flush=True)
        self._drawn = True


def world(grid: Grid) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float64]]:
    """A grid as a table: the next state [S, A], of which S is the end, and the reward [S, A]."""
    at_goal = grid.goal.ravel()[grid.moves]
    return np.where(at_goal, np.int32(grid.cells), grid.moves), at_goal.astype(np.float64)
