"""Every preset names what exists, and an algorithm can be made from it for its environment."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import gymnasium
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

from dyna import config, hyperparameters, presets, registry
from dyna.algorithms import TABLE

PRESETS = [(algo, env) for algo in TABLE for env in presets.blocks_of(algo)]
NOT_MADE = {  # Box2D is an extra that the tests do without, and a maze needs a map
    "LunarLander-v3": (spaces.Box(-10, 10, (8,)), spaces.Discrete(4)),
    "LunarLanderContinuous-v3": (spaces.Box(-10, 10, (8,)), spaces.Box(-1, 1, (2,))),
    "dyna/Maze-v0": (spaces.Discrete(6), spaces.Discrete(4)),
}


@functools.cache
def spaces_of(env: str) -> tuple[gymnasium.Space[Any], gymnasium.Space[Any]]:
    assert env in registry.environments()
    if env in NOT_MADE:
        return NOT_MADE[env]
    made = gymnasium.make(env)
    made.close()
    return made.observation_space, made.action_space


def stand_in(env: str) -> gymnasium.Env[Any, Any]:
    """An environment with the spaces of another and no physics."""
    made: gymnasium.Env[Any, Any] = gymnasium.Env()
    made.observation_space, made.action_space = spaces_of(env)
    return made


def test_every_algorithm_has_presets() -> None:
    assert {algo for algo, _ in PRESETS} == set(TABLE)


@pytest.mark.parametrize(("algo", "env"), PRESETS)
def test_a_preset_holds_settings_of_a_run_for_an_environment_that_exists(algo: str, env: str) -> None:
    block = presets.blocks_of(algo)[env]
    assert set(block) <= {field.name for field in dataclasses.fields(config.RunConfig)} - {
        "env",
        "algo",
        "seed",
        "runs",
    }
    assert env == "default" or env in registry.environments()


# RL Zoo's batches for PPO on three environments are larger than what is collected between two updates; SB3 takes all.
@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size of")
@pytest.mark.parametrize(("algo", "env"), [(algo, env) for algo, env in PRESETS if env != "default"])
def test_a_preset_makes_the_algorithm_that_it_describes(algo: str, env: str) -> None:
    settings = config.resolve({"algo": algo, "env": env})
    observation_space, action_space = spaces_of(env)
    cls = registry.find(algo, action_space)
    given = dict(settings.hyperparameters)
    if "buffer_size" in {knob.name for knob in hyperparameters.knobs(cls)}:
        given["buffer_size"] = 1_000  # as tuned, a buffer for Humanoid takes gigabytes
    arguments = hyperparameters.build(cls, given, observation_space=observation_space, action_space=action_space)
    envs = DummyVecEnv([functools.partial(stand_in, env)] * settings.n_envs)
    agent = cls(env=envs, device="cpu", **arguments)
    assert agent.n_envs == settings.n_envs
    for name in {"gamma", "n_steps", "batch_size", "n_delta"} & set(given):
        assert getattr(agent, name) == given[name]
