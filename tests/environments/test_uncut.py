"""An environment that shows whole velocities is Gymnasium's in all else."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import dyna.environments  # noqa: F401 - registers them

CUT = 10.0  # where Gymnasium cuts velocities


@pytest.mark.parametrize(("cut", "uncut"), [("Hopper-v5", "HopperUncut"), ("Walker2d-v5", "Walker2dUncut")])
@pytest.mark.parametrize("kwargs", [{}, {"exclude_current_positions_from_observation": False}])
def test_only_what_was_cut_differs(cut: str, uncut: str, kwargs: dict[str, bool]) -> None:
    ours, theirs = gym.make(f"dyna/{uncut}-v0", **kwargs), gym.make(cut, **kwargs)
    assert ours.observation_space == theirs.observation_space
    theirs.action_space.seed(0)
    seen, expected = ours.reset(seed=1)[0], theirs.reset(seed=1)[0]
    for _ in range(100):
        np.testing.assert_array_equal(at_most(seen, theirs), expected)
        action = theirs.action_space.sample()
        (seen, *told, _), (expected, *said, _) = ours.step(action), theirs.step(action)
        assert told == said
        if any(told[1:]):
            seen, expected = ours.reset()[0], theirs.reset()[0]


@pytest.mark.parametrize("name", ["dyna/HopperUncut-v0", "dyna/Walker2dUncut-v0"])
def test_fast_joints_are_seen_as_they_are(name: str) -> None:
    env: Any = gym.make(name).unwrapped
    env.reset(seed=0)
    env.set_state(env.init_qpos, np.full_like(env.init_qvel, -1.5 * CUT))
    assert (env._get_obs()[-len(env.init_qvel) :] == -1.5 * CUT).all()


def at_most(seen: np.ndarray, env: gym.Env[Any, Any]) -> np.ndarray:
    """The same with velocities cut."""
    velocities: Any = env.unwrapped
    seen[-velocities.data.qvel.size :] = seen[-velocities.data.qvel.size :].clip(-CUT, CUT)
    return seen


def test_time_limits_and_thresholds_are_gymnasiums() -> None:
    for cut, uncut in (("Hopper-v5", "dyna/HopperUncut-v0"), ("Walker2d-v5", "dyna/Walker2dUncut-v0")):
        ours, theirs = gym.spec(uncut), gym.spec(cut)
        assert ours.max_episode_steps == theirs.max_episode_steps == 1_000
        assert ours.reward_threshold == theirs.reward_threshold
