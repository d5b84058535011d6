"""Plans and policy act in turns: how long, who is next, and what outcomes say of them."""

from __future__ import annotations

import math

import pytest
import torch

from dyna.turns import EXPLORER, FEWEST, PLANS, POLICY, STEPS, Turns, belief

EVERYWHERE = torch.arange(3)
NOBODY = torch.zeros(3, dtype=torch.bool)


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_a_turn_lasts_until_its_steps_are_over_or_its_episode_ends() -> None:
    turns, draws = Turns(3), rng()
    before = turns.take(EVERYWHERE, 0.5, draws).clone()
    for step in range(STEPS):
        assert torch.equal(turns.take(EVERYWHERE, 0.5, draws), before)
        assert turns.advance(torch.tensor([False, False, step == 4])) == (step == 4 or step == STEPS - 1)
        if step == 4:
            before = turns.take(EVERYWHERE, 0.5, draws).clone()
    assert turns.left.tolist() == [0, 0, 5]


def test_a_turn_begins_where_no_window_is_under_way() -> None:
    turns = Turns(3)
    turns.take(torch.tensor([1]), 0.0, rng())
    assert turns.left.tolist() == [0, STEPS, 0] and turns.actor[[0, 2]].tolist() == [PLANS, PLANS]


@pytest.mark.parametrize(("share", "planned"), [(0.0, 0.0), (0.2, 0.2), (1.0, 1.0), (math.nan, 0.5)])
def test_plans_get_their_share_and_half_of_the_policys_turns_are_noisy(share: float, planned: float) -> None:
    everywhere = torch.arange(4_000)
    actor = Turns(len(everywhere)).take(everywhere, share, rng())
    counts = [float((actor == kind).float().mean()) for kind in (PLANS, POLICY, EXPLORER)]
    assert counts == pytest.approx([planned, (1 - planned) / 2, (1 - planned) / 2], abs=0.03)


def test_a_belief_is_how_often_the_better_one_has_the_better_mean() -> None:
    draws, n, apart = rng(), 50, 0.3
    assert belief(torch.ones(FEWEST), torch.ones(FEWEST)) == 1.0  # no worse
    assert belief(torch.ones(FEWEST), 2 * torch.ones(FEWEST)) == 0.0
    plans, policy = apart + torch.randn(10_000, n, generator=draws), torch.randn(10_000, n, generator=draws)
    ahead = float((plans.mean(1) > policy.mean(1)).float().mean())
    likely = 0.5 * (1 + math.erf(apart / math.sqrt(2 / n) / math.sqrt(2)))
    assert ahead == pytest.approx(likely, abs=0.01)  # what the formula must say where means and variances are exact
    exact = (plans[0] - plans[0].mean()) / plans[0].std()
    assert belief(exact + apart, exact) == pytest.approx(likely)
    assert belief(exact, exact + apart) == pytest.approx(1 - likely)


def test_with_few_outcomes_of_either_nothing_is_believed() -> None:
    few, enough = torch.zeros(FEWEST - 1), torch.ones(FEWEST)
    assert math.isnan(belief(few, enough)) and math.isnan(belief(enough, few)) and math.isnan(belief(few, few))


def test_a_state_that_is_put_back_goes_on_alike() -> None:
    first, second, draws = Turns(3), Turns(3), rng()
    first.take(EVERYWHERE, 0.3, draws)
    first.advance(torch.tensor([True, False, False]))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.take(EVERYWHERE, 0.3, rng()), second.take(EVERYWHERE, 0.3, rng()))
    assert torch.equal(first.left, second.left)
