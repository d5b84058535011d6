"""Writes what a comparison has found: a page, pictures, tables and data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from dyna import files
from dyna.compare import figures, gather, results, tables
from dyna.compare.curves import AXES, Axis, Curve
from dyna.compare.document import document, page
from dyna.compare.execute import Job
from dyna.compare.overall import overall
from dyna.compare.plan import Comparison
from dyna.compare.results import Group
from dyna.compare.tables import Table

PAGE = "report.html"


def write(comparison: Comparison, jobs: Sequence[Job], joined: Sequence[Group], sharing: str) -> list[Table]:
    """All files of the report, each replaced in one step; returns its tables, raises OSError.

    `sharing` says how the runs shared the machine.
    """
    contests = gather.contests(jobs, joined, comparison.thresholds)
    together = overall(contests)
    data = document(comparison, jobs, contests, together, sharing)
    every = tables.every(contests, together)
    texts = {
        "results.json": json.dumps(data, indent=1, allow_nan=False) + "\n",
        "results.csv": tables.curves_csv(contests),
        "table.md": tables.markdown(every),
        "table.tex": tables.latex(every),
        PAGE: page(data),
    }
    for name, text in texts.items():
        files.replace(comparison.folder / name, text)
    if contests:
        figures.save(contests, [comparison.folder / "curves.png", comparison.folder / "curves.svg"])
    return every


def draw(curves: Sequence[Curve], to: Path, axes: Sequence[Axis] = AXES) -> None:
    """A picture of any curves, or where the file ends in .csv their numbers; raises UserError for a format unknown."""
    by_env: dict[str, list[Group]] = {}
    for group in gather.grouped(curves):
        by_env.setdefault(group.env, []).append(group)
    contests = [results.contest(env, groups, None) for env, groups in by_env.items()]
    if to.suffix == ".csv":
        to.parent.mkdir(parents=True, exist_ok=True)
        files.replace(to, tables.curves_csv(contests))
    else:
        figures.save(contests, [to], axes)
