"""What learning is spent on: PlanFirst's gate beside learners of matched budgets, in worlds that change or do not.

    python -m tests.benchmarks.recovery [--seeds 5] [--env dyna/ChangingPendulum-v0] [--changes none gravity target]
        [--switch 1000] [--steps 2000] [--opening 250] [--acting plan] [--out runs/recovery.jsonl]

Every learner plans at each step, or with `--acting policy` never, and refits its model on alarms; they differ in the
updates that they make.

| learner | updates |
|---|---|
| always | one a step |
| gated | as far as the gate is open |
| constant, random | as many as gated made with that seed, evenly, or in bursts by chance |
| always, remembers | one a step, and no head of the model ever forgets |

Each has the same `--opening`, in which it is always on; with 0 the gate decides from the first fit on.

Prints the mean return of training episodes before the change (all, and those of the second half) and after it, with
the interquartile mean over seeds and a bootstrapped 95 % interval, and the share of updates that was spent. A run is a
line in --out, written when it ends; a line that is there is not run again, unless the code has changed. A run of 2,000
steps takes about 80 seconds of one free core.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.monitor import Monitor

from dyna.algorithms.planfirst import PlanFirst
from dyna.compare.statistics import estimate
from dyna.registry import environments
from dyna.sources import code_version
from tests.benchmarks.attribution import Line, lines, recorded

LEARNERS: dict[str, dict[str, Any]] = {
    "always": {},
    "gated": {"learner": "gated"},
    "constant": {"learner": "constant"},
    "random": {"learner": "random"},
    "always, remembers": {"refit_on_alarm": False},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0, 1, ... (5)")
    parser.add_argument("--env", default="dyna/ChangingPendulum-v0", help="an environment that changes")
    parser.add_argument("--changes", nargs="+", default=["none", "gravity", "target"])
    parser.add_argument("--learners", nargs="+", choices=LEARNERS, default=list(LEARNERS))
    parser.add_argument("--switch", type=int, default=1_000, help="steps before the change (1000)")
    parser.add_argument("--steps", type=int, default=2_000, help="steps of a run (2000)")
    parser.add_argument("--opening", type=int, default=250, help="steps in which every learner is always on (250)")
    parser.add_argument("--acting", default="plan", help="how all of them act (plan)")
    parser.add_argument("--out", type=Path, default=Path("runs/recovery.jsonl"), help="file of results")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    environments()
    code = code_version("planfirst", arguments.env)
    wanted = {"env": arguments.env, "switch": arguments.switch, "steps": arguments.steps}
    wanted |= {"opening": arguments.opening, "acting": arguments.acting, "code": code}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for seed in range(arguments.seeds):
        for change in arguments.changes:
            share = 0.0  # of updates, what the gate spent after the opening
            for learner in sorted(arguments.learners, key=lambda name: name != "gated"):  # the controls' budget is its
                key = {**wanted, "change": change, "seed": seed, "learner": learner}
                line = recorded(arguments.out, key, partial(run, key, share))
                if learner == "gated":
                    share = line["share"]
    found = [line for line in lines(arguments.out) if wanted.items() <= line.items()]
    for change in arguments.changes:
        table(change, [line for line in found if line["change"] == change])


def run(key: Line, share: float) -> Line:
    """Train once: returns of episodes by the step at which they ended, and the share of updates after the opening."""
    world = {"switch": key["steps"]} if key["change"] == "none" else {"switch": key["switch"], "change": key["change"]}
    env = Monitor(gym.make(key["env"], **world))
    how = {"refit_on_alarm": True, "update_ratio": share, **LEARNERS[key["learner"]]}
    how |= {name: key[name] for name in ("opening", "acting")}
    began = time.perf_counter()
    agent = PlanFirst(env=env, seed=key["seed"], device="cpu", **how).learn(key["steps"])
    # updates that all learners make; those of random steps come at once
    free = max(key["opening"], agent.learning_starts)
    return {
        "seconds": round(time.perf_counter() - began, 1),
        "ends": np.cumsum(env.get_episode_lengths()).tolist(),
        "returns": [round(value, 1) for value in env.get_episode_rewards()],
        "share": max(agent.updates["critic"] - free, 0) / max(agent.always_on - free, 1),
        "spent": agent.updates["critic"] / max(agent.always_on, 1),
        "changed_at": agent.changes.proven,
    }


def table(change: str, found: list[Line]) -> None:
    """Prints a row a learner."""
    columns = ["learner", "all before", "second half", "after", "updates of always-on's", "seconds", "seeds"]
    print(f"\n{change}\n\n| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for learner in LEARNERS:
        runs = [line for line in found if line["learner"] == learner]
        if runs:
            switch, steps = runs[0]["switch"], runs[0]["steps"]
            spans = [(0, switch), (switch // 2, switch), (switch, steps)]
            parts = [shown([returned(line, *span) for line in runs]) for span in spans]
            spent, seconds = (np.mean([line[name] for line in runs]) for name in ("spent", "seconds"))
            print(f"| {learner} | {' | '.join(parts)} | {100 * spent:.0f} % | {seconds:.0f} | {len(runs)} |")


def returned(line: Line, first: int, last: int) -> float:
    """Mean return of the episodes that ended within these steps."""
    return float(np.mean([r for r, end in zip(line["returns"], line["ends"], strict=True) if first < end <= last]))


def shown(values: list[float]) -> str:
    """Interquartile mean, and a 95 % interval of it over seeds."""
    found = estimate([np.array(values)])
    return f"{found.value:.0f} [{found.low:.0f}, {found.high:.0f}]"


if __name__ == "__main__":
    main()
