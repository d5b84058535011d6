"""All environments of a comparison together, on scores that are made comparable first."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dyna.compare import statistics
from dyna.compare.curves import AXES, Axis, Floats
from dyna.compare.results import Contest, Pair, pair
from dyna.compare.statistics import Estimate

LEVELS = np.linspace(0.0, 1.2, 61)


@dataclass(frozen=True)
class Profile:
    """The share of runs above each score of LEVELS."""

    share: list[float]
    low: list[float]
    high: list[float]


@dataclass(frozen=True)
class Overall:
    """The algorithms that ran in every environment, on one axis."""

    axis: Axis
    envs: tuple[str, ...]
    iqm: Mapping[str, Estimate]
    mean: Mapping[str, Estimate]
    median: Mapping[str, Estimate]
    profiles: Mapping[str, Profile]
    pairs: tuple[Pair, ...]


def overall(contests: Sequence[Contest]) -> list[Overall]:
    """The figures over environments, an axis each, for groups of environments that the same algorithms ran in.

    A score is (return - floor) / (top - floor). The floor is the interquartile mean of the first evaluations of all
    runs; the top is the threshold of the environment or, where it has none, the highest interquartile mean at the
    common budget. An environment where the top is not above the floor is left out, for its scores would mean nothing.
    """
    return [each for axis in AXES for each in _on_axis(contests, axis)]


def _on_axis(contests: Sequence[Contest], axis: Axis) -> list[Overall]:
    scored = {contest.env: scores for contest in contests if (scores := _scores(contest, axis))}
    sets: dict[tuple[str, ...], list[str]] = {}
    for env, scores in scored.items():
        sets.setdefault(tuple(sorted(scores)), []).append(env)
    return [
        _together(axis, envs, {label: [scored[env][label] for env in envs] for label in scored[envs[0]]})
        for labels, envs in sets.items()
        if len(labels) > 1
    ]


def _together(axis: Axis, envs: Sequence[str], strata: Mapping[str, list[Floats]]) -> Overall:
    def of_all(kind: statistics.Statistic) -> dict[str, Estimate]:
        return {label: statistics.estimate(scores, kind) for label, scores in strata.items()}

    profiles = {
        label: Profile(*(each.tolist() for each in statistics.profile(scores, LEVELS)))
        for label, scores in strata.items()
    }
    pairs = tuple(pair(axis, a, b, strata[a], strata[b]) for a, b in itertools.combinations(strata, 2))
    return Overall(
        axis, tuple(envs), of_all(statistics.iqm), of_all(statistics.mean), of_all(statistics.median), profiles, pairs
    )


def _scores(contest: Contest, axis: Axis) -> dict[str, Floats]:
    """The normalised score of each run [seeds] by algorithm; empty where no scale can be made."""
    if axis not in contest.budget:
        return {}
    groups = [row.group for row in contest.rows if not row.group.foreign]
    returns = {group.label: group.scores(axis, contest.budget[axis]) for group in groups}
    known = {label: scores for label, scores in returns.items() if scores is not None}
    floor, top = scale(contest)
    return {label: (scores - floor) / (top - floor) for label, scores in known.items()} if top > floor else {}


def scale(contest: Contest) -> tuple[float, float]:
    """The returns that score 0 and 1 in an environment; the same on both axes."""
    groups = [row.group for row in contest.rows if not row.group.foreign]
    firsts = np.array([curve.returns[0] for group in groups for curve in group.curves])
    floor = float(statistics.iqm(firsts))
    if contest.threshold is not None:
        return floor, contest.threshold
    tops = [reading.iqm.value for row in contest.rows if not row.group.foreign and (reading := row.readings["steps"])]
    return floor, max(tops, default=floor)
