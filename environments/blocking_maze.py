"""The blocking maze (Sutton & Barto 2018, example 8.2)."""

from __future__ import annotations

from dyna.environments.changing_maze import ChangingMaze

OPEN_AT_THE_RIGHT = """
........G
.........
.........
########.
.........
...S.....
"""
OPEN_AT_THE_LEFT = """
........G
.........
.........
.########
.........
...S.....
"""


class BlockingMaze(ChangingMaze):
    """A `ChangingMaze` whose short way is blocked after 1,000 steps, while a longer one opens.

    :param switch: Steps after which that happens.
    :param resolution: As in `Maze`.
    :param render_mode: As in `Maze`.
    """

    def __init__(self, switch: int = 1_000, resolution: int = 1, render_mode: str | None = None) -> None:
        super().__init__([OPEN_AT_THE_RIGHT, OPEN_AT_THE_LEFT], [switch], resolution, render_mode)
