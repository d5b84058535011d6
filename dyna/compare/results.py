"""What the runs of a comparison say: by environment, by algorithm, on both axes."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dyna.compare import statistics
from dyna.compare.curves import AXES, Axis, Curve, Floats
from dyna.compare.statistics import Estimate

MOST_PLACES = 400
"""Places of a drawn curve; more evaluations than that are not told apart on a screen."""


@dataclass(frozen=True)
class Cost:
    """What the runs of one algorithm took, a run; means, but for the memory."""

    seconds: float  # of training
    steps_per_second: float
    updates: Mapping[str, float]  # gradient updates of each kind
    rl_share: float | None  # of all gradient updates, those of critic and actor; None where there were none
    plans: float  # calls of the planner
    peak_memory: float | None  # MiB, the highest of all runs; None where it was not measured


@dataclass(frozen=True)
class Group:
    """The runs of one algorithm in one environment; `cost` is unknown for runs from elsewhere."""

    env: str
    label: str
    curves: tuple[Curve, ...]
    family: str = ""
    cost: Cost | None = None
    foreign: bool = False

    def last(self, axis: Axis) -> float | None:
        """How far along the axis every run has come; None where one has no such axis."""
        if axis == "seconds" and any(curve.seconds is None for curve in self.curves):
            return None
        return min(float(curve.along(axis)[-1]) for curve in self.curves)

    def first(self, axis: Axis) -> float:
        """From where on the axis every run was evaluated; raises ValueError where one has no such axis."""
        return max(float(curve.along(axis)[0]) for curve in self.curves)

    def scores(self, axis: Axis, place: float) -> Floats | None:
        """The return of each run [seeds] at a place on the axis, or None where some run was not evaluated by then."""
        last = self.last(axis)
        if last is None or not self.first(axis) <= place <= last:
            return None
        return np.array([curve.at(axis, np.array([place]))[0] for curve in self.curves])

    def areas(self, axis: Axis, place: float) -> Floats | None:
        """The mean return of each run [seeds] on its way from its first evaluation to a place on the axis."""
        if self.scores(axis, place) is None:
            return None
        return np.array([_mean_until(curve, axis, place) for curve in self.curves])

    def band(self, axis: Axis) -> dict[str, list[float]] | None:
        """Interquartile mean and interval along the axis, from where every run has begun to where the first ends."""
        last = self.last(axis)
        if last is None:
            return None
        first = self.first(axis)
        places = np.unique(np.concatenate([curve.along(axis) for curve in self.curves]))
        places = places[(places >= first) & (places <= last)]
        if len(places) == 0:  # one run had ended before another had been evaluated
            return None
        if len(places) > MOST_PLACES:
            places = np.linspace(first, last, MOST_PLACES)
        value, low, high = statistics.band(np.stack([curve.at(axis, places) for curve in self.curves]))
        columns = {"at": places, "iqm": value, "low": low, "high": high}
        return {name: column.tolist() for name, column in columns.items()}


@dataclass(frozen=True)
class Reached:
    """Where on an axis the runs first reached the threshold: the median, infinite where fewer than half did."""

    median: float
    runs: int
    of: int


@dataclass(frozen=True)
class Reading:
    """One algorithm at the common budget of one axis."""

    iqm: Estimate
    mean: Estimate
    median: Estimate
    area: Estimate  # interquartile mean of the mean return on the way: sample or time efficiency


@dataclass(frozen=True)
class Row:
    """One algorithm in one environment."""

    group: Group
    readings: Mapping[Axis, Reading | None]
    reached: Mapping[Axis, Reached | None]


@dataclass(frozen=True)
class Pair:
    """Two algorithms at the common budget of one axis."""

    axis: Axis
    ours: str
    theirs: str
    probability: Estimate  # that a run of ours beats one of theirs
    verdict: str


@dataclass(frozen=True)
class Contest:
    """One environment; the budget of an axis is as far as every algorithm that was run here came."""

    env: str
    threshold: float | None
    budget: Mapping[Axis, float]
    rows: tuple[Row, ...]
    pairs: tuple[Pair, ...] = field(default=())


def contest(env: str, groups: Sequence[Group], threshold: float | None) -> Contest:
    """The figures of one environment."""
    budget = {axis: place for axis in AXES if (place := _budget(groups, axis)) is not None}
    rows = tuple(Row(group, _readings(group, budget), _reached(group, threshold)) for group in groups)
    pairs = tuple(pair for axis, place in budget.items() for pair in _pairs(axis, place, groups))
    return Contest(env, threshold, budget, rows, pairs)


def cost(summaries: Sequence[Mapping[str, Any]]) -> Cost:
    """The costs of runs, from their summaries."""
    seconds = float(np.mean([summary["seconds"] for summary in summaries]))
    kinds = [summary.get("updates") or {} for summary in summaries]
    names = dict.fromkeys(name for each in kinds for name in each)
    updates = {name: float(np.mean([each.get(name, 0) for each in kinds])) for name in names}
    plans = updates.pop("plans", 0.0)
    total = sum(updates.values())
    peaks = [peak for summary in summaries if (peak := summary.get("peak_memory")) is not None]
    steps = float(np.mean([summary["steps"] for summary in summaries]))
    return Cost(
        seconds=seconds,
        steps_per_second=steps / seconds if seconds else float("nan"),
        updates=updates,
        rl_share=(updates.get("critic", 0.0) + updates.get("actor", 0.0)) / total if total else None,
        plans=plans,
        peak_memory=max(peaks, default=None),
    )


def _budget(groups: Sequence[Group], axis: Axis) -> float | None:
    lasts = [group.last(axis) for group in groups if not group.foreign]
    known = [last for last in lasts if last is not None]
    return min(known) if known and len(known) == len(lasts) else None


def _readings(group: Group, budget: Mapping[Axis, float]) -> dict[Axis, Reading | None]:
    return {axis: _reading(group, axis, budget[axis]) if axis in budget else None for axis in AXES}


def _reading(group: Group, axis: Axis, place: float) -> Reading | None:
    scores, areas = group.scores(axis, place), group.areas(axis, place)
    if scores is None or areas is None:
        return None
    return Reading(
        iqm=statistics.estimate([scores], statistics.iqm),
        mean=statistics.estimate([scores], statistics.mean),
        median=statistics.estimate([scores], statistics.median),
        area=statistics.estimate([areas], statistics.iqm),
    )


def _reached(group: Group, threshold: float | None) -> dict[Axis, Reached | None]:
    if threshold is None:
        return dict.fromkeys(AXES)
    return {axis: _first(group, axis, threshold) if group.last(axis) is not None else None for axis in AXES}


def _first(group: Group, axis: Axis, threshold: float) -> Reached:
    places = np.array([curve.first_at(axis, threshold) for curve in group.curves])
    runs = int(np.isfinite(places).sum())
    median = np.sort(places)[(len(places) - 1) // 2 : len(places) // 2 + 1].mean()  # np.median makes inf - inf of two
    return Reached(float(median), runs, len(places))


def _pairs(axis: Axis, place: float, groups: Sequence[Group]) -> list[Pair]:
    scored = {
        group.label: scores
        for group in groups
        if not group.foreign
        if (scores := group.scores(axis, place)) is not None
    }
    return [
        pair(axis, ours, theirs, [scored[ours]], [scored[theirs]]) for ours, theirs in itertools.combinations(scored, 2)
    ]


def pair(axis: Axis, ours: str, theirs: str, a: Sequence[Floats], b: Sequence[Floats]) -> Pair:
    """Two algorithms with the scores [seeds] of each in the same environments."""
    probability = statistics.probability_of_improvement(a, b)
    return Pair(axis, ours, theirs, probability, statistics.verdict(ours, theirs, a, b))


def _mean_until(curve: Curve, axis: Axis, place: float) -> float:
    places = curve.along(axis)
    inside = np.append(places[places < place], place)
    returns = curve.at(axis, inside)
    width = inside[-1] - inside[0]
    return float((returns[1:] + returns[:-1]) @ np.diff(inside) / 2 / width) if width > 0 else float(returns[-1])
