"""Audits of plans and of the policy: how long a turn is, whose, and what is compared."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from dyna.audits import FEWEST, KEPT, OWN, STEPS, Audits, likely_greater

EVERYWHERE = torch.arange(3)
NOBODY = torch.zeros(3, dtype=torch.bool)


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_a_turn_lasts_until_its_steps_are_over_or_its_episode_ends() -> None:
    audits, draws = Audits(3, 0.5), rng()
    audits.take(EVERYWHERE, draws)
    for step in range(STEPS):
        before = audits.left.clone()
        audits.take(EVERYWHERE, draws)
        assert torch.equal(audits.left, before) or step == 5
        audits.advance(torch.tensor([False, False, step == 4]), NOBODY)
    assert audits.left.tolist() == [0, 0, 5]


def test_a_turn_waits_for_its_last_window() -> None:
    audits = Audits(3, 1.0)
    audits.take(EVERYWHERE, rng())
    for _ in range(STEPS + 2):
        audits.advance(NOBODY, torch.tensor([True, False, True]))
    assert audits.left.tolist() == [1, 0, 1] and [ring.size for ring in audits.known] == [0, 0]
    audits.note(EVERYWHERE, torch.ones(3))
    assert audits.advance(torch.tensor([False, False, True]), torch.tensor([True, False, False]))
    assert audits.left.tolist() == [1, 0, 0] and sum(ring.size for ring in audits.known) == 1
    assert audits.advance(NOBODY, NOBODY) and sum(ring.size for ring in audits.known) == 2


def test_a_turn_begins_where_no_window_is_under_way() -> None:
    audits = Audits(3, 0.5)
    audits.take(torch.tensor([1]), rng())
    assert audits.left.tolist() == [0, STEPS, 0] and audits.planned[[0, 2]].all() and audits.noisy[[0, 2]].all()


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_audits_have_their_share_without_noise_and_plans_all_that_is_left(share: float) -> None:
    audits = Audits(8_000, share)
    audits.take(torch.arange(8_000), rng())
    assert float((~audits.noisy).float().mean()) == pytest.approx(share, abs=0.02)
    assert audits.planned[audits.noisy].all()


def test_of_two_audits_one_is_of_plans_and_chance_says_which_comes_first() -> None:
    audits = Audits(4_000, 1.0)
    audits.take(torch.arange(4_000), rng())
    pairs = audits.planned.view(-1, 2)
    assert (pairs.sum(1) == 1).all()
    assert float(pairs[:, 0].float().mean()) == pytest.approx(0.5, abs=0.03)


def test_audited_turns_alone_are_remembered_each_with_its_own() -> None:
    audits = Audits(4, 0.5)
    audits.take(torch.arange(4), rng())
    audits.planned[:] = torch.tensor([True, False, True, False])
    audits.noisy[:] = torch.tensor([False, False, True, True])
    audits.note(torch.tensor([0, 1]), torch.tensor([2.0, 3.0]))
    audits.note(torch.tensor([0, 2, 3]), torch.tensor([5.0, 7.0, 11.0]))
    assert not audits.advance(torch.zeros(4, dtype=torch.bool), torch.zeros(4, dtype=torch.bool))
    assert audits.advance(torch.ones(4, dtype=torch.bool), torch.zeros(4, dtype=torch.bool))
    policy, plans = (ring.all()["outcome"].tolist() for ring in audits.known)
    assert policy == [[3.0, 1.0]] and plans == [[7.0, 2.0]]
    assert not audits.advance(torch.zeros(4, dtype=torch.bool), torch.zeros(4, dtype=torch.bool))
    assert len(audits.known[0].all()["outcome"]) == 1  # nothing is noted twice


def test_a_turn_without_a_window_says_nothing() -> None:
    audits = Audits(3, 0.5)
    audits.take(EVERYWHERE, rng())
    audits.noisy[:] = False
    assert not audits.advance(~NOBODY, NOBODY)
    assert [ring.size for ring in audits.known] == [0, 0]


def remembered(policy: list[list[float]], plans: list[list[float]]) -> Audits:
    audits = Audits(1, 0.5)
    for ring, rows in zip(audits.known, (policy, plans), strict=True):
        if rows:
            ring.add(outcome=torch.tensor(rows))
    return audits


def test_a_lead_is_for_plans_and_known_only_with_turns_of_both() -> None:
    low, high = [[0.0, 20.0]], [[1.0, 20.0]]
    assert math.isnan(Audits(1, 0.5).lead())
    assert math.isnan(remembered(low * FEWEST, high * (FEWEST - 1)).lead())
    assert remembered(low * FEWEST, high * FEWEST).lead() == 1.0
    assert remembered(high * FEWEST, low * FEWEST).lead() == 0.0
    assert remembered(high * FEWEST, high * FEWEST).lead() == 1.0  # by default plans act
    assert remembered(high * KEPT + low * KEPT, high * FEWEST).lead() == 1.0  # the newest count
    audits = remembered(low * FEWEST, high * FEWEST)
    audits.forget()
    assert math.isnan(audits.lead())


def turns_of(n: int, draws: torch.Generator, gain: float = 0.0) -> torch.Tensor:
    """n turns of 1 to 20 windows that have much in common."""
    number = torch.randint(1, 21, (n,), generator=draws)
    common = torch.randn(n, generator=draws) + gain
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
        audits, lead = Audits(1, 0.5), math.nan
        for step in range(80):
            audits.take(torch.tensor([0]), draws)
            audits.note(torch.tensor([0]), 0.1 * step + torch.randn(1, generator=draws))
            if audits.advance(torch.tensor([True]), torch.tensor([False])):
                lead = audits.lead()
        told_apart += lead < 0.05 or lead > 0.95
    assert told_apart < 30 * 1.6


def test_a_state_that_is_put_back_goes_on_alike() -> None:
    first, second, draws = Audits(3, 0.5), Audits(3, 0.5), rng()
    first.take(EVERYWHERE, draws)
    first.noisy[:] = False
    first.note(EVERYWHERE, torch.ones(3))
    first.advance(torch.tensor([True, False, False]), NOBODY)
    second.load_state_dict(first.state_dict())

    def goes_on(audits: Audits) -> dict[str, Any]:
        audits.take(EVERYWHERE, rng())
        audits.note(EVERYWHERE, torch.ones(3))
        audits.advance(torch.tensor([False, True, False]), NOBODY)
        return audits.state_dict()

    one, other = goes_on(first), goes_on(second)
    for name in OWN:
        assert torch.equal(one[name], other[name])
    assert one["due"] == other["due"]
    assert [ring["added"] for ring in one["known"]] == [ring["added"] for ring in other["known"]]
