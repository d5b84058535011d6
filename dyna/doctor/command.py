"""`dyna doctor`: its flags, the table that it prints, and the file that it writes."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dyna import flags
from dyna.config import RunConfig, resolve
from dyna.doctor.examination import STEPS, Show, examine
from dyna.doctor.findings import Finding, exit_code
from dyna.errors import UserError
from dyna.tables import WIDTH

TAKEN = ("env", "seed", "env_kwargs", "threads")
"""The fields of a run that an examination is told."""
STYLES = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "bold red"}
VERDICTS = {0: "nothing to mend", 1: "it can be trained in, with the warnings above", 2: "mend the errors first"}


def doctor(words: list[str]) -> int:
    """Examine an environment; the exit code is 1 with warnings and 2 with errors."""
    others = [field.name for field in fields(RunConfig) if field.name not in TAKEN]
    parser = flags.command(
        "doctor",
        "Examine an environment: what it returns, how it behaves under random actions, whether a world model can learn "
        "it, what a step of training costs. The exit code is 0, 1 with warnings, 2 with errors.",
    )
    flags.add_flags(parser, others)
    parser.add_argument("--steps", metavar="STEPS", default=str(STEPS), help=f"Random steps (default: {STEPS}).")
    parser.add_argument("--json", metavar="FILE", type=Path, help="Write the findings into this file, too.")
    flags.add_overwrite(parser)
    arguments = parser.parse(words)
    if arguments.help:
        parser.print_help()
        return 0
    steps = flags.whole("steps", arguments.steps, 1)
    run = resolve(flags.given(arguments, others), preset=False)
    if arguments.json is not None:
        flags.refuse_taken(arguments.json, overwrite=arguments.overwrite)
        _write(arguments.json, "", "a")  # whether it can be written is known before a minute has passed
    with _progress() as show:
        findings = list(examine(run, steps=steps, show=show))
    code = exit_code(findings)
    print_table(findings)
    print(f"{run.env}: {VERDICTS[code]}")
    if arguments.json is not None:
        told = {"env": run.env, "seed": run.seed, "exit_code": code, "findings": [asdict(each) for each in findings]}
        _write(arguments.json, json.dumps(told, indent=1) + "\n")
    return code


def print_table(findings: Sequence[Finding]) -> None:
    """One line a finding, the verdict in colour where the output is a terminal."""
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column("looked at", no_wrap=True)
    grid.add_column("verdict", no_wrap=True)
    grid.add_column("seen", overflow="fold", ratio=3)
    grid.add_column("what to do", overflow="fold", ratio=2)
    for each in findings:
        grid.add_row(Text(each.name), Text(each.verdict, STYLES[each.verdict]), Text(each.seen), Text(each.remedy))
    Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False).print(grid)


@contextlib.contextmanager
def _progress() -> Iterator[Show]:
    """A line on standard error that says what is being done; on a terminal it is replaced and vanishes."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield lambda text: console.print(text, markup=False)
        return
    with console.status("") as status:
        yield lambda text: status.update(Text(text))


def _write(path: Path, text: str, mode: str = "w") -> None:
    """Write a file, or to a device; raises UserError."""
    try:
        with path.open(mode) as file:
            file.write(text)
    except (OSError, ValueError) as error:  # ValueError: no file can have that name
        raise UserError(f"--json {str(path)!r} cannot be written: {error}") from error
