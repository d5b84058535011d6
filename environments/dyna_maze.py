"""The Dyna maze (Sutton & Barto 2018, example 8.1)."""

from __future__ import annotations

from dyna.environments.maze import Maze

MAP = """
.......#G
..#....#.
S.#....#.
..#......
.....#...
.........
"""


class DynaMaze(Maze):
    """A `Maze` in which the shortest way takes 14 steps; at a higher resolution, those of example 8.4.

    :param resolution: As in `Maze`.
    :param render_mode: As in `Maze`.
    """

    def __init__(self, resolution: int = 1, render_mode: str | None = None) -> None:
        super().__init__(MAP, resolution, render_mode)
