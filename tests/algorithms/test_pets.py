"""Laws of PETS; what it reaches on its cart-pole is told in docs/experiments.md."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.sac.policies import SACPolicy

from dyna.algorithms.pets import PETS
from dyna.errors import UserError
from dyna.world_model import EnsembleSettings
from tests.probes import ActionRewardEnv, ProbeEnv, TerminationEnv

WORLD = EnsembleSettings(members=3, elites=2, width=32, depth=1, max_updates=300, target="delta")
TINY: dict[str, Any] = {
    "seed": 3,
    "device": "cpu",
    "learning_starts": 100,
    "model_every": 50,
    "horizon": 3,
    "candidates": 30,
    "elites": 5,
    "particles": 2,
    "world_model": WORLD,
}


class AimEnv(ActionRewardEnv):
    """Goes on with another observation, and actions have another unit: the best one is 10 + 5 times the observation."""

    action_space = gym.spaces.Box(5.0, 15.0, (1,), np.float32)

    def outcome(self, action: float) -> tuple[float, bool]:
        reward, _ = super().outcome((action - 10) / 5)
        self.obs = self.first_obs()
        return reward, False


@pytest.fixture(scope="module")
def planner() -> PETS:
    return PETS(env=AimEnv(), **TINY).learn(160)


OBS = np.array([[-0.6], [0.1], [0.7]], np.float32)


@pytest.mark.parametrize("planner_name", ["icem", "cem"])
@pytest.mark.parametrize("propagation", ["ts_inf", "ts1"])
def test_it_finds_the_best_action_with_a_reward_that_was_learned(planner_name: Any, propagation: Any) -> None:
    agent = PETS(env=AimEnv(), planner=planner_name, propagation=propagation, **{**TINY, "candidates": 100}).learn(201)
    actions, _ = agent.predict(OBS, deterministic=True)
    np.testing.assert_allclose(actions, 10 + 5 * OBS, atol=1.5)


def test_a_reward_that_is_given_is_planned_with() -> None:
    agent = PETS(
        env=ActionRewardEnv(), reward_fn=lambda o, a, n: -((a - o)[:, 0] ** 2), **{**TINY, "candidates": 100}
    ).learn(101)
    np.testing.assert_allclose(agent.predict(OBS, deterministic=True)[0], OBS, atol=0.15)


def test_it_avoids_an_end_that_costs_rewards() -> None:
    agent = PETS(env=TerminationEnv(), **TINY).learn(200)
    assert agent.predict(np.zeros((1, 1), np.float32), deterministic=True)[0] < 0
    assert evaluate_policy(agent, TerminationEnv(), n_eval_episodes=1, warn=False)[0] == ProbeEnv.limit


def test_there_is_no_rl(planner: PETS) -> None:
    assert planner.updates["critic"] == planner.updates["actor"] == 0
    assert planner.updates["model"] > 0 and planner.updates["plans"] == 59
    assert list(planner.policy.parameters()) == []


def test_no_plan_is_made_before_the_first_fit() -> None:
    versions = []

    class Watched(PETS):
        def plan(self, *args: Any) -> Any:
            versions.append(self.world_model.version)
            return super().plan(*args)

    Watched(env=AimEnv(), **{**TINY, "learning_starts": 0}).learn(40)
    assert versions and min(versions) == 1


def test_playing_changes_nothing_of_the_training(planner: PETS) -> None:
    before = planner.rng.get_state(), planner.warm_start.clone(), torch.random.get_rng_state()
    first, second = (planner.predict(OBS, deterministic=True)[0] for _ in range(2))
    assert np.array_equal(first, second)
    assert torch.equal(planner.rng.get_state(), before[0]) and torch.equal(planner.warm_start, before[1])
    assert torch.equal(torch.random.get_rng_state(), before[2])
    assert not np.array_equal(planner.predict(OBS)[0], planner.predict(OBS)[0])


def test_before_the_first_fit_it_acts_at_random_or_in_the_middle() -> None:
    agent = PETS(env=gym.make("Pendulum-v1"), **TINY)
    assert not agent.predict(np.ones((2, 3), np.float32), deterministic=True)[0].any()
    drawn = agent.predict(np.zeros((500, 3), np.float32))[0]
    assert drawn.shape == (500, 1) and abs(drawn).max() <= 2.0 and 1.0 < drawn.std() < 1.3


def test_one_observation_gives_one_action(planner: PETS) -> None:
    action, state = planner.predict(OBS[0], deterministic=True)
    assert action.shape == (1,) and planner.env is not None and planner.env.action_space.contains(action)
    assert state is not None and state[0].shape == (1, 3, 3, 1)  # the mean and two elites of three steps


def test_a_plan_goes_on_where_the_last_one_was_and_an_episodes_start_forgets_it(planner: PETS) -> None:
    fresh, state = planner.predict(OBS, deterministic=True)
    seen: list[torch.Tensor] = []
    plan = planner.plan
    planner.plan = lambda obs, warm, rng: seen.append(warm) or plan(obs, warm, rng)  # type: ignore[func-returns-value,method-assign]
    try:
        planner.predict(OBS, state, np.array([False, True, False]), deterministic=True)
    finally:
        del planner.plan  # type: ignore[method-assign]
    assert state is not None
    warm = torch.cat(seen)
    assert not warm[1].any() and torch.equal(warm[::2], torch.as_tensor(state[0])[::2])


def test_a_new_episode_starts_without_a_plan() -> None:
    agent = PETS(env=TerminationEnv(), **{**TINY, "learning_starts": 1}).learn(ProbeEnv.limit - 5)
    ends = agent.replay_buffer.all_transitions().terminated
    assert bool(agent.warm_start.any()) != bool(ends[-1])


def test_it_plans_the_same_when_it_was_saved(planner: PETS, tmp_path: Path) -> None:
    planner.save(tmp_path / "agent")
    loaded = PETS.load(tmp_path / "agent", device="cpu")
    assert np.array_equal(loaded.predict(OBS, deterministic=True)[0], planner.predict(OBS, deterministic=True)[0])
    loaded.set_env(gym.wrappers.TimeLimit(AimEnv(), 5))
    loaded.learn(10, reset_num_timesteps=False)
    assert loaded.updates["plans"] == 69


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"horizon": 0}, "horizon must be a whole number of at least 1, got 0"),
        ({"particles": 2.0}, "particles must be a whole number of at least 1, got 2.0"),
        ({"elites": 31}, r"elites must be between 1 and candidates \(30\), got 31"),
        ({"particles": 3}, r"particles must be a multiple of world_model.elites \(2\), got 3"),
        ({"policy": SACPolicy}, "policy must be MlpPolicy or a PlanningPolicy, got SACPolicy"),
        ({"planner": "mppi"}, "planner must be icem or cem, got 'mppi'"),
        ({"propagation": "ts2"}, "propagation must be ts_inf or ts1, got 'ts2'"),
    ],
)
def test_settings_without_a_plan_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        PETS(env=ActionRewardEnv(), **{**TINY, **wrong})


def test_discrete_actions_are_refused_with_an_alternative() -> None:
    with pytest.raises(UserError, match=r"Box actions are needed, got Discrete\(2\): MBDQN takes Discrete ones"):
        PETS(env="CartPole-v1")
