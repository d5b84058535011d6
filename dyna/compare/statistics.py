"""Statistics of few runs, after Agarwal et al. 2021, "Deep RL at the Edge of the Statistical Precipice".

Definitions and intervals are those of its authors' library, rliable; a test holds the two together. They are written
here because the library loops over resamples in Python and takes as many seeds in every environment only.

Scores are one array [seeds] for each environment; seeds may differ in number. Everything is resampled within its
environment (stratified), and an interval is the 2.5 % to 97.5 % quantile of the resamples (percentile bootstrap).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from dyna.compare.curves import Floats

Statistic: TypeAlias = Callable[[Floats], Floats]
"""Scores [..., N] to one number each [...]."""
RESAMPLES = 2_000
LEAST_SEEDS = 3
"""Seeds an algorithm needs before it can be said to be ahead."""


@dataclass(frozen=True)
class Estimate:
    """A number and the 95 % interval around it; NaN where a single seed tells of none."""

    value: float
    low: float
    high: float

    def overlaps(self, other: Estimate) -> bool:
        """Whether the two intervals have a point in common."""
        return self.low <= other.high and other.low <= self.high


def iqm(scores: Floats) -> Floats:
    """The interquartile mean over the last axis: the mean without the lowest and the highest quarter of [..., N].

    Of N scores floor(N / 4) are left out at either end, so with three seeds it is the mean.
    """
    n = scores.shape[-1]
    cut = n // 4
    kept: Floats = np.sort(scores, -1)[..., cut : n - cut].mean(-1)
    return kept


def mean(scores: Floats) -> Floats:
    """The mean over the last axis."""
    return np.asarray(scores.mean(-1))


def median(scores: Floats) -> Floats:
    """The median over the last axis."""
    return np.asarray(np.median(scores, -1))


def estimate(strata: Sequence[Floats], statistic: Statistic = iqm, *, seed: int = 0) -> Estimate:
    """A statistic of all scores together, with its stratified bootstrap interval; `strata` holds one [seeds] a task."""
    rng = np.random.default_rng(seed)
    resamples = np.concatenate([_resampled(scores, rng) for scores in strata], -1)  # [RESAMPLES, N]
    return _estimate(float(statistic(np.concatenate(list(strata)))), statistic(resamples), strata)


def band(curves: Floats, *, seed: int = 0) -> tuple[Floats, Floats, Floats]:
    """Interquartile mean and its interval at every place of curves [seeds, T]: value, low and high, each [T].

    Whole seeds are resampled, as rliable does.
    """
    picks = np.random.default_rng(seed).integers(len(curves), size=(RESAMPLES, len(curves)))
    values = np.empty((RESAMPLES, curves.shape[1]))
    for place in range(curves.shape[1]):  # one place at a time: all at once would not fit into memory
        values[:, place] = iqm(curves[picks, place])
    low, high = np.quantile(values, (0.025, 0.975), axis=0)
    return iqm(curves.T), low, high


def probability_of_improvement(ours: Sequence[Floats], theirs: Sequence[Floats], *, seed: int = 0) -> Estimate:
    """How probably a run of ours beats one of theirs in the same environment, ties counted half; the mean over tasks.

    Both are resampled (Agarwal et al. 2021, section 4.3).
    """
    rng = np.random.default_rng(seed)
    pairs = list(zip(ours, theirs, strict=True))
    value = np.mean([_beats(a, b) for a, b in pairs])
    resampled = np.mean([_beats(_resampled(a, rng), _resampled(b, rng)) for a, b in pairs], 0)
    return _estimate(float(value), resampled, [*ours, *theirs])


def profile(strata: Sequence[Floats], levels: Floats, *, seed: int = 0) -> tuple[Floats, Floats, Floats]:
    """The share of runs whose score is above each level [L], with its interval: value, low and high, each [L]."""
    rng = np.random.default_rng(seed)
    resamples = np.concatenate([_resampled(scores, rng) for scores in strata], -1)
    shares = np.stack([(resamples > level).mean(-1) for level in levels], -1)
    low, high = np.quantile(shares, (0.025, 0.975), axis=0)
    scores = np.concatenate(list(strata))
    return np.array([(scores > level).mean() for level in levels]), low, high


def verdict(ours: str, theirs: str, a: Sequence[Floats], b: Sequence[Floats]) -> str:
    """What can be said of two algorithms: which is ahead, or that their runs do not separate them.

    One is ahead if both have LEAST_SEEDS seeds in every environment and the intervals of their interquartile means do
    not overlap, which is stricter than a test of the difference at the same level.
    """
    fewest = min(len(scores) for scores in (*a, *b))
    if fewest < LEAST_SEEDS:
        return f"not separated: {fewest} seed{'s' if fewest > 1 else ''}, at least {LEAST_SEEDS} are needed"
    first, second = estimate(a), estimate(b)
    if first.overlaps(second):
        return "not separated: the intervals overlap"
    return ahead(ours if first.value > second.value else theirs)


def ahead(label: str) -> str:
    """The verdict that names a winner."""
    return f"{label} is ahead"


def _estimate(value: float, resamples: Floats, strata: Sequence[Floats]) -> Estimate:
    if min(map(len, strata)) < 2:
        return Estimate(value, float("nan"), float("nan"))
    low, high = np.quantile(resamples, (0.025, 0.975))
    return Estimate(value, float(low), float(high))


def _resampled(scores: Floats, rng: np.random.Generator) -> Floats:
    """Scores [N] drawn with replacement, RESAMPLES times: [RESAMPLES, N]."""
    drawn: Floats = scores[rng.integers(len(scores), size=(RESAMPLES, len(scores)))]
    return drawn


def _beats(a: Floats, b: Floats) -> Floats:
    """The share of pairs of [..., N] and [..., M] in which a is the greater, ties counted half."""
    a, b = a[..., :, None], b[..., None, :]
    share: Floats = ((a > b) + 0.5 * (a == b)).mean((-2, -1))
    return share
