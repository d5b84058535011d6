"""Whose fault is it? PlanFirst in a world that changes, and which heads of its model raise an alarm (claim C4).

    python -m tests.benchmarks.attribution [--seeds 8] [--env dyna/ChangingPendulum-v0] [--switch 1000]
        [--changes none gravity mass target] [--out runs/attribution.jsonl]

Trains with a plan at every step and a learner that is always on, until 200 steps after the change, and prints per
change which heads raised alarms and when, in how many runs only the right one did, in how many it was the first, and
false alarms in the 400 steps before. Then the coverage of the frozen 90 % sets until the change (claim C3). A run is a
line in --out, written when it ends; a line that is there is not run again, unless the code has changed. On the pendulum
a run has 1,200 steps and takes about 60 seconds of one free core: eight seeds of four changes take half an hour.

On the pendulum, step 1,000 ends an episode: the changed world begins with a swing-up. At 1,050 it begins in the midst
of an episode, in which a good agent stands still.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import torch

from dyna.algorithms.planfirst import PlanFirst
from dyna.calibration import HEADS
from dyna.configurator import CRITIC, Verdict
from dyna.registry import environments
from dyna.sources import code_version

AFTER, BEFORE = 200, 400  # steps
RIGHT = {"none": set(), "gravity": {"dynamics"}, "mass": {"dynamics"}, "reward": {"reward"}, "target": {"reward"}}
"""The heads that must raise an alarm, and no others."""
Line = dict[str, Any]


class Note(NamedTuple):
    """What was known when an outcome had been judged."""

    step: int
    fit: int  # of the world model, from 1
    alarms: list[str]
    outcomes: int  # judged so far
    covered: list[int]  # of them inside the 90 % sets, a head


class Watched(PlanFirst):
    """PlanFirst, with a note of every outcome."""

    def _setup_model(self) -> None:
        super()._setup_model()
        self.notes: list[Note] = []

    def correct(self, verdict: Verdict) -> None:
        super().correct(verdict)
        outcomes, covered = self.configurator.detectors.outcomes, self.configurator.covered.tolist()
        self.notes.append(Note(self.num_timesteps, self.world_model.version, verdict.alarms, outcomes, covered))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8, help="seeds 0, 1, ... (8)")
    parser.add_argument("--env", default="dyna/ChangingPendulum-v0", help="an environment that changes")
    parser.add_argument("--changes", nargs="+", choices=RIGHT, default=["none", "gravity", "mass", "target"])
    parser.add_argument("--switch", type=int, default=1_000, help="steps before the change (1000)")
    parser.add_argument("--out", type=Path, default=Path("runs/attribution.jsonl"), help="file of results")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    environments()
    code = code_version("planfirst", arguments.env)
    wanted = {"env": arguments.env, "switch": arguments.switch, "code": code}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for seed in range(arguments.seeds):
        for change in arguments.changes:
            key = {**wanted, "change": change, "seed": seed}
            recorded(arguments.out, key, partial(run, arguments.env, change, arguments.switch, seed))
    found = [line for line in lines(arguments.out) if wanted.items() <= line.items()]
    attributions(found, arguments.changes)
    coverages(found)


def lines(path: Path) -> list[Line]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def recorded(path: Path, key: Line, make: Callable[[], Line]) -> Line:
    """The line of that key, which is made and written where it is not there."""
    line = next((line for line in lines(path) if key.items() <= line.items()), None)
    if line is None:
        line = {**key, **make()}
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")
    return line


def run(env: str, change: str, switch: int, seed: int) -> Line:
    """Train once; the alarms as pairs of step and part, and the coverage of each head after each fit."""
    kwargs = {"switch": switch + AFTER} if change == "none" else {"switch": switch, "change": change}
    began = time.perf_counter()
    agent = Watched(env=gym.make(env, **kwargs), seed=seed, device="cpu").learn(switch + AFTER)
    return {
        "seconds": round(time.perf_counter() - began, 1),
        "alarms": [(note.step, name) for note in agent.notes for name in note.alarms],
        "coverage": list(by_fit(note for note in agent.notes if note.step <= switch)),
        "returns": [round(float(episode["r"]), 1) for episode in agent.ep_info_buffer or ()],
    }


def by_fit(notes: Iterable[Note]) -> Iterator[Line]:
    """Outcomes after each fit, and how many of them were inside the sets of each head."""
    outcomes, covered = 0, [0] * len(HEADS)
    last = {note.fit: note for note in notes}
    for fit, note in last.items():
        inside = {name: now - then for name, now, then in zip(HEADS, note.covered, covered, strict=True)}
        yield {"fit": fit, "outcomes": note.outcomes - outcomes, **inside}
        outcomes, covered = note.outcomes, note.covered


def attributions(found: list[Line], changes: list[str]) -> None:
    """Prints a table, a row a change."""
    print(f"Runs with alarms within {AFTER} steps (steps to the first, median); false ones in {BEFORE} steps before\n")
    columns = ["change", *HEADS, CRITIC, "only the right head", "the right head first", "false, heads"]
    columns += [f"false, {CRITIC}", "seconds"]
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for change in changes:
        runs = [line for line in found if line["change"] == change]
        if not runs:
            continue
        cells = [shown([delays(line, name) for line in runs]) for name in (*HEADS, CRITIC)]
        alarms = [sorted((delays(line, name)[0], name) for name in HEADS if delays(line, name)) for line in runs]
        alone = sum({name for _, name in each} == RIGHT[change] for each in alarms)
        first = sum({name for steps, name in each if steps == each[0][0]} == RIGHT[change] for each in alarms)
        false = [name for line in runs for step, name in line["alarms"] if -BEFORE < step - line["switch"] <= 0]
        cells += [f"{alone} of {len(runs)}", f"{first} of {len(runs)}"]
        cells += [str(len(false) - false.count(CRITIC)), str(false.count(CRITIC))]
        cells.append(f"{statistics.median(line['seconds'] for line in runs):.0f}")
        print(f"| {change} | {' | '.join(cells)} |")


def delays(line: Line, name: str) -> list[int]:
    """Steps from the change to each alarm of a part, as far as they count."""
    after = [step - line["switch"] for step, alarmed in line["alarms"] if alarmed == name]
    return [steps for steps in after if 0 < steps <= AFTER]


def shown(alarms: list[list[int]]) -> str:
    first = [each[0] for each in alarms if each]
    return f"{len(first)} ({statistics.median(first):.0f})" if first else "0"


def coverages(found: list[Line]) -> None:
    """Prints a table, a row a head: all runs of a seed are one until the change."""
    print("\nShare of outcomes inside the frozen 90 % sets until the change, each seed\n")
    print("| head | after the first fit | after later fits | in total |\n|---|---|---|---|")
    for name in HEADS:
        seeds = {line["seed"]: line["coverage"] for line in found}.values()
        cells = [
            ", ".join(f"{share(part, name):.2f}" for part in parts if part)
            for parts in zip(*((fits[:1], fits[1:], fits) for fits in seeds), strict=True)
        ]
        print(f"| {name} | {' | '.join(cells)} |")


def share(fits: list[Line], name: str) -> float:
    return sum(fit[name] for fit in fits) / sum(fit["outcomes"] for fit in fits)


if __name__ == "__main__":
    main()
