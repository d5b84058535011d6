"""The e-detector waits as long as it promises, and not much longer than it must."""

from __future__ import annotations

import torch
from torch import Tensor

from dyna.calibration import MISS_RATE
from dyna.detectors import ALARM, Detectors, evidence


def times_to_alarm(rate: float, runs: int, most: int, seed: int) -> Tensor:
    """Outcomes until the alarm [runs], `most` where none was raised, when misses come independently at a rate."""
    rng = torch.Generator().manual_seed(seed)
    found, times = torch.zeros(runs, dtype=torch.float64), torch.full((runs,), most)
    for n in range(1, most + 1):
        found = evidence(found, torch.rand(runs, generator=rng) < rate)
        times = torch.where((found >= ALARM) & (times == most), n, times)
    return times


def test_false_alarms_are_a_thousand_outcomes_apart_at_least() -> None:
    # cut at 4,000 the mean is too small, so that the law holds all the more
    assert float(times_to_alarm(0.1, 1_000, 4_000, seed=0).float().mean()) >= ALARM


def test_fewer_misses_than_allowed_raise_fewer_alarms() -> None:
    assert float((times_to_alarm(0.05, 500, 2_000, seed=1) < 2_000).float().mean()) < 0.05


def test_three_times_as_many_misses_are_noticed_after_about_thirty_outcomes() -> None:
    assert 20 < float(times_to_alarm(0.3, 2_000, 500, seed=2).float().mean()) < 42


def test_nothing_but_misses_is_noticed_after_seven() -> None:
    assert times_to_alarm(1.1, 1, 50, seed=3).item() == 7


def test_evidence_is_a_martingale_at_the_rate_that_is_allowed() -> None:
    before = torch.tensor([0.0, 3.0, 700.0], dtype=torch.float64)
    missed, met = (evidence(before, torch.full((3,), miss)) for miss in (True, False))
    torch.testing.assert_close(0.1 * missed + 0.9 * met, before + 1)


def test_each_detector_hears_of_its_own_misses() -> None:
    detectors = Detectors(("a", "b"))
    raised = [detectors.hear(torch.tensor([True, False])) for _ in range(7)]
    assert raised == [[]] * 6 + [["a"]]
    assert detectors.base_rates() == {"a": 1.0, "b": 0.0} and detectors.alarms.tolist() == [1, 0]
    assert detectors.evidence[0] == 0 and detectors.evidence[1] < 5


def test_pooled_detectors_cannot_tell_one_from_another() -> None:
    detectors = Detectors(("a", "b"), pooled=True)
    assert [detectors.hear(torch.tensor([True, False])) for _ in range(7)][-1] == ["a", "b"]
    assert detectors.base_rates() == {"a": 1.0, "b": 0.0}


def test_pooled_detectors_raise_no_more_false_alarms_than_others() -> None:
    detectors, rng = Detectors(tuple("abcd"), pooled=True), torch.Generator().manual_seed(0)
    for missed in torch.rand(10_000, 4, generator=rng) < MISS_RATE:
        detectors.hear(missed)
    assert detectors.alarms.tolist() == [int(detectors.alarms[0])] * 4 and detectors.alarms[0] <= 10_000 / ALARM


def test_a_change_that_was_judged_does_not_date_the_next_one() -> None:
    detectors = Detectors(("a", "b"))
    for _ in range(60):
        detectors.hear(torch.tensor([True, True]))
    detectors.restart(["a"])
    assert detectors.age("a") == detectors.evidence[0] == 0 and detectors.age("b") == 60
    for i in range(20):
        detectors.hear(torch.tensor([i >= 15, False]))
    assert detectors.age("a") == 5


def test_a_change_is_dated() -> None:
    detectors = Detectors(("a", "b"))
    for i in range(300):
        detectors.hear(torch.tensor([i % 20 == 5, i % 20 == 9]))
    since = 1
    while not detectors.hear(torch.tensor([True, False])):
        since += 1
    assert detectors.age("a") == since and detectors.age("b") == 0


def test_they_go_on_as_they_were() -> None:
    ours, others = Detectors(("a", "b")), Detectors(("a", "b"))
    for i in range(5):
        ours.hear(torch.tensor([i % 2 == 0, True]))
    others.load_state_dict(ours.state_dict())
    assert ours.hear(torch.tensor([True, True])) == others.hear(torch.tensor([True, True]))
    assert ours.base_rates() == others.base_rates() and torch.equal(ours.evidence, others.evidence)
    assert torch.equal(ours.ages, others.ages) and torch.equal(ours.cusum, others.cusum)
