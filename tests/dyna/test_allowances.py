"""The controls spend what they are told to, and the gate's learner what its gate allows."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dyna.allowances import Allowance, allowance
from dyna.budgets import Budget

BUDGET = Budget(rate=0.3, capacity=100.0, burst=5.0, floor=0.05)


def made(kind: Any, ratio: float = 0.2) -> Allowance:
    return allowance(kind, opening=100, budget=BUDGET, ratio=ratio)


def spent(one: Allowance, first: int, last: int) -> list[int]:
    rng = torch.Generator().manual_seed(first)
    return [one.grant(step, 1, rng) for step in range(first, last)]


@pytest.mark.parametrize("kind", ["always", "constant", "random", "gated"])
def test_the_opening_belongs_to_all(kind: str) -> None:
    assert spent(made(kind), 0, 100) == [1] * 100


@pytest.mark.parametrize("kind", ["constant", "random"])
def test_a_control_spends_its_ratio(kind: str) -> None:
    assert sum(spent(made(kind), 100, 5_100)) == pytest.approx(1_000, abs=12)


def test_random_bursts_are_bursts() -> None:
    grants = spent(made("random"), 100, 1_100)
    assert grants.count(0) > 850 and max(grants) >= 3


def test_a_gate_spends_its_floor_until_an_alarm_and_then_what_it_saved() -> None:
    one = made("gated")
    assert sum(spent(one, 100, 300)) == 10
    one.gate.open("critic")
    assert spent(one, 300, 310) == [5] * 10
    one.gate.check(0.0, tau=1.0)
    assert sum(spent(one, 310, 330)) == 1


def test_a_learner_that_is_always_on_does_not_mind_its_gate() -> None:
    one = made("always")
    before = spent(one, 200, 210)
    one.gate.open("critic")
    assert spent(one, 210, 220) == before == [1] * 10


@pytest.mark.parametrize("kind", ["always", "constant", "random", "gated"])
def test_it_goes_on_as_it_was(kind: str) -> None:
    ours, others = made(kind), made(kind)
    ours.gate.open("critic")
    spent(ours, 100, 177)
    others.load_state_dict(ours.state_dict())
    assert spent(ours, 200, 260) == spent(others, 200, 260) and ours.gate == others.gate
