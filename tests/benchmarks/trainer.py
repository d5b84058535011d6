"""What the trainer costs: SB3's SAC called by hand beside the same SAC through `dyna train`.

    python tests/benchmarks/trainer.py [--env Pendulum-v1] [--steps 2000] [--rounds 7]

Both learn the same from the same seed, in one process with one thread, in turns, so that what else the machine does
falls on both. Steps are counted by processor time and by the clock; the medians of the rounds are compared. Neither
evaluates; the trainer monitors, logs, and writes its checkpoints, which are in its time.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import gymnasium
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.monitor import Monitor

from dyna.config import RunConfig
from dyna.train import train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="Pendulum-v1", help="environment (Pendulum-v1)")
    parser.add_argument("--steps", type=int, default=2_000, help="environment steps of a round (2000)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each (7)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    ways = {"SB3 by hand": by_hand, "dyna train": by_trainer}
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for number in range(arguments.rounds + 1):
        for name, way in ways.items():
            took = timed(lambda way=way: way(arguments.env, arguments.steps))
            if number:  # the first round loads and warms up
                spent[name].append(took)
    report(spent, arguments.steps)


def by_hand(env: str, steps: int) -> None:
    SAC("MlpPolicy", Monitor(gymnasium.make(env)), seed=0, device="cpu").learn(steps)


def by_trainer(env: str, steps: int) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        train(
            RunConfig(env=env, algo="sac", steps=steps, eval_every=0, device="cpu", runs=Path(folder)), progress=False
        )


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Processor seconds and seconds."""
    began, clock = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - began, time.perf_counter() - clock


def report(spent: dict[str, list[tuple[float, float]]], steps: int) -> None:
    """A Markdown table; the last column is the share that the trainer takes."""
    print("| | steps per processor second | steps per second |\n|---|---:|---:|")
    medians = {
        name: [statistics.median(each[kind] for each in rounds) for kind in (0, 1)] for name, rounds in spent.items()
    }
    for name, (processor, clock) in medians.items():
        print(f"| {name} | {steps / processor:.1f} | {steps / clock:.1f} |")
    first, second = medians.values()
    print("| slower by | " + " | ".join(f"{1 - a / b:.1%}" for a, b in zip(first, second, strict=True)) + " |")


if __name__ == "__main__":
    main()
