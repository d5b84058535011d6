"""The cart-poles are Gymnasium's but for the force, and the reward that is told is the reward that is paid."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from dyna import registry
from dyna.environments.cart_pole import CartPoleContinuous, CartPoleSwingUp, fallen, swing_up_reward

IDS = ["dyna/CartPoleContinuous-v0", "dyna/CartPoleSwingUp-v0"]


@pytest.mark.filterwarnings("ignore:.*A Box observation space (min|max)imum value is -?infinity")  # so it is
@pytest.mark.parametrize("env", IDS)
def test_gymnasium_knows_them(env: str) -> None:
    registry.environments()
    made = gym.make(env)
    check_env(made.unwrapped, skip_render_check=True)
    made.reset(seed=0)
    assert made.spec is not None and made.spec.max_episode_steps == 200


def test_at_full_force_it_is_gymnasiums() -> None:
    ours, theirs = CartPoleContinuous(), gym.make("CartPole-v1").unwrapped
    first, second = ours.reset(seed=4)[0], theirs.reset(seed=4)[0]
    for push in (1, 0, 1, 1, 0, 0, *[1] * 10):
        np.testing.assert_allclose(first, second, rtol=1e-6)
        first, reward, ended, *_ = ours.step(np.array([2.0 * push - 1.0]))
        second, their_reward, their_end, *_ = theirs.step(push)
        assert (reward, ended) == (their_reward, their_end)
    assert ended


def test_without_force_the_pole_falls_more_slowly() -> None:
    steps = []
    for force in (0.0, 1.0):
        env = CartPoleContinuous()
        env.reset(seed=4)
        steps.append(next(step for step in range(200) if env.step(np.array([force]))[2]))
    assert steps[0] > steps[1]


def test_the_reward_that_is_told_is_the_one_that_is_paid() -> None:
    env = CartPoleSwingUp()
    obs, _ = env.reset(seed=1)
    assert obs[3] < -0.9  # it hangs
    rng = np.random.default_rng(0)
    for _ in range(100):
        action = rng.uniform(-1, 1, 1).astype(np.float32)
        next_obs, reward, terminated, truncated, _ = env.step(action)
        told = swing_up_reward(*(torch.as_tensor(part)[None] for part in (obs, action, next_obs)))
        assert told.shape == (1,) and float(told[0]) == pytest.approx(reward, abs=1e-6)
        assert not terminated and not truncated
        obs = next_obs
    up = np.array([0.0, 0.0, 0.0, 1.0, 0.0])
    assert swing_up_reward(up, np.zeros(1), up) == 1.0
    assert swing_up_reward(up, np.ones(1), up) == pytest.approx(0.99)


def test_the_end_that_is_told_is_the_one_that_comes() -> None:
    places = torch.tensor([[0.0, 9, 0, 9], [2.5, 0, 0, 0], [-2.5, 0, 0, 0], [0, 0, 0.21, 0], [0, 0, -0.21, 0]])
    assert fallen(places, None, places).tolist() == [False, True, True, True, True]
    for place in places:
        env = CartPoleContinuous()
        env.reset(seed=0)
        env.state = tuple(place * torch.tensor([1, 0, 1, 0]))
        assert env.step(np.zeros(1))[2] == bool(fallen(place, None, place))
