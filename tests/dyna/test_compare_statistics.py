"""Few runs are judged as rliable judges them, and what they do not separate is not called a win."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from dyna.compare import statistics
from dyna.compare.statistics import Estimate

OURS = np.array([[0.1, 0.9, 0.4], [0.3, 1.1, 0.5], [0.2, 0.7, 0.9], [0.6, 1.0, 0.2], [0.5, 0.2, 0.8]])  # [seeds, tasks]
THEIRS = np.array([[0.2, 0.4, 0.3], [0.1, 0.8, 0.4], [0.4, 0.3, 0.1], [0.3, 0.9, 0.2], [0.1, 0.6, 0.6]])
NOISE = 0.025
"""Of an interval's end between two sets of resamples."""


def close(estimate: Estimate, value: float, low: float, high: float) -> bool:
    return estimate.value == pytest.approx(value) and abs(estimate.low - low) + abs(estimate.high - high) < 2 * NOISE


def test_the_figures_are_those_of_rliable_1_2_0() -> None:
    """Written down from its `get_interval_estimates` and `create_performance_profile` on the same scores."""
    assert close(statistics.estimate(list(OURS.T)), 0.54444444, 0.35555556, 0.72222222)
    assert close(statistics.estimate(list(THEIRS.T)), 0.34444444, 0.24444444, 0.45555556)
    assert close(statistics.estimate([OURS[:, 0]]), 0.33333333, 0.13333333, 0.56666667)
    improvement = statistics.probability_of_improvement(list(OURS.T), list(THEIRS.T))
    assert close(improvement, 0.71333333, 0.51333333, 0.88666667)
    share, low, high = statistics.profile(list(OURS.T), np.array([0.25, 0.5, 0.75]))
    np.testing.assert_allclose(share, [0.73333333, 0.46666667, 0.33333333])
    np.testing.assert_allclose(low, [0.53333333, 0.26666667, 0.13333333], atol=NOISE)
    np.testing.assert_allclose(high, [0.93333333, 0.66666667, 0.53333333], atol=NOISE)


def test_the_interquartile_mean_leaves_out_a_quarter_at_either_end() -> None:
    assert statistics.iqm(np.array([-1000.0, 1.0, 3.0, 1000.0])) == 2.0
    assert statistics.iqm(np.array([0.0, 3.0, 9.0])) == 4.0  # of three, nothing
    np.testing.assert_array_equal(statistics.iqm(np.array([[4.0, 1, 3, 2], [8.0, 5, 7, 6]])), [2.5, 6.5])


scores = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=8).map(np.array)


@given(st.lists(scores, min_size=1, max_size=3))
def test_an_interval_lies_within_the_scores(strata: list[np.ndarray]) -> None:
    found = statistics.estimate(strata)
    every = np.concatenate(strata)
    assert every.min() - 1e-9 <= found.low <= found.high <= every.max() + 1e-9


@given(scores, scores)
def test_improvements_of_both_sum_to_one(a: np.ndarray, b: np.ndarray) -> None:
    ours, theirs = (statistics.probability_of_improvement([x], [y]).value for x, y in ((a, b), (b, a)))
    assert ours + theirs == pytest.approx(1.0)


def test_a_band_is_the_estimate_at_each_place() -> None:
    curves = np.random.default_rng(0).normal(size=(5, 3))
    value, low, high = statistics.band(curves)
    for place in range(3):
        alone = statistics.estimate([curves[:, place]])
        assert value[place] == alone.value and abs(low[place] - alone.low) + abs(high[place] - alone.high) < 0.2


def test_one_seed_has_no_interval() -> None:
    found = statistics.estimate([np.array([1.0, 2.0]), np.array([3.0])])
    assert math.isnan(found.low) and math.isnan(found.high) and found.value == 2.0


def test_two_seeds_separate_nothing() -> None:
    far, near = [np.array([100.0, 101.0])], [np.array([0.0, 1.0])]
    assert statistics.verdict("a", "b", far, near) == "not separated: 2 seeds, at least 3 are needed"
    assert statistics.verdict("a", "b", [np.arange(3.0)], [np.array([9.0])]).startswith("not separated: 1 seed,")


def test_overlapping_intervals_separate_nothing_and_others_name_the_higher() -> None:
    low, high = [np.array([0.0, 1.0, 2.0])], [np.array([10.0, 11.0, 12.0])]
    assert statistics.verdict("a", "b", low, [np.array([2.0, 3.0, 4.0])]) == "not separated: the intervals overlap"
    assert statistics.verdict("a", "b", low, high) == "b is ahead"
    assert statistics.verdict("a", "b", high, low) == "a is ahead"
    capped = [np.full(5, 1000.0)]
    assert statistics.verdict("a", "b", capped, capped) == "not separated: the intervals overlap"
