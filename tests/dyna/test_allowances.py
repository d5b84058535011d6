"""The controls spend what they are told to, and the gate's learner what its gate allows, never more than always-on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dyna.allowances import Allowance, Gated, allowance
from dyna.budgets import Budget
from dyna.errors import UserError

BUDGET = Budget(floor=0.05, burst=5.0, capacity=100.0)
KINDS = ["always", "constant", "random", "gated"]


def made(kind: Any, ratio: float = 0.2, opening: int = 100) -> Allowance:
    return allowance(kind, opening=opening, budget=BUDGET, ratio=ratio)


def spent(one: Allowance, first: int, last: int, always: int = 1, steps: int = 1) -> list[int]:
    rng = torch.Generator().manual_seed(first)
    return [one.grant(step, always * steps, steps, rng) for step in range(first, last, steps)]


def shut(one: Allowance) -> None:
    one.gate.share, one.gate.alarmed = 0.0, set()


@pytest.mark.parametrize("kind", KINDS)
def test_the_opening_belongs_to_all(kind: str) -> None:
    assert spent(made(kind), 0, 100) == [1] * 100


@pytest.mark.parametrize("kind", ["constant", "random"])
@pytest.mark.parametrize(("ratio", "always"), [(0.2, 1), (0.5, 1), (0.05, 10)])
def test_a_control_spends_its_share(kind: str, ratio: float, always: int) -> None:
    expected = 20_000 * ratio * always
    assert sum(spent(made(kind, ratio), 100, 20_100, always)) == pytest.approx(expected, rel=0.06)


def test_random_bursts_are_bursts() -> None:
    grants = spent(made("random"), 100, 1_100)
    assert grants.count(0) > 900 and set(grants) == {0, 5}


def test_a_gate_spends_its_floor_until_an_alarm_and_then_what_it_saved() -> None:
    one = made("gated")
    shut(one)
    assert sum(spent(one, 100, 300)) == 10
    one.gate.alarm("critic")
    assert spent(one, 300, 325) == [5] * 25, "it saved 100 steps, and a burst takes four of them besides its own"
    assert spent(one, 325, 335) == [1] * 10
    shut(one)
    assert sum(spent(one, 335, 355)) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [4, 20])
def test_four_environments_or_long_rollouts_spend_what_one_step_at_a_time_does(kind: str, steps: int) -> None:
    single, several = made(kind), made(kind)
    for one in (single, several):
        shut(one)
        one.grant(0, 1, 1, torch.Generator())
    assert abs(sum(spent(single, 100, 300)) - sum(spent(several, 100, 300, steps=steps))) <= 1
    for one in (single, several):
        one.gate.alarm("critic")
    alone, together = spent(single, 300, 340), spent(several, 300, 340, steps=steps)
    assert abs(sum(alone) - sum(together)) <= 1
    if kind == "gated":
        assert max(together) == steps * max(alone) == 5 * steps


@given(
    opened=st.lists(st.sampled_from(["alarm", "moves", "in vain", ""]), max_size=80),
    floor=st.floats(0.0, 1.0),
    burst=st.floats(1.0, 30.0),
    always=st.integers(1, 20),
)
def test_no_gate_ever_spent_more_than_a_learner_that_is_always_on(
    opened: list[str], floor: float, burst: float, always: int
) -> None:
    one, rng, total = Gated(0, Budget(floor, burst, 40.0)), torch.Generator(), 0
    for step, event in enumerate(opened):
        if event == "alarm":
            one.gate.alarm("critic")
        elif event:
            one.gate.look(step, moves=event == "moves")
        total += one.grant(step, always, 1, rng)
        assert floor * always * (step + 1) - 1 <= total <= always * (step + 1) and 0 <= one.saved <= 40.0


def test_a_learner_that_is_always_on_does_not_mind_its_gate() -> None:
    one = made("always")
    shut(one)
    before = spent(one, 200, 210)
    one.gate.alarm("critic")
    assert spent(one, 210, 220) == before == [1] * 10


@pytest.mark.parametrize("kind", KINDS)
def test_it_goes_on_as_it_was(kind: str) -> None:
    ours, others = made(kind), made(kind)
    shut(ours)
    spent(ours, 100, 177)
    ours.gate.alarm("critic")
    others.load_state_dict(ours.state_dict())
    assert spent(ours, 200, 260) == spent(others, 200, 260) and ours.gate == others.gate


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"capacity": -1.0}, "budget.capacity must be finite and not negative, got -1.0"),
        ({"burst": float("inf")}, "budget.burst must be finite and not negative, got inf"),
        ({"floor": float("nan")}, "budget.floor must be finite and not negative, got nan"),
        ({"floor": 1.5}, "budget.floor must be a share, 1 at most, got 1.5"),
        ({"burst": 0.5}, "budget.burst must be at least 1, got 0.5"),
    ],
)
def test_amounts_that_are_none_are_refused(wrong: dict[str, float], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Budget(**wrong)
