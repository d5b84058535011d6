"""A policy that plans does so with its agent's world model."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import pytest
from stable_baselines3.common.policies import BasePolicy

from dyna.algorithms.pets import PETS
from dyna.algorithms.planfirst import PlanFirst
from dyna.algorithms.planfirst_discrete import DiscretePlanFirst
from dyna.errors import UserError


@pytest.mark.parametrize(
    ("cls", "name"), [(PlanFirst, "Pendulum-v1"), (DiscretePlanFirst, "CartPole-v1"), (PETS, "Pendulum-v1")]
)
def test_a_policy_that_was_loaded_alone_says_what_it_lacks(
    cls: type[PlanFirst | DiscretePlanFirst | PETS], name: str, tmp_path: Path
) -> None:
    agent = cls(env=gym.make(name), device="cpu")
    agent.policy.save(tmp_path / "policy.zip")
    alone: BasePolicy = type(agent.policy).load(tmp_path / "policy.zip", device="cpu")
    with pytest.raises(UserError, match=f"a {type(alone).__name__} plans with .*: load the agent and call its predict"):
        alone.predict(agent.observation_space.sample())
