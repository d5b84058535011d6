"""The experiments of Sutton & Barto 2018, chapter 8, in compiled episodes.

The tests hold their results against published and simulated figures, tests/benchmarks/figures.py draws them. Every run
has a stream of random numbers of its own; gamma is 0.95, epsilon 0.1, ties are broken at random, all values begin at 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

import dyna.environments  # noqa: F401 - registers the mazes
from dyna.environments.grid import Grid
from dyna.environments.maze import world
from dyna.kernels import Random, tabular
from dyna.kernels.episodes import World, dyna_episode, sweeping_episode
from dyna.rows import new_stream

GAMMA, EPSILON, THETA = 0.95, 0.1, 1e-4
FOR_EVER = 1 << 40
SHORTEST = 14  # steps through the Dyna maze at resolution 1


@dataclass(frozen=True)
class Dyna:
    """Dyna-Q, or with a bonus Dyna-Q+; `acting` is exercise 8.4, where the bonus counts in the choice of actions."""

    learning_rate: float
    n: int
    kappa: float = 0.0
    acting: bool = False


def stream(run: int) -> Random:
    """The random numbers of a run."""
    return new_stream(np.random.default_rng(run))


def grids(env_id: str, **kwargs: Any) -> list[Grid]:
    """The maps of a maze, in the order in which they hold."""
    maze: Any = gym.make(env_id, **kwargs).unwrapped
    return getattr(maze, "grids", [maze.grid])


class Life:
    """One run of Dyna in a maze."""

    def __init__(self, how: Dyna, cells: int, run: int) -> None:
        self.how, self.random = how, stream(run)
        self.values = np.zeros((cells + 1, 4))
        self.table = tabular.new_table(cells, 4, 4 * cells)

    def episode(self, maze: World, state: int, limit: int = FOR_EVER) -> tuple[int, int]:
        """Until the goal or a limit: the last state, and the steps made."""
        how = self.how
        bonus = (0.0, how.kappa) if how.acting else (how.kappa, 0.0)
        return dyna_episode(
            self.values, self.table, maze, state, limit, how.n, how.learning_rate, GAMMA, EPSILON, *bonus,
            how.kappa > 0.0, self.random,
        )  # fmt: skip


def steps_an_episode(n: int, runs: int, episodes: int = 50, learning_rate: float = 0.1) -> np.ndarray:
    """Figure 8.2: steps of each episode in the Dyna maze [runs, episodes]."""
    (grid,) = grids("dyna/DynaMaze-v0")
    maze = World(*world(grid))
    steps = np.zeros((runs, episodes))
    for run in range(runs):
        life = Life(Dyna(learning_rate, n), grid.cells, run)
        steps[run] = [life.episode(maze, grid.start)[1] for _ in range(episodes)]
    return steps


def rewards(env_id: str, how: Dyna, switch: int, end: int, runs: int) -> np.ndarray:
    """Figures 8.4 and 8.5: whether each step reached the goal [runs, end], in a maze that changes after `switch`."""
    before, after = grids(env_id)
    mazes = World(*world(before)), World(*world(after))
    reached = np.zeros((runs, end), bool)
    for run in range(runs):
        life, now, state = Life(how, before.cells, run), 0, before.start
        while now < end:
            maze, until = (mazes[0], switch) if now < switch else (mazes[1], end)
            state, steps = life.episode(maze, state, until - now)
            now += steps
            if state == before.cells:
                reached[run, now - 1], state = True, before.start
    return reached


def updates_until_solved(learner: str, learning_rate: float, resolution: int, runs: int, n: int = 5) -> np.ndarray:
    """Example 8.4: updates until a greedy path at an episode's end is at most 1.2 times the shortest [runs].

    `learner` is dyna, whose n + 1 updates a step all count, or sweeping.
    """
    (grid,) = grids("dyna/DynaMaze-v0", resolution=resolution)
    maze = World(*world(grid))
    episodes = {"dyna": _dyna_episodes, "sweeping": _sweeping_episodes}[learner]
    limit = 1.2 * SHORTEST * resolution
    return np.array([_updates(episodes(grid, maze, learning_rate, n, run), grid, maze, limit) for run in range(runs)])


def _updates(episodes: Iterator[tuple[int, np.ndarray]], grid: Grid, maze: World, limit: float) -> int:
    total = 0
    for updates, values in episodes:
        total += updates
        if _is_solved(values, maze, grid, limit):
            break
    return total


def _is_solved(values: np.ndarray, maze: World, grid: Grid, limit: float) -> bool:
    state, steps = grid.start, 0
    while state != grid.cells and steps <= limit:
        state, steps = maze.next_state[state, values[state].argmax()], steps + 1
    return steps <= limit


def _dyna_episodes(grid: Grid, maze: World, learning_rate: float, n: int, run: int) -> Iterator[tuple[int, np.ndarray]]:
    life = Life(Dyna(learning_rate, n), grid.cells, run)
    while True:
        yield life.episode(maze, grid.start)[1] * (n + 1), life.values


def _sweeping_episodes(
    grid: Grid, maze: World, learning_rate: float, n: int, run: int
) -> Iterator[tuple[int, np.ndarray]]:
    values, random = np.zeros((grid.cells + 1, 4)), stream(run)
    table, queue = tabular.new_table(grid.cells, 4, 4 * grid.cells), tabular.new_queue(4 * grid.cells)
    while True:
        _, _, updates = sweeping_episode(
            values, table, queue, maze, grid.start, FOR_EVER, n, learning_rate, GAMMA, EPSILON, THETA, random
        )
        yield updates, values
