"""SIGKILL at random moments: does a run that was killed end as one that never was?

    python -m tests.benchmarks.kill [--kills 100] [--only mbpo sac ...] [--keep DIR]

Each case is trained once undisturbed. Then its command is given again and again to processes that are killed, until one
ends by itself; the hash of weights, optimisers, buffers, generators, counters and evaluation returns must be that of
the undisturbed run. A process is killed at a random time after the checkpoint of a random step, seeded by nothing; or,
where the run has that already, while it begins to go on. Exits with 1 where a hash differs, and keeps the folders.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import NamedTuple

from dyna import checkpoint, runs
from dyna.config import RunConfig
from dyna.tables import table
from tests.exactness import CASES, fingerprint, make

PRELOADED = ["dyna.train", "dyna.algorithms.mbpo", "sb3_contrib", "tests.exactness"]
COLUMNS = ("case", "kills", "amid saving", "unsaved", "ended", "seconds", "hash", "the same")
"""`unsaved` kills came before a first checkpoint; `ended` runs ended after kills, in `seconds` the one without any."""


@dataclass
class Tally:
    """What happened to one case."""

    hash: str
    seconds: float
    kills: int = 0
    amid_saving: int = 0
    unsaved: int = 0
    ended: int = 0
    wrong: int = 0

    def row(self, case: str) -> tuple[str, ...]:
        """A row of the table."""
        same = "yes" if not self.wrong else f"{self.wrong} were not"
        counts = (self.kills, self.amid_saving, self.unsaved, self.ended)
        return case, *map(str, counts), f"{self.seconds:.1f}", self.hash[:8], same

    def note_kill(self, folder: Path, since: float) -> None:
        """Count a kill by what the process, which began at a time, has left in the folder of runs."""
        self.kills += 1
        self.amid_saving += any(path.stat().st_mtime >= since for path in folder.rglob(".*.tmp"))
        self.unsaved += not reached(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="kills over all cases (default: 100)")
    parser.add_argument("--only", nargs="+", choices=sorted(CASES), default=list(CASES), help="cases (default: all)")
    parser.add_argument("--keep", type=Path, help="make the runs here, and keep them")
    arguments = parser.parse_args()
    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="kill-"))
    context = multiprocessing.get_context("forkserver")  # what takes seconds to import is imported once
    context.set_forkserver_preload(PRELOADED)
    tallies: dict[str, Tally] = {}
    for i, case in enumerate(arguments.only):
        share = arguments.kills * (i + 1) // len(arguments.only) - arguments.kills * i // len(arguments.only)
        tallies[case] = disturb(context, case, share, folder / str(i))
        print(f"{case}: {share} kills, the same: {tallies[case].row(case)[-1]}", file=sys.stderr, flush=True)
    table(COLUMNS, (tally.row(case) for case, tally in tallies.items()))
    wrong = any(tally.wrong for tally in tallies.values())
    if not (wrong or arguments.keep):
        shutil.rmtree(folder)
    print(f"{sum(tally.kills for tally in tallies.values())} kills" + (f"; the runs: {folder}" if wrong else ""))
    return int(wrong)


class Moment(NamedTuple):
    """When to kill."""

    step: int  # once a checkpoint of it, or of a later one, is there
    seconds: float  # after that


def reached(folder: Path) -> int:
    """The newest checkpoint's step of the runs in a folder; 0 where there is none."""
    return max((step for path in folder.glob("*/*/*/checkpoint") for step in checkpoint.steps(path)), default=0)


def disturb(context: ForkServerContext, case: str, kills: int, folder: Path) -> Tally:
    """Kill one case so many times, and let the last run end."""
    config = make(folder / "whole", case)
    run = trained(context, config, folder / "log", None)
    assert run is not None
    seconds = (run.path / runs.SUMMARY).stat().st_mtime - (run.path / runs.META).stat().st_mtime
    tally, every = Tally(fingerprint(run), seconds), config.checkpoint_every
    while True:
        config = make(folder / str(tally.ended), case)
        step = random.randrange(-every, config.steps - every)
        moment = Moment(step, random.uniform(0, seconds * every / config.steps)) if tally.kills < kills else None
        began = time.time()
        run = trained(context, config, folder / "log", moment)
        if run is None:
            tally.note_kill(config.runs, began)
            continue
        tally.ended += 1
        tally.wrong += fingerprint(run) != tally.hash
        if tally.kills >= kills:
            return tally


def trained(context: ForkServerContext, config: RunConfig, log: Path, moment: Moment | None) -> runs.Run | None:
    """The run as it ended in a process of its own, or None where that was killed at a moment."""
    process = context.Process(target=train, args=(config, log))
    process.start()
    while moment is not None and process.is_alive() and reached(config.runs) < moment.step:
        time.sleep(0.005)
    process.join(moment.seconds if moment is not None else None)
    process.kill()
    process.join()
    if process.exitcode not in (0, -signal.SIGKILL):
        raise SystemExit(f"a run failed by itself: {log.read_text()}")
    finished = [run for run in runs.find_all(config.runs) if run.status == "finished"]
    return finished[0] if finished else None  # a kill may come when all is written and the process is about to end


def train(config: RunConfig, log: Path) -> None:
    """What each process does: the same command, whatever happened before."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    from dyna.train import train

    train(config, progress=False)


if __name__ == "__main__":
    sys.exit(main())
