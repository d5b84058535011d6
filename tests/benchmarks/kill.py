"""SIGKILL at random moments: does a run that was killed end as one that never was?

    python -m tests.benchmarks.kill [--kills 100] [--only mbpo sac ...] [--keep DIR]

Each case is trained once undisturbed. Then its command is given again and again to processes that are killed after a
random time, seeded by nothing, until one ends by itself; the hash of weights, optimisers, buffers, generators, counters
and evaluation returns must be that of the undisturbed run. Exits with 1 where it is not, and keeps the folders.
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

from dyna import runs
from dyna.config import RunConfig
from dyna.tables import table
from tests.exactness import CASES, fingerprint, make

PRELOADED = ["dyna.train", "dyna.algorithms.mbpo", "sb3_contrib", "tests.exactness"]
COLUMNS = (
    "case",
    "kills",
    "amid saving",
    "before a checkpoint",
    "runs that ended",
    "seconds a run",
    "hash",
    "the same",
)


@dataclass
class Tally:
    """What happened to one case."""

    hash: str
    seconds: float
    kills: int = 0
    amid_saving: int = 0
    early: int = 0
    ended: int = 0
    wrong: int = 0

    def row(self, case: str) -> tuple[str, ...]:
        """A row of the table."""
        same = "yes" if not self.wrong else f"{self.wrong} were not"
        counts = (self.kills, self.amid_saving, self.early, self.ended)
        return case, *map(str, counts), f"{self.seconds:.1f}", self.hash[:12], same

    def note_kill(self, folder: Path, since: float) -> None:
        """Count a kill by what the process, which began at a time, has left in the folder of runs."""
        self.kills += 1
        self.amid_saving += any(path.stat().st_mtime >= since for path in folder.rglob(".*.tmp"))
        self.early += not any(folder.glob("*/*/*/checkpoint/[0-9]*"))


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


def disturb(context: ForkServerContext, case: str, kills: int, folder: Path) -> Tally:
    """Kill one case so many times, and let the last run end."""
    start = time.perf_counter()
    run = trained(context, make(folder / "whole", case), folder / "log", None)
    assert run is not None
    tally = Tally(fingerprint(run), time.perf_counter() - start)
    while True:
        config = make(folder / str(tally.ended), case)
        moment = random.uniform(0, tally.seconds) if tally.kills < kills else None
        began = time.time()
        run = trained(context, config, folder / "log", moment)
        if run is None:
            tally.note_kill(config.runs, began)
            continue
        tally.ended += 1
        tally.wrong += fingerprint(run) != tally.hash
        if tally.kills >= kills:
            return tally


def trained(context: ForkServerContext, config: RunConfig, log: Path, moment: float | None) -> runs.Run | None:
    """The run as it ended in a process of its own, or None where that was killed after `moment` seconds."""
    process = context.Process(target=train, args=(config, log))
    process.start()
    process.join(moment)
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
