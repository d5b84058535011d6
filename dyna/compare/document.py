"""Everything that a report says, as plain data: `results.json`, and the page that draws it."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files as resources
from typing import Any

import dyna
from dyna.compare import figures, overall, tables
from dyna.compare.curves import AXES, Curve
from dyna.compare.execute import Job
from dyna.compare.overall import Overall
from dyna.compare.plan import Comparison
from dyna.compare.results import Contest, Row

PLACE = "/*DATA*/"
"""Where the page takes the data."""


def document(
    comparison: Comparison, jobs: Sequence[Job], contests: Sequence[Contest], together: Sequence[Overall], shared: str
) -> dict[str, Any]:
    """The report as plain data; `shared` says how runs share the machine."""
    data = {
        "name": comparison.name,
        "dyna": dyna.__version__,
        "made": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": list(comparison.argv),
        "sharing": shared,
        "colours": figures.colours(contests),
        "contests": [_contest(contest) for contest in contests],
        "overall": [dataclasses.asdict(each) for each in together],
        "levels": overall.LEVELS.tolist(),
        "tables": [dataclasses.asdict(table) for table in tables.every(contests, together)],
        "runs": [_run(comparison, job) for job in jobs],
        "machines": _machines(jobs),
        "logdir": str(comparison.runs),
    }
    found: dict[str, Any] = _plain(data)
    return found


def page(data: Mapping[str, Any]) -> str:
    """The report as one HTML file that needs no other."""
    template = resources("dyna.compare").joinpath("report.html").read_text(encoding="utf-8")
    text = json.dumps(data, allow_nan=False).replace("<", "\\u003c")  # no text can end the script
    return template.replace(PLACE, text, 1)


def _contest(contest: Contest) -> dict[str, Any]:
    return {
        "env": contest.env,
        "threshold": contest.threshold,
        "budget": contest.budget,
        "scale": overall.scale(contest),
        "leaders": {axis: tables.leaders(contest, axis) for axis in AXES},
        "algorithms": [_algorithm(row) for row in contest.rows],
        "pairs": [dataclasses.asdict(pair) for pair in contest.pairs],
    }


def _algorithm(row: Row) -> dict[str, Any]:
    group = row.group
    return {
        "label": group.label,
        "family": group.family,
        "foreign": group.foreign,
        "sources": sorted({curve.source for curve in group.curves if curve.source}),
        "bands": {axis: group.band(axis) for axis in AXES},
        "curves": [_curve(curve) for curve in group.curves],
        "readings": {axis: reading and dataclasses.asdict(reading) for axis, reading in row.readings.items()},
        "reached": {axis: reached and dataclasses.asdict(reached) for axis, reached in row.reached.items()},
        "cost": group.cost and dataclasses.asdict(group.cost),
    }


def _curve(curve: Curve) -> dict[str, Any]:
    seconds = None if curve.seconds is None else curve.seconds.tolist()
    return {"seed": curve.seed, "steps": curve.steps.tolist(), "seconds": seconds, "returns": curve.returns.tolist()}


def _run(comparison: Comparison, job: Job) -> dict[str, Any]:
    config = job.cell.config
    path = job.run and job.run.path
    return {
        "env": config.env,
        "label": job.cell.label,
        "seed": config.seed,
        "stage": job.stage,
        "reused": job.reused,
        "error": job.error,
        "steps": job.summary.get("steps"),
        "seconds": job.summary.get("seconds"),
        "return": job.summary.get("final_return_mean"),
        "path": path and str(path),
        "link": path and os.path.relpath(path, comparison.folder).replace(os.sep, "/"),
        "command": path and f"dyna train --config {path / 'config.yaml'}",
        "code": job.run and job.run.meta().get("code"),
    }


def _machines(jobs: Iterable[Job]) -> list[dict[str, Any]]:
    """The machines that the runs were made on, each once, with the number of its runs."""
    found: dict[str, dict[str, Any]] = {}
    for job in jobs:
        meta = job.run.meta() if job.run is not None and job.stage == "finished" else {}
        if meta:
            kept = ("platform", "processor", "cores", "device", "threads", "python", "versions")
            machine = {name: meta.get(name) for name in kept}
            found.setdefault(json.dumps(machine, sort_keys=True), {**machine, "runs": 0})["runs"] += 1
    return list(found.values())


def _plain(value: Any) -> Any:
    """JSON has neither NaN nor infinity: both are null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
