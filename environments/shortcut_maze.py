"""The shortcut maze (Sutton & Barto 2018, example 8.3)."""

from __future__ import annotations

from dyna.environments.blocking_maze import OPEN_AT_THE_LEFT
from dyna.environments.changing_maze import ChangingMaze

OPEN_ON_BOTH_SIDES = """
........G
.........
.........
.#######.
.........
...S.....
"""


class ShortcutMaze(ChangingMaze):
    """A `ChangingMaze` in which a shorter way opens after 3,000 steps, and the known one stays as it was.

    :param switch: Steps after which that happens.
    :param resolution: As in `Maze`.
    :param render_mode: As in `Maze`.
    """

    def __init__(self, switch: int = 3_000, resolution: int = 1, render_mode: str | None = None) -> None:
        super().__init__([OPEN_AT_THE_LEFT, OPEN_ON_BOTH_SIDES], [switch], resolution, render_mode)
