"""A token bucket never grants more than it earned, nor less than its floor."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyna.budgets import Budget, TokenBucket
from dyna.errors import UserError

AMOUNTS = st.floats(0.0, 30.0)


@given(rate=AMOUNTS, burst=AMOUNTS, floor=st.floats(0.0, 2.0), opened=st.lists(st.booleans(), max_size=60))
def test_grants_stay_between_the_floor_and_what_was_earned(
    rate: float, burst: float, floor: float, opened: list[bool]
) -> None:
    bucket, granted = TokenBucket(Budget(rate, 50.0, burst, floor)), 0
    for is_open in opened:
        now = bucket.grant(is_open=is_open)
        granted += now
        assert now <= max(burst, floor) + 1 and 0 <= bucket.level <= 50.0
    steps = len(opened)
    assert floor * steps - 1 <= granted <= (rate + floor) * steps + 1e-6


def test_what_was_saved_is_spent_in_a_burst_and_then_what_is_earned() -> None:
    bucket = TokenBucket(Budget(floor=0.0))
    assert [bucket.grant(is_open=False) for _ in range(100)] == [0] * 100
    spent = [bucket.grant(is_open=True) for _ in range(30)]
    assert spent[:11] == [20] * 11 and spent[-5:] == [2] * 5


def test_it_keeps_no_more_than_its_capacity() -> None:
    bucket = TokenBucket(Budget(floor=0.0))
    for _ in range(1_500):
        bucket.grant(is_open=False)
    assert bucket.level == 2_000.0


def test_the_floor_is_granted_behind_a_closed_gate() -> None:
    bucket = TokenBucket()
    assert [bucket.grant(is_open=False) for _ in range(20)] == ([0] * 9 + [1]) * 2


def test_it_goes_on_as_it_was() -> None:
    bucket, other = (TokenBucket(Budget(0.3, floor=0.07)) for _ in range(2))
    pattern = [bool(i % 3) for i in range(50)]
    for is_open in pattern:
        bucket.grant(is_open=is_open)
    other.load_state_dict(bucket.state_dict())
    assert [bucket.grant(is_open=o) for o in pattern] == [other.grant(is_open=o) for o in pattern]


@pytest.mark.parametrize("wrong", [{"rate": -1.0}, {"burst": float("inf")}, {"floor": float("nan")}])
def test_amounts_that_are_none_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"budget.{next(iter(wrong))} must be finite and not negative"):
        Budget(**wrong)
