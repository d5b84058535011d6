"""`dyna compare` and `dyna plot`: their flags, and what they do in order."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dyna import flags, plain, tables
from dyna.annotations import kind_of
from dyna.compare import cluster, foreign, gather, grids, live, local, plan, report, threads
from dyna.compare.curves import AXES
from dyna.compare.execute import Job, execute
from dyna.compare.grids import Grid
from dyna.compare.plan import Comparison
from dyna.config import RunConfig
from dyna.errors import UserError
from dyna.interrupts import Interrupts
from dyna.locks import locked
from dyna.progress import say
from dyna.runs import file_safe

INTERRUPTED = 130


def compare(words: list[str]) -> int:
    """Plan, run what is missing, report; the exit code is 1 where a run failed, 130 after an interrupt."""
    parser = _compare_parser()
    arguments = parser.parse(words)
    if arguments.help:
        parser.print_help()
        return 0
    jobs = flags.whole("jobs", arguments.jobs, 1) if arguments.jobs else None
    comparison = _comparison(arguments, words)
    joined = gather.joined(comparison.joined, comparison.cells)
    share = threads.share(comparison.cells, jobs)
    if arguments.dry_run:
        _print_plan(comparison, share)
        return 0
    comparison.folder.mkdir(parents=True, exist_ok=True)
    with locked(comparison.folder, "the comparison"):
        ended, interrupted = _run(comparison, share, arguments.ray)
        shown = report.write(comparison, ended, joined, str(share))
    for each in shown:
        if each.key.startswith("returns."):
            print(each.title)
            tables.table(each.columns[:4] + each.columns[-1:], [row[:4] + row[-1:] for row in each.rows])
    return _tell(comparison, ended, interrupted)


def plot(words: list[str]) -> int:
    """Draw the curves of runs, of logs and of CSV files into one picture, or keep their numbers."""
    parser = flags.command("plot", "Draw the learning curves of runs, grouped by environment and algorithm.")
    parser.add_argument(
        "paths", metavar="RUN", nargs="*", type=Path, help="A run, a folder of runs, SB3's or RL Zoo's logs, or a CSV."
    )
    parser.add_argument(
        "--to",
        metavar="FILE",
        type=Path,
        default=Path("curves.png"),
        help="The picture, or a CSV of its numbers, which --with reads (default: curves.png).",
    )
    parser.add_argument("--axis", choices=("both", *AXES), default="both", help="The horizontal axis (default: both).")
    flags.add_overwrite(parser)
    arguments = parser.parse(words)
    if arguments.help:
        parser.print_help()
        return 0
    if not arguments.paths:
        raise UserError("dyna plot needs the folder of a run: `dyna list runs` shows them")
    if arguments.to.suffix == ".csv" and arguments.axis != "both":
        raise UserError(f"a CSV has both axes, got --axis {arguments.axis}: leave it out")
    curves = [curve for path in arguments.paths for curve in foreign.read(path)]
    foreign.refuse_read(arguments.to, arguments.paths)
    flags.refuse_taken(arguments.to, overwrite=arguments.overwrite)
    report.draw(curves, arguments.to, AXES if arguments.axis == "both" else (arguments.axis,))
    print(f"plot: {arguments.to}")
    return 0


def _compare_parser() -> flags.Parser:
    parser = flags.command(
        "compare",
        "Train algorithms in environments with several seeds, and report on it. What has finished is not run again and "
        "what was interrupted goes on, so the command can be stopped and called again at any time. The other flags are "
        f"those of `dyna train`; --eval-every is a {grids.EVALUATIONS}th of the steps by default.",
    )
    parser.add_argument("--env", metavar="ENV", nargs="+", default=[], help="Environments.")
    parser.add_argument("--algo", metavar="ALGO", nargs="+", default=[], help="Algorithms.")
    parser.add_argument("--seeds", metavar="N", help=f"Seeds of each, 0 to N - 1 (default: {grids.SEEDS}).")
    parser.add_argument(
        "--suite",
        metavar="NAME|FILE",
        help="Take the grid from a suite; --env and --algo, by name or label, restrict it.",
    )
    parser.add_argument("--name", metavar="NAME", help="Name of the comparison (default: the suite's, or comparison).")
    parser.add_argument("--jobs", metavar="N", help="Runs side by side (default: as many as there are cores for).")
    parser.add_argument(
        "--threshold",
        metavar="[ENV=]RETURN",
        nargs="+",
        default=[],
        help="Returns to be reached (default: Gymnasium's).",
    )
    parser.add_argument(
        "--with", metavar="FILE", dest="joined", nargs="+", type=Path, default=[],
        help=f"Draw curves beside that were not run here: a CSV ({foreign.COLUMNS}) or SB3's or RL Zoo's logs.",
    )  # fmt: skip
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        nargs="?",
        const=cluster.LOCAL,
        help="Run on a Ray cluster; without address, a local.",
    )
    parser.add_argument("--any-code", action="store_true", help="Count runs that other versions of the code made.")
    parser.add_argument("--no-preset", action="store_true", help="Leave out the presets of the algorithms.")
    parser.add_argument("--dry-run", action="store_true", help="Print what would be run, and how long it may take.")
    flags.add_flags(parser, but={*grids.OWN} - {"runs"})
    return parser


def _comparison(arguments: argparse.Namespace, words: Sequence[str]) -> Comparison:
    given = flags.given(arguments, but=("env", "algo"))
    runs = Path(given.pop("runs", RunConfig.runs))
    if arguments.ray:
        runs = runs.resolve()  # every node must find it
    name = arguments.name or (Path(arguments.suite).stem if arguments.suite else "comparison")
    if file_safe(name) != name:
        raise UserError(f"the name becomes a folder's, got {name!r}: take {file_safe(name)!r}")
    chosen = _grids(arguments, given)
    return Comparison(
        name=name,
        cells=grids.cells(chosen, runs),
        thresholds=grids.thresholds(
            chosen, _thresholds(arguments.threshold, [env for grid in chosen for env in grid.env])
        ),
        runs=runs,
        any_code=arguments.any_code,
        argv=("dyna", "compare", *words),
        joined=arguments.joined,
    )


def _grids(arguments: argparse.Namespace, settings: dict[str, Any]) -> list[Grid]:
    if arguments.seeds:
        settings["seeds"] = flags.whole("seeds", arguments.seeds, 1)
    if arguments.no_preset:
        settings["preset"] = False
    if arguments.suite:
        return grids.restrict(grids.read_suite(arguments.suite), arguments.env, arguments.algo, settings)
    return [grids.grid_of({"env": arguments.env, "algo": arguments.algo, **settings})]


def _thresholds(texts: Sequence[str], envs: Sequence[str]) -> dict[str, float]:
    """`["Pendulum-v1=-200", "950"]` by environment; the empty name stands for every other."""
    found: dict[str, float] = {}
    for text in texts:
        env, _, value = text.rpartition("=")
        if env and env not in envs:
            raise UserError(f"--threshold {text}: the comparison has no environment {env!r}, it has {', '.join(envs)}")
        found[env] = float(kind_of(float).check(plain.read(value), "threshold"))
    return found


def _run(comparison: Comparison, share: threads.Share, ray: str | None) -> tuple[list[Job], bool]:
    backend = (
        cluster.Cluster(ray, share, comparison.folder, any_code=comparison.any_code)
        if ray
        else local.Processes(share, comparison.folder)
    )
    say(str(share))
    with backend, Interrupts() as interrupts, live.display() as display:
        jobs = execute(comparison.cells, backend, display.show, interrupts, any_code=comparison.any_code)
    return jobs, interrupts.asked


def _print_plan(comparison: Comparison, share: threads.Share) -> None:
    rates, rows, left = plan.Rates(comparison.runs), [], []
    for cell in comparison.cells:
        found = plan.look(cell, any_code=comparison.any_code)
        steps = plan.steps_left(cell, found)
        seconds = rates.seconds(cell.config, steps) if steps else 0.0
        left.append(seconds)
        config = cell.config
        about = live.duration(seconds) if seconds is not None else "unknown"
        state = found.state + (f" {found.run.path}" if found.run is not None else "")
        rows.append((config.env, cell.label, str(config.seed), f"{steps:,} of {config.steps:,}", about, state))
    tables.table(("environment", "algorithm", "seed", "steps to make", "training", "state"), rows)
    known = plan.total(left, share.jobs)
    print(f"{sum(each != 0.0 for each in left)} of {len(rows)} runs to make; {share}")
    if known is None:
        print("how long it takes is unknown: an algorithm has no finished run yet from which to tell")
    else:
        print(
            f"about {live.duration(known)} of training, as finished runs in {comparison.runs} tell; evaluation is extra"
        )


def _tell(comparison: Comparison, jobs: Sequence[Job], interrupted: bool) -> int:
    """Print what failed, how to go on, and on the last line where the report is."""
    failed = [job for job in jobs if job.stage == "failed"]
    for job in failed:
        say(f"{job.cell} failed: {job.error}")
    if interrupted or failed:
        say(f"`{shlex.join(comparison.argv)}` goes on")
    print(f"report: {comparison.folder / report.PAGE}")
    return INTERRUPTED if interrupted else int(bool(failed))
