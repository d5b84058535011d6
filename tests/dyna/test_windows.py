"""A window is H steps of one episode, or fewer at its end, and windows never overlap."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from dyna.packed import PackedReplayBuffer
from dyna.windows import Windows, newest_steps


@given(done=st.lists(st.lists(st.booleans(), min_size=2, max_size=2), max_size=40), horizon=st.integers(1, 6))
def test_windows_stay_inside_episodes_and_do_not_overlap(done: list[list[bool]], horizon: int) -> None:
    windows = Windows(2, horizon)
    spent, age = torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
    for ends in done:
        waiting = windows.waiting()
        windows.begin(waiting, torch.zeros(len(waiting)), torch.zeros(len(waiting)))
        age += 1
        for closed in windows.advance(torch.tensor(ends)):
            assert (age[closed.envs] == closed.length).all() and closed.length <= horizon
            spent[closed.envs] += closed.length
            assert torch.tensor(ends)[closed.envs].all() or closed.length == horizon
            age[closed.envs] = 0
        assert not windows.age[torch.tensor(ends)].ge(0).any()
    assert (spent + age == len(done)).all()


def test_a_promise_comes_back_with_its_window() -> None:
    windows = Windows(3, 2)
    windows.begin(torch.tensor([0, 2]), torch.tensor([1.0, 3.0]), torch.tensor([0.5, float("nan")]))
    assert windows.waiting().tolist() == [1]
    (early,) = windows.advance(torch.tensor([True, True, False]))
    assert early.envs.tolist() == [0] and early.length == 1 and early.planned.tolist() == [1.0]
    (late,) = windows.advance(torch.tensor([False, False, False]))
    assert late.envs.tolist() == [2] and late.length == 2 and late.planned.tolist() == [3.0] and late.policy.isnan()


def test_what_is_dropped_never_closes() -> None:
    windows = Windows(2, 1)
    windows.begin(torch.tensor([0, 1]), torch.zeros(2), torch.zeros(2))
    windows.drop(torch.tensor([0]))
    assert [closed.envs.tolist() for closed in windows.advance(torch.zeros(2, dtype=torch.bool))] == [[1]]


def test_the_newest_steps_are_those_of_the_window_even_where_the_ring_wraps() -> None:
    space = spaces.Box(-1e6, 1e6, (1,), np.float32)
    replay = PackedReplayBuffer(14, space, spaces.Box(-1, 1, (1,)), "cpu", n_envs=2)  # seven steps of two environments
    windows = Windows(2, 3)
    for step in range(20):
        waiting = windows.waiting()
        windows.begin(waiting, torch.zeros(len(waiting)), torch.zeros(len(waiting)))
        obs = np.array([[step], [100 + step]], np.float32)
        replay.add(obs, obs + 1, np.zeros((2, 1)), obs[:, 0], np.array([False, step == 7]), [{}, {}])
        for closed in windows.advance(torch.tensor([False, step == 7])):
            steps = newest_steps(replay, closed)
            times = torch.arange(step - closed.length + 1, step + 1.0)[:, None]
            torch.testing.assert_close(steps.reward, times + 100 * closed.envs)
            torch.testing.assert_close(steps.next_obs[..., 0], steps.reward + 1)
            assert steps.obs.shape == (closed.length, len(closed.envs), 1)
