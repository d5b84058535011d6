"""What lies far from 1 is learnt in other units, what lies near stays as it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import SAC
from torch import nn

from dyna import units
from dyna.algorithms import MBDQN, MBPO
from dyna.base import DynaMixin
from dyna.units import Standardised, reward_unit, standardise_far
from dyna.world_model import EnsembleSettings
from tests.probes import ActionRewardEnv

WORLD = EnsembleSettings(members=2, elites=2, width=32, depth=1, max_updates=300, target="next_obs")


def test_only_dimensions_that_lie_far_from_one_are_standardised() -> None:
    policy = nn.Sequential(Standardised(spaces.Box(-np.inf, np.inf, (5,))))
    mean = torch.tensor([0.0, 1e6, 0.0, -50.0, 5.0])
    std = torch.tensor([1.0, 1e5, 1e-6, 20.0, 1.0])
    obs = mean + 2 * std
    torch.testing.assert_close(policy(obs[None])[0], obs, rtol=0, atol=0)
    standardise_far(policy, mean, std)
    torch.testing.assert_close(policy(obs[None])[0], torch.tensor([2.0, 2.0, 2.0, 2.0, 7.0]))


@pytest.mark.parametrize("scale", [0.02, 1.0, 16.27, 1e3])
def test_rewards_that_lie_near_one_stay_as_they_are(scale: float) -> None:
    assert reward_unit(scale * torch.tensor([0.0, 0.3, -1.0])) == 1.0


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e30])
def test_rewards_far_from_one_are_learnt_in_units_of_their_spread(scale: float) -> None:
    reward = scale * torch.randn(1_000, generator=torch.Generator().manual_seed(0))
    assert float((reward / reward_unit(reward)).std()) == pytest.approx(1.0, rel=0.1)
    assert float((torch.full((9,), scale) / reward_unit(torch.full((9,), scale))).mean()) == pytest.approx(10.0)
    assert reward_unit(torch.zeros(9)) == 1.0


class FarEnv(ActionRewardEnv):
    """One step, reward -(action - o)^2, in millions; o comes in millions and in millionths beside constants."""

    observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float32)
    reward_scale = 1e6

    def first_obs(self) -> np.ndarray:
        self.target = float(self.np_random.uniform(-1.0, 1.0))
        return np.array([1e6 * self.target, 1e-6 * self.target, 5.0, -3e6], np.float32)

    def outcome(self, action: float) -> tuple[float, bool]:
        return -self.reward_scale * (action - self.target) ** 2, True


class FaintRewardEnv(FarEnv):
    reward_scale = 1e-6


def missed(agent: DynaMixin | SAC, env: FarEnv) -> float:
    """Mean squared distance between the action and the best one; an action that is always 0 has 1/3."""
    env.reset(seed=1)
    errors = []
    for _ in range(100):
        obs, _ = env.reset()
        action, _ = agent.predict(obs, deterministic=True)
        errors.append((float(action[0]) - env.target) ** 2)
    return float(np.mean(errors))


@pytest.mark.parametrize("env", [FarEnv, FaintRewardEnv])
def test_mbpo_learns_in_any_units(env: type[FarEnv]) -> None:
    agent = MBPO(
        env=env(),
        seed=0,
        learning_starts=100,
        learning_rate=2e-3,
        gradient_steps=4,
        horizon=1,
        model_every=150,
        rollouts=20,
        world_model=WORLD,
        policy_kwargs={"net_arch": [32, 32]},
        device="cpu",
    )
    agent.learn(400)
    assert missed(agent, env()) < 0.1
    assert agent.world_model_metrics["holdout_error"] < 0.05
    assert float(agent.replay_buffer.all_transitions().obs.abs().max()) > 1e5  # buffers hold raw observations


def test_units_survive_saving(tmp_path_factory: pytest.TempPathFactory) -> None:
    settings = {"learning_starts": 30, "gradient_steps": 1, "world_model": WORLD, "policy_kwargs": {"net_arch": [8]}}
    agent = MBPO(env=FarEnv(), seed=0, device="cpu", **settings)  # type: ignore[arg-type]
    agent.learn(60)
    path = tmp_path_factory.mktemp("saved") / "agent.zip"
    agent.save(path)
    again = MBPO.load(path, device="cpu")
    obs = FarEnv().reset(seed=3)[0]
    np.testing.assert_array_equal(again.predict(obs, deterministic=True)[0], agent.predict(obs, deterministic=True)[0])
    assert again.reward_unit == agent.reward_unit != 1.0
    assert again.actor.features_extractor.std[0] > 1e5


def test_every_learner_on_branched_rollouts_sees_in_such_units() -> None:
    class Switch(FarEnv):
        action_space = spaces.Discrete(2)

        def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:  # type: ignore[override]
            return super().step(np.float32([2 * action - 1]))

    agent = MBDQN(env=Switch(), seed=0, learning_starts=30, gradient_steps=1, world_model=WORLD, device="cpu")
    agent.learn(60)
    seen = agent.q_net.features_extractor(torch.from_numpy(Switch().reset(seed=3)[0])[None])
    assert float(seen.abs().max()) < 10
    assert all(bool(module.known) for module in agent.policy.modules() if isinstance(module, Standardised))


def test_usual_rewards_are_those_of_the_newest_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "NEWEST", 1_000)
    rng = torch.Generator().manual_seed(0)
    old, new = 1_000.0 * torch.randn(1_000, generator=rng), torch.rand(1_000, generator=rng)
    assert units.usual_rewards(torch.cat([old, new])) == units.usual_rewards(new)
    assert units.usual_rewards(torch.cat([old, torch.zeros(1_000)])) == (0.0, 1.0)


def test_rewards_that_are_rare_spread_by_their_deviation() -> None:
    rare = torch.zeros(1_000)
    rare[:5] = -100.0
    assert units.usual_rewards(rare) == (0.0, pytest.approx(float(rare.std())))
