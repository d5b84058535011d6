"""An environment that shows whole velocities is Gymnasium's in all else."""

import gymnasium as gym
import numpy as np
import pytest

CUT = 10.0  # where Gymnasium cuts velocities


@pytest.mark.parametrize(("cut", "uncut"), [("Hopper-v5", "HopperUncut"), ("Walker2d-v5", "Walker2dUncut")])
@pytest.mark.parametrize("kwargs", [{}, {"exclude_current_positions_from_observation": False}])
def test_only_what_was_cut_differs(cut: str, uncut: str, kwargs: dict[str, bool]) -> None:
    ours, theirs = gym.make(f"dyna/{uncut}-v0", **kwargs), gym.make(cut, **kwargs)
    assert ours.observation_space == theirs.observation_space
    theirs.action_space.seed(0)
    seen, expected = ours.reset(seed=1)[0], theirs.reset(seed=1)[0]
    beyond = 0
    for _ in range(300):
        velocities = slice(-theirs.unwrapped.data.qvel.size, None)  # type: ignore[attr-defined]
        beyond += int((np.abs(seen[velocities]) > CUT).any())
        seen[velocities] = seen[velocities].clip(-CUT, CUT)
        np.testing.assert_array_equal(seen, expected)
        action = theirs.action_space.sample()
        (seen, *told, _), (expected, *said, _) = ours.step(action), theirs.step(action)
        assert told == said
        if any(told[1:]):
            seen, expected = ours.reset()[0], theirs.reset()[0]
    assert beyond > 0


def test_the_time_limit_is_gymnasiums() -> None:
    for cut, uncut in (("Hopper-v5", "dyna/HopperUncut-v0"), ("Walker2d-v5", "dyna/Walker2dUncut-v0")):
        assert gym.spec(uncut).max_episode_steps == gym.spec(cut).max_episode_steps
