"""A policy that plans does so with its agent's world model, and by the hyperparameters that its agent names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.policies import BasePolicy

from dyna import hyperparameters
from dyna.algorithms.pets import PETS
from dyna.algorithms.planfirst import PlanFirst
from dyna.algorithms.planfirst_discrete import DiscretePlanFirst
from dyna.errors import UserError
from dyna.world_model import EnsembleSettings

TINY: dict[str, Any] = {
    "device": "cpu",
    "learning_starts": 40,
    "horizon": 3,
    "candidates": 12,
    "elites": 4,
    "iterations": 1,
    "world_model": EnsembleSettings(members=3, elites=2, width=8, depth=1, max_updates=2),
}
AT_SET_UP = {"horizon", "reward_fn", "termination_fn"}
PLANNERS = [(PlanFirst, "Pendulum-v1"), (DiscretePlanFirst, "CartPole-v1"), (PETS, "Pendulum-v1")]


@pytest.mark.parametrize(("cls", "name"), PLANNERS)
def test_a_policy_that_was_loaded_alone_says_what_it_lacks(
    cls: type[PlanFirst | DiscretePlanFirst | PETS], name: str, tmp_path: Path
) -> None:
    agent = cls(env=gym.make(name), device="cpu")
    agent.policy.save(tmp_path / "policy.zip")
    alone: BasePolicy = type(agent.policy).load(tmp_path / "policy.zip", device="cpu")
    with pytest.raises(UserError, match=f"a {type(alone).__name__} plans with .*: load the agent and call its predict"):
        alone.predict(agent.observation_space.sample())


@pytest.mark.parametrize(("cls", "name"), PLANNERS)
def test_a_deterministic_action_is_the_same_whatever_else_is_asked(
    cls: type[PlanFirst | DiscretePlanFirst | PETS], name: str
) -> None:
    more = {} if cls is PETS else {"policy_plans": 2, "policy_kwargs": {"net_arch": [8]}}
    agent = cls(env=gym.make(name), **{**TINY, **more}).learn(42)
    agent.action_space.seed(0)
    obs = np.stack([agent.observation_space.sample().clip(-1.0, 1.0) for _ in range(4)])
    warm = np.stack([agent.policy.blank[0].numpy() + (0.5 if i == 2 else 0.0) for i in range(4)])
    together, after = agent.policy.predict(obs, (warm,), deterministic=True)
    assert after is not None
    for i in range(4):
        alone, its = agent.policy.predict(obs[i], (warm[i : i + 1],), deterministic=True)
        assert its is not None
        np.testing.assert_allclose(alone, together[i], rtol=1e-5)
        np.testing.assert_allclose(its[0][0], after[0][i], rtol=1e-5)


@pytest.mark.parametrize(("cls", "name"), PLANNERS)
def test_what_an_agent_plays_by_is_what_it_reads_while_it_plays(
    cls: type[PlanFirst | DiscretePlanFirst | PETS], name: str
) -> None:
    read: set[str] = set()

    class Watched(cls):  # type: ignore[misc, valid-type]
        def __getattribute__(self, asked: str) -> Any:
            read.add(asked)
            return super().__getattribute__(asked)

    more = {} if cls is PETS else {"policy_plans": 2, "acting": "confident", "policy_kwargs": {"net_arch": [8]}}
    agent = Watched(env=gym.make(name), **{**TINY, **more}).learn(42)
    obs = torch.as_tensor(agent.observation_space.sample()).unsqueeze(0)
    read.clear()
    agent.policy.respond(obs, agent.policy.blank, False, torch.Generator())
    known = {knob.name for knob in hyperparameters.knobs(cls)} - {"policy"}
    assert read & known == set(cls.plays_by) - AT_SET_UP | read & AT_SET_UP
    assert set(cls.plays_by) <= known
