"""How fast the tabular family plans, beside plain Python: python -m tests.benchmarks.tabular

In the Dyna maze at resolution 4, of 752 free cells, all of it known: planning updates a second of Dyna-Q, of Dyna-Q+
and of prioritized sweeping (from zero values until its queue is empty), and the time that figure 8.2 takes. The
contenders take turns in one process; times are those of the process on its core, medians over the turns and quartiles.
"""

from __future__ import annotations

import argparse
import platform
import random
import statistics
import time
from collections.abc import Callable

import numpy as np

from dyna.kernels import tabular
from dyna.transition_table import TransitionTable
from tests.book import GAMMA, THETA, grids, steps_an_episode, stream, world

LEARNING_RATE = 0.5
UPDATES, SWEEPING_UPDATES, PLAIN_UPDATES = 2_000_000, 100_000, 50_000  # of a turn

Steps = list[tuple[int, int, float, int]]  # state, action, reward, next state
Turn = Callable[[], int]  # makes updates and says how many


def steps_of(next_state: np.ndarray, reward: np.ndarray, left: np.ndarray) -> Steps:
    """Every step that can be made from the cells that are left."""
    cells = np.flatnonzero(left)
    return [(int(s), a, float(reward[s, a]), int(next_state[s, a])) for s in cells for a in range(4)]


def dyna(steps: Steps, cells: int, kappa: float) -> Turn:
    """Uniform planning, compiled."""
    values, table, random = np.zeros((cells + 1, 4)), known(steps, cells), stream(0)

    def turn() -> int:
        tabular.plan(values, table, UPDATES, LEARNING_RATE, GAMMA, kappa, random)
        return UPDATES

    return turn


def sweeping(steps: Steps, cells: int, learning_rate: float) -> Turn:
    """Sweeps from zero values until no error is left, compiled."""
    values, table, queue = np.zeros((cells + 1, 4)), known(steps, cells), tabular.new_queue(4 * cells)
    rewarded = [4 * state + action for state, action, reward, _ in steps if reward]

    def turn() -> int:
        updates = 0
        while updates < SWEEPING_UPDATES:
            values[:] = 0.0
            for pair in rewarded:
                tabular.put(values, table, queue, pair, GAMMA, THETA)
            updates += tabular.sweep(values, table, queue, 1 << 40, learning_rate, GAMMA, THETA)
        return updates

    return turn


def plain(steps: Steps) -> Turn:
    """Dyna-Q's planning as one writes it in Python, from the book."""
    q: dict[int, list[float]] = {}
    model: dict[int, dict[int, tuple[float, int]]] = {}
    for state, action, reward, next_state in steps:
        model.setdefault(state, {})[action] = reward, next_state
        q[state], q[next_state] = [0.0] * 4, [0.0] * 4
    states = list(model)

    def turn() -> int:
        for _ in range(PLAIN_UPDATES):
            state = random.choice(states)
            action = random.choice(list(model[state]))
            reward, next_state = model[state][action]
            q[state][action] += LEARNING_RATE * (reward + GAMMA * max(q[next_state]) - q[state][action])
        return PLAIN_UPDATES

    return turn


def known(steps: Steps, cells: int) -> tabular.Table:
    """The table of an agent that has made every step."""
    model = TransitionTable(cells, 4, latest=False)
    for step in steps:
        model.remember(*step)
    return model.arrays


def rate(turn: Turn) -> float:
    """Updates a second of one turn."""
    start = time.process_time()
    updates = turn()
    return updates / (time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=15)
    turns = parser.parse_args().turns
    (grid,) = grids("dyna/DynaMaze-v0", resolution=4)
    steps = steps_of(*world(grid), ~(grid.wall | grid.goal).ravel())
    contenders: dict[str, Turn] = {
        "Dyna-Q": dyna(steps, grid.cells, 0.0),
        "Dyna-Q+": dyna(steps, grid.cells, 1e-3),
        "prioritized sweeping": sweeping(steps, grid.cells, LEARNING_RATE),
        "the same, full updates": sweeping(steps, grid.cells, 1.0),
        "Dyna-Q in plain Python": plain(steps),
    }
    for turn in contenders.values():
        turn()  # compiles
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(turns):
        for name, turn in contenders.items():
            rates[name].append(rate(turn))
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, {turns} turns\n")
    print("| updates a second | millions | quartiles | to plain Python |\n|---|---|---|---|")
    for name, found in rates.items():
        low, median, high = statistics.quantiles(found, n=4)
        ratio = statistics.median(a / b for a, b in zip(found, rates["Dyna-Q in plain Python"], strict=True))
        print(f"| {name} | {median / 1e6:.3g} | {low / 1e6:.3g} - {high / 1e6:.3g} | {ratio:.3g} |")
    steps_an_episode(1, 1)
    start = time.process_time()
    for n in (0, 5, 50):
        steps_an_episode(n, 30)
    print(f"\nfigure 8.2, 3 curves of 30 runs of 50 episodes: {time.process_time() - start:.2f} seconds")


if __name__ == "__main__":
    main()
