"""Plans and policy act in turns: how long, who is next, and what is compared."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from dyna.turns import AUDITED, FEWEST, KEPT, OWN, STEPS, Turns, likely_greater

EVERYWHERE = torch.arange(3)
NOBODY = torch.zeros(3, dtype=torch.bool)


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_a_turn_lasts_until_its_steps_are_over_or_its_episode_ends() -> None:
    turns, draws = Turns(3), rng()
    turns.take(EVERYWHERE, 0.5, draws)
    for step in range(STEPS):
        before = turns.left.clone()
        turns.take(EVERYWHERE, 0.5, draws)
        assert torch.equal(turns.left, before) or step == 5
        turns.advance(torch.tensor([False, False, step == 4]))
    assert turns.left.tolist() == [0, 0, 5]


def test_a_turn_begins_where_no_window_is_under_way() -> None:
    turns = Turns(3)
    turns.take(torch.tensor([1]), 0.0, rng())
    assert turns.left.tolist() == [0, STEPS, 0] and turns.planned[[0, 2]].all() and turns.noisy[[0, 2]].all()


@pytest.mark.parametrize(("lead", "share"), [(0.0, 0.0), (0.2, 0.2), (1.0, 1.0), (math.nan, 0.5)])
def test_who_leads_has_the_noisy_turns_and_audited_turns_are_shared_evenly(lead: float, share: float) -> None:
    turns = Turns(8_000)
    turns.take(torch.arange(8_000), lead, rng())
    assert float(turns.noisy.float().mean()) == pytest.approx(1 - AUDITED, abs=0.02)
    assert float(turns.planned[turns.noisy].float().mean()) == pytest.approx(share, abs=0.02)
    assert float(turns.planned[~turns.noisy].float().mean()) == pytest.approx(0.5, abs=0.03)


def test_audited_turns_alone_are_remembered_each_with_its_own() -> None:
    turns = Turns(4)
    turns.take(torch.arange(4), 0.5, rng())
    turns.planned[:] = torch.tensor([True, False, True, False])
    turns.noisy[:] = torch.tensor([False, False, True, True])
    turns.note(torch.tensor([0, 1]), torch.tensor([2.0, 3.0]))
    turns.note(torch.tensor([0, 2, 3]), torch.tensor([5.0, 7.0, 11.0]))
    assert not turns.advance(torch.zeros(4, dtype=torch.bool))
    assert turns.advance(torch.ones(4, dtype=torch.bool))
    policy, plans = (ring.all()["outcome"].tolist() for ring in turns.audited)
    assert policy == [[3.0, 1.0]] and plans == [[7.0, 2.0]]
    assert not turns.advance(torch.zeros(4, dtype=torch.bool))
    assert len(turns.audited[0].all()["outcome"]) == 1  # nothing is noted twice


def test_a_turn_without_a_window_says_nothing() -> None:
    turns = Turns(3)
    turns.take(EVERYWHERE, 0.5, rng())
    turns.noisy[:] = False
    assert not turns.advance(~NOBODY)
    assert [ring.size for ring in turns.audited] == [0, 0]


def remembered(policy: list[list[float]], plans: list[list[float]]) -> Turns:
    turns = Turns(1)
    for ring, rows in zip(turns.audited, (policy, plans), strict=True):
        if rows:
            ring.add(outcome=torch.tensor(rows))
    return turns


def test_a_lead_is_for_plans_and_known_only_with_turns_of_both() -> None:
    low, high = [[0.0, 20.0]], [[1.0, 20.0]]
    assert math.isnan(Turns(1).lead())
    assert math.isnan(remembered(low * FEWEST, high * (FEWEST - 1)).lead())
    assert remembered(low * FEWEST, high * FEWEST).lead() == 1.0
    assert remembered(high * FEWEST, low * FEWEST).lead() == 0.0
    assert remembered(high * FEWEST, high * FEWEST).lead() == 1.0  # by default plans act
    assert remembered(high * KEPT + low * KEPT, high * FEWEST).lead() == 1.0  # the newest count
    turns = remembered(low * FEWEST, high * FEWEST)
    turns.forget()
    assert math.isnan(turns.lead())


def turns_of(n: int, draws: torch.Generator, gain: float = 0.0, trend: float = 0.0) -> torch.Tensor:
    """n turns of 1 to 20 windows that have much in common, and whose outcomes change with time."""
    number = torch.randint(1, 21, (n,), generator=draws)
    common = torch.randn(n, generator=draws) + gain + trend * torch.arange(n)
    own = torch.randn(n, 20, generator=draws) * (torch.arange(20) < number[:, None])
    return torch.stack([number * common + own.sum(1), number.float()], dim=1)


def test_two_that_are_alike_are_told_apart_as_seldom_as_the_chance_says() -> None:
    draws = rng()
    leads = torch.tensor([likely_greater(turns_of(KEPT, draws), turns_of(KEPT, draws)) for _ in range(2_000)])
    assert float(((leads < 0.05) | (leads > 0.95)).float().mean()) == pytest.approx(0.1, abs=0.05)
    assert float(leads.mean()) == pytest.approx(0.5, abs=0.03)
    leads = torch.tensor([likely_greater(turns_of(KEPT, draws, 2.0), turns_of(KEPT, draws)) for _ in range(500)])
    assert float((leads > 0.95).float().mean()) > 0.9


def test_an_agent_that_learns_is_not_told_apart_from_itself() -> None:
    """What changes with time changes for both, since both have the same share of audited turns at all times."""
    draws, told_apart = rng(), 0
    for _ in range(300):
        turns, lead = Turns(1), math.nan
        for step in range(80):
            turns.take(torch.tensor([0]), lead, draws)
            turns.note(torch.tensor([0]), 0.1 * step + torch.randn(1, generator=draws))
            if turns.advance(torch.tensor([True])):
                lead = turns.lead()
        told_apart += lead < 0.05 or lead > 0.95
    assert told_apart < 30 * 1.6


def test_a_state_that_is_put_back_goes_on_alike() -> None:
    first, second, draws = Turns(3), Turns(3), rng()
    first.take(EVERYWHERE, 0.3, draws)
    first.noisy[:] = False
    first.note(EVERYWHERE, torch.ones(3))
    first.advance(torch.tensor([True, False, False]))
    second.load_state_dict(first.state_dict())

    def goes_on(turns: Turns) -> dict[str, Any]:
        turns.take(EVERYWHERE, 0.3, rng())
        turns.note(EVERYWHERE, torch.ones(3))
        turns.advance(torch.tensor([False, True, False]))
        return turns.state_dict()

    one, other = goes_on(first), goes_on(second)
    for name in OWN:
        assert torch.equal(one[name], other[name])
    assert [ring["added"] for ring in one["audited"]] == [ring["added"] for ring in other["audited"]]
