"""What a checkpoint of a large replay buffer costs: how long training stands still, how much memory it takes.

    python -m tests.benchmarks.saving [--transitions 1000000] [--folder DIR]

Hopper-sized transitions (11 observations, 3 actions) in the buffer that the algorithm would train with; 1,000 are added
between two checkpoints. The first checkpoint writes everything, the others what is new. `memory` is how far the process
grew meanwhile, above what it held before. SB3's `save_replay_buffer`, a pickle of the whole buffer, stands beside.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import psutil
from stable_baselines3 import SAC
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv

from dyna import checkpoint, snapshot
from dyna.algorithms.mbpo import MBPO
from dyna.tables import table

NEW = 1_000
"""Transitions between two checkpoints."""
MB = 1e6
COLUMNS = (
    "buffer of",
    "MB",
    "first checkpoint",
    "later ones, median",
    "the slowest",
    "memory",
    "SB3's pickle",
    "memory",
)


class Watch:
    """The largest growth of the process while entered, in MB, and the seconds."""

    def __enter__(self) -> Watch:
        self._process, self._over = psutil.Process(), threading.Event()
        self._before = self._peak = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._start
        self._over.set()
        self._thread.join()
        self.grown = (self._peak - self._before) / MB

    def _look(self) -> None:
        while not self._over.wait(0.002):
            self._peak = max(self._peak, self._process.memory_info().rss)


def watched(action: Callable[[], None]) -> Watch:
    with Watch() as watch:
        action()
    return watch


def filled(cls: type[OffPolicyAlgorithm], transitions: int) -> OffPolicyAlgorithm:
    """An algorithm whose buffer holds so many random transitions, with room for some more."""
    env = DummyVecEnv([lambda: gym.make("Hopper-v5")])
    model: Any = cls("MlpPolicy", env, buffer_size=transitions + 10 * NEW, device="cpu")
    model._setup_learn(1)
    env.reset()
    add(model.replay_buffer, transitions)
    return model


def add(buffer: Any, transitions: int) -> None:
    """Random transitions, written as rows; adding them one by one would take minutes and end in the same bytes."""
    rows, rng = slice(buffer.pos, buffer.pos + transitions), np.random.default_rng(buffer.pos)
    for array in (buffer.observations, buffer.next_observations, buffer.actions, buffer.rewards):
        array[rows] = rng.standard_normal(array[rows].shape)
    buffer.pos += transitions


def measure(name: str, model: Any, folder: Path) -> tuple[str, ...]:
    """A row of the table."""
    held = sum(value.nbytes for value in vars(model.replay_buffer).values() if isinstance(value, np.ndarray)) / MB
    saves = []
    for step in range(8):
        saves.append(watched(lambda step=step: checkpoint.save(folder / name, step, snapshot.take(model))))
        add(model.replay_buffer, NEW)
    pickled = watched(lambda: model.save_replay_buffer(folder / "pickled.pkl"))
    later = sorted(save.seconds for save in saves[1:])
    grown = max(save.grown for save in saves)
    return (
        *(name, f"{held:.0f}", f"{saves[0].seconds:.2f} s", f"{later[len(later) // 2]:.2f} s", f"{later[-1]:.2f} s"),
        *(f"+{grown:.0f} MB", f"{pickled.seconds:.2f} s", f"+{pickled.grown:.0f} MB"),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transitions", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="a folder on the disk that is to be measured")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="saving-", dir=arguments.folder))
    rows = []
    for name, cls in (("mbpo", MBPO), ("sac", SAC)):
        rows.append(measure(name, filled(cls, arguments.transitions), folder))
    shutil.rmtree(folder)
    table(COLUMNS, rows)


if __name__ == "__main__":
    main()
