"""A maze whose walls move."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from dyna.environments.grid import parse
from dyna.environments.maze import Maze


class ChangingMaze(Maze):
    """A `Maze` that changes at given steps, in the midst of an episode where that is so; the agent stays in its cell.

    Steps are counted over all episodes, from the moment that the environment is made: another one, such as that in
    which a policy is evaluated, begins with the first map. Raises ValueError.

    :param maps: The maps, all of one size.
    :param switches: The steps after which the second map holds, the third, and so on.
    :param resolution: As in `Maze`.
    :param render_mode: As in `Maze`.
    """

    def __init__(
        self,
        maps: Sequence[str | Sequence[str]],
        switches: Sequence[int],
        resolution: int = 1,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(maps[0], resolution, render_mode)
        self.grids = [self.grid, *(parse(each, resolution) for each in maps[1:])]
        self.switches = list(switches)
        self.steps = 0
        if len(self.switches) != len(self.grids) - 1 or sorted(set(self.switches)) != self.switches:
            raise ValueError(f"{len(maps)} maps need {len(maps) - 1} increasing switches, got {self.switches}")
        sizes = [grid.wall.shape for grid in self.grids]
        if len(set(sizes)) > 1:
            raise ValueError(f"the maps of a maze must be of one size, got {sizes}")

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """Gymnasium's reset; the count of steps goes on."""
        self._change()
        return super().reset(seed=seed, options=options)

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """Gymnasium's step."""
        self._change()
        self.steps += 1
        return super().step(action)

    def _change(self) -> None:
        self.grid = self.grids[bisect_right(self.switches, self.steps)]
