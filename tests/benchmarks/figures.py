"""Draws figures 8.2, 8.4 and 8.5 of Sutton & Barto 2018 and the comparison of example 8.4 anew.

    python -m tests.benchmarks.figures [--runs 200] [--folder docs/tabular]

The curves are means over runs, the bands two standard errors wide to each side.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from tests.book import Dyna, rewards, steps_an_episode, updates_until_solved

COLORS = ("#2b6cb0", "#c05621", "#718096", "#2f855a")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--folder", type=Path, default=Path("docs/tabular"))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "font.size": 9, "legend.frameon": False})
    for name, draw in {
        "figure-8-2": figure_8_2,
        "figure-8-4": figure_8_4,
        "figure-8-5": figure_8_5,
        "example-8-4": example_8_4,
    }.items():
        figure, axes = plt.subplots(figsize=(5.2, 3.2), layout="constrained")
        draw(axes, arguments.runs)
        figure.savefig(arguments.folder / f"{name}.png", dpi=160)
        print(f"drawn: {arguments.folder / name}.png")


def figure_8_2(axes: Axes, runs: int) -> None:
    """Dyna-Q in the Dyna maze: the more it plans, the sooner it is there."""
    for n, color in zip((0, 5, 50), COLORS[2::-1], strict=True):
        band(axes, np.arange(2, 51), steps_an_episode(n, runs)[:, 1:], color, f"n = {n}" + " (no planning)" * (n == 0))
    axes.set(xlabel="episode", ylabel="steps", title="Dyna maze", ylim=(0, 800), xlim=(2, 50))
    axes.legend()


def figure_8_4(axes: Axes, runs: int) -> None:
    """Where the way is blocked, only Dyna-Q+ finds the other."""
    changing(axes, "dyna/BlockingMaze-v0", 10, 1e-4, 1_000, 3_000, runs)
    axes.set(title="Blocking maze")


def figure_8_5(axes: Axes, runs: int) -> None:
    """Where a shorter way opens, only Dyna-Q+ looks for it; a bonus that acts alone does not reach so far."""
    changing(axes, "dyna/ShortcutMaze-v0", 50, 1e-3, 3_000, 6_000, runs)
    axes.set(title="Shortcut maze")


def changing(axes: Axes, env_id: str, n: int, kappa: float, switch: int, end: int, runs: int) -> None:
    learners = {
        "Dyna-Q+": Dyna(1.0, n, kappa),
        "Dyna-Q": Dyna(1.0, n),
        "bonus in acting alone (exercise 8.4)": Dyna(1.0, n, kappa, acting=True),
    }
    for (label, how), color in zip(learners.items(), COLORS, strict=False):
        earned = rewards(env_id, how, switch, end, runs).cumsum(axis=1)[:, ::10]
        band(axes, np.arange(1, end + 1, 10), earned, color, label)
    axes.axvline(switch, color="black", linewidth=0.8, linestyle=":")
    axes.set(xlabel="step", ylabel="reward so far", xlim=(0, end), ylim=(0, None))
    axes.legend(loc="upper left", frameon=True, framealpha=1.0, edgecolor="none")  # the line ends behind it


def example_8_4(axes: Axes, runs: int) -> None:
    """Prioritized sweeping against Dyna-Q in ever finer mazes."""
    sizes = (47, 188, 423, 752)
    learners = {
        "Dyna-Q": ("dyna", 0.5),
        "prioritized sweeping": ("sweeping", 0.5),
        "prioritized sweeping, full updates": ("sweeping", 1.0),
    }
    for (label, (learner, learning_rate)), color in zip(learners.items(), COLORS[1::-1] + COLORS[3:], strict=True):
        found = np.stack([updates_until_solved(learner, learning_rate, i, runs) for i in (1, 2, 3, 4)], axis=1)
        print(f"{label}: {found.mean(axis=0).round().astype(int).tolist()} updates for {sizes} cells")
        band(axes, np.array(sizes), found, color, label)
    axes.set(xlabel="free cells", ylabel="updates until solved", title="Dyna maze, ever finer")
    axes.set(yscale="log", ylim=(30, None))
    axes.set_xticks(sizes)
    axes.legend(loc="lower right")


def band(axes: Axes, x: np.ndarray, curves: np.ndarray, color: str, label: str) -> None:
    """Mean of curves [runs, x] and two standard errors around it."""
    mean, error = curves.mean(axis=0), curves.std(axis=0, ddof=1) / np.sqrt(len(curves))
    axes.plot(x, mean, color=color, label=label, linewidth=1.6)
    axes.fill_between(x, mean - 2 * error, mean + 2 * error, color=color, alpha=0.2, linewidth=0)


if __name__ == "__main__":
    main()
