"""From runs and files to the figures of a comparison."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from dyna import registry
from dyna.compare import foreign, results
from dyna.compare.curves import Curve, of_run
from dyna.compare.execute import Job
from dyna.compare.grids import Cell
from dyna.compare.results import Contest, Group
from dyna.errors import UserError


def contests(jobs: Sequence[Job], joined: Sequence[Group], thresholds: Mapping[str, float]) -> list[Contest]:
    """The figures of each environment that has a finished run, with curves from elsewhere beside.

    A run that did not finish is in no figure.
    """
    by_env: dict[str, list[Group]] = {job.cell.config.env: [] for job in jobs}
    for group in _ours(jobs):
        by_env[group.env].append(group)
    with_runs = {env: groups for env, groups in by_env.items() if groups}
    for group in joined:
        with_runs.get(group.env, []).append(group)
    return [results.contest(env, groups, thresholds.get(env)) for env, groups in with_runs.items()]


def joined(paths: Sequence[Path], cells: Sequence[Cell]) -> list[Group]:
    """The curves of files and folders in the environments of the cells, under names that are theirs alone.

    Raises UserError for one that cannot be read, or has no curve in any of the environments.
    """
    taken = {(cell.config.env, cell.label) for cell in cells}
    envs = list(dict.fromkeys(cell.config.env for cell in cells))
    found = []
    for path in paths:
        groups = [group for group in grouped(foreign.read(path)) if group.env in envs]
        if not groups:
            raise UserError(
                f"{path} has no curve in {', '.join(envs)}: leave out --with, or compare in its environments"
            )
        for group in groups:
            label = group.label
            if (group.env, label) in taken:
                label = f"{label} ({path.stem or path.name})"
            taken.add((group.env, label))
            found.append(replace(group, label=label, foreign=True))
    return found


def grouped(curves: Iterable[Curve]) -> list[Group]:
    """Curves by environment and name, each once, with a seed of its own where two have the same; costs unknown."""
    found: dict[tuple[str, str], list[Curve]] = {}
    for curve in curves:
        members = found.setdefault((curve.env, curve.label), [])
        if not any(curve.same(other) for other in members):
            members.append(curve)
    return [Group(env, label, _told_apart(members)) for (env, label), members in found.items()]


def _told_apart(curves: Sequence[Curve]) -> tuple[Curve, ...]:
    """The curves; of several that have one seed all but the first get one that no other has."""
    free = itertools.filterfalse({curve.seed for curve in curves}.__contains__, itertools.count())
    seen: set[int] = set()
    told = []
    for curve in curves:
        told.append(replace(curve, seed=next(free)) if curve.seed in seen else curve)
        seen.add(curve.seed)
    return tuple(told)


def _ours(jobs: Sequence[Job]) -> list[Group]:
    finished: dict[tuple[str, str], list[Job]] = {}
    for job in jobs:
        if job.stage == "finished":
            finished.setdefault((job.cell.config.env, job.cell.label), []).append(job)
    groups = []
    for (env, label), members in finished.items():
        read = (of_run(job.run, label) for job in members if job.run is not None)
        curves = tuple(curve for curve in read if curve is not None)
        cost = results.cost([job.summary for job in members])
        model_based = registry.is_model_based(registry.find(members[0].cell.config.algo))
        groups.append(Group(env, label, curves, "model-based" if model_based else "model-free", cost))
    return [group for group in groups if group.curves]
