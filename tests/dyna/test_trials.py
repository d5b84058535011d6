"""Mode-2 against Mode-1: what a trial brings, and who gets the next."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dyna.trials import RECENT, STEPS, Trials
from dyna.types import Transitions

GAMMA = 0.9


def worth(obs: Tensor) -> Tensor:
    return 10.0 * obs[:, 0]


def trials(n_envs: int = 2, audit: float = 0.1) -> Trials:
    return Trials(n_envs, worth, gamma=GAMMA, audit=audit, device="cpu")


def step(reward: list[float], after: list[float], terminated: list[float]) -> Transitions:
    n = len(reward)
    state = torch.tensor(after).unsqueeze(1)
    return Transitions(torch.zeros(n, 1), torch.zeros(n, 1), torch.tensor(reward), state, torch.tensor(terminated))


def test_an_outcome_is_what_was_earned_and_what_follows_beyond_what_was_expected() -> None:
    either, rng = trials(3), torch.Generator().manual_seed(0)
    planned = either.plans(torch.tensor([[1.0], [2.0], [3.0]]), rng).clone()
    nobody = torch.zeros(3, dtype=torch.bool)
    assert not len(either.advance(step([1.0, 2.0, 4.0], [0.0] * 3, [0.0] * 3), nobody))
    ended = either.advance(step([3.0, 4.0, 5.0], [5.0, 6.0, 7.0], [0.0, 1.0, 0.0]), torch.tensor([True, True, False]))
    assert ended.tolist() == [0, 1]
    found = either.recent.all()
    expected = [1 + GAMMA * 3 + GAMMA**2 * 50 - 10, 2 + GAMMA * 4 - 20]  # a time limit, and an end
    torch.testing.assert_close(found["outcome"].squeeze(1), torch.tensor(expected))
    assert torch.equal(found["planned"].squeeze(1) > 0, planned[:2])
    assert either.age.tolist() == [-1, -1, 2]


def test_a_trial_ends_by_itself_and_nothing_is_counted_where_none_is_under_way() -> None:
    either, rng = trials(1), torch.Generator().manual_seed(0)
    nobody = torch.zeros(1, dtype=torch.bool)
    either.advance(step([100.0], [0.0], [0.0]), nobody)  # before the first
    either.plans(torch.zeros(1, 1), rng)
    ended = [len(either.advance(step([1.0], [0.0], [0.0]), nobody)) for _ in range(STEPS)]
    assert ended == [0] * (STEPS - 1) + [1]
    torch.testing.assert_close(either.recent.all()["outcome"][0, 0], torch.tensor((1 - GAMMA**STEPS) / (1 - GAMMA)))


def test_what_is_dropped_has_no_outcome() -> None:
    either = trials()
    either.plans(torch.zeros(2, 1), torch.Generator().manual_seed(0))
    either.drop(torch.tensor([True, False]))
    over = torch.ones(2, dtype=torch.bool)
    assert either.advance(step([1.0, 1.0], [0.0, 0.0], [1.0, 1.0]), over).tolist() == [1]


def remember(either: Trials, planned: bool, outcomes: list[float]) -> None:
    rows = torch.tensor(outcomes).unsqueeze(1)
    either.recent.add(planned=torch.full_like(rows, float(planned)), outcome=rows)


def test_each_is_tried_before_they_are_compared() -> None:
    either = trials()
    assert either.likely() == 0.5
    remember(either, True, [1.0, 2.0])
    assert either.likely() == 0.0
    remember(either, False, [1.0])
    assert either.likely() == 0.0
    remember(either, False, [2.0])
    assert either.likely() == 0.5 and either.advantage() == 0.0


@pytest.mark.parametrize("better", [True, False])
def test_the_better_one_acts_and_the_other_is_tried_now_and_then(better: bool) -> None:
    either, rng = trials(1, audit=0.1), torch.Generator().manual_seed(0)
    acted = []
    for _ in range(400):
        planned = bool(either.plans(torch.zeros(1, 1), rng))
        acted.append(planned)
        gain = float(planned == better) + 0.5 * float(torch.randn(1, generator=rng))
        either.advance(step([gain], [0.0], [1.0]), torch.ones(1, dtype=torch.bool))
    share = sum(planned == better for planned in acted[20:]) / 380
    assert 0.8 < share < 0.95
    assert (either.advantage() > 0) == better


def test_what_was_long_ago_does_not_count() -> None:
    either = trials(audit=0.05)
    remember(either, True, [100.0] * 5)
    remember(either, False, [0.0, 1.0] * 5)
    assert either.likely() == 0.95
    remember(either, True, [-100.0] * (RECENT // 2))
    assert either.likely() == 0.05


def test_a_state_that_is_put_back_goes_on_alike() -> None:
    first, second = trials(3), trials(3)
    rng = torch.Generator().manual_seed(0)
    remember(first, True, [1.0, 3.0])
    remember(first, False, [1.0, 2.0])
    first.plans(torch.rand(3, 1), rng)
    second.load_state_dict(first.state_dict())
    over = torch.ones(3, dtype=torch.bool)
    for either in (first, second):
        either.advance(step([1.0, 2.0, 3.0], [1.0] * 3, [0.0] * 3), over)
    assert first.likely() == second.likely() and first.advantage() == second.advantage()
