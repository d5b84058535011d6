"""Every algorithm trains on any environment: whatever it observes, however many there are, and resumes exactly."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import Tensor

import dyna.algorithms
from dyna import checkpoint, evaluate, hyperparameters, registry, runs
from dyna.algorithms import MBPO
from dyna.config import RunConfig
from dyna.errors import UserError
from dyna.spaces import names
from dyna.train import train
from dyna.tree import same
from dyna.world_model import EnsembleSettings
from tests.dyna.test_resume import killed_at
from tests.exactness import end
from tests.probes import AnyDiscreteEnv, AnyEnv, CategoriesEnv, ImageEnv, UnevenEnv

SMALL: dict[str, Any] = {
    "policy_kwargs": {"net_arch": [8]},
    "learning_starts": 24,
    "batch_size": 8,
    "buffer_size": 90,
    "gradient_steps": 1,
    "model_every": 30,
    "rollouts": 3,
    "world_model": {"members": 2, "elites": 2, "width": 8, "depth": 1, "max_updates": 10, "target": "delta"},
    "n_delta": 2,
    "n_epochs": 2,
}


def small(algo: str) -> dict[str, Any]:
    """The settings above that an algorithm has."""
    cls = registry.find(algo)
    names = {knob.name.partition(".")[0] for knob in hyperparameters.knobs(cls)}
    settings = {name: copy.deepcopy(value) for name, value in SMALL.items() if name in names}
    return settings | ({"n_steps": 8} if issubclass(cls, OnPolicyAlgorithm) else {})


def fitting(cls: type[BaseAlgorithm]) -> type[AnyEnv]:
    """The one of the mixed environments that an algorithm takes."""
    if "MlpPolicy" not in cls.policy_aliases:  # it keeps a table
        return CategoriesEnv
    return AnyEnv if "Box" in registry.action_spaces(cls) else AnyDiscreteEnv


def make(algo: str, folder: Path, **more: Any) -> RunConfig:
    settings: dict[str, Any] = {
        "env": f"tests.probes:{fitting(registry.find(algo)).__name__}",
        "algo": algo,
        "steps": 96,
        "hyperparameters": small(algo),
        "n_envs": 3,
        "eval_every": 48,
        "eval_episodes": 1,
        "checkpoint_every": 21,
        "device": "cpu",
        "runs": folder,
    }
    return RunConfig(**settings | more)


def go(config: RunConfig, **more: Any) -> runs.Run:
    return train(config, progress=False, **more)


@pytest.mark.parametrize("algo", dyna.algorithms.TABLE)
def test_three_environments_of_mixed_observations_train_and_resume_exactly(
    algo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = go(make(algo, tmp_path / "whole"))
    assert whole.summary()["status"] == "finished"
    assert algo == "ars" or sum(whole.summary()["updates"].values()) > 0  # ARS makes steps without a gradient
    assert whole.meta()["observations"] == names(fitting(registry.find(algo)).observation_space)
    config = make(algo, tmp_path / "killed")
    killed_at(60, lambda: go(config), monkeypatch)
    (run,) = runs.find_all(config.runs)
    assert same(end(go(config, resume=run.path)), end(whole))


@pytest.mark.parametrize("algo", ["sac", "mbpo"])
def test_an_endless_episode_is_saved_in_its_midst_resumed_exactly_and_evaluated_as_far_as_a_limit(
    algo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evaluate, "EPISODE_LIMIT", 13)
    endless = {"env": "tests.probes:EndlessEnv", "n_envs": 1}
    whole = go(make(algo, tmp_path / "whole", **endless))
    assert whole.summary()["status"] == "finished" and not (whole.path / "monitor.csv").read_text().splitlines()[2:]
    config = make(algo, tmp_path / "killed", **endless)
    killed_at(60, lambda: go(config), monkeypatch)
    (run,) = runs.find_all(config.runs)
    assert checkpoint.steps(run.checkpoints) == [42]
    assert same(end(go(config, resume=run.path)), end(whole))
    assert capsys.readouterr().err.count("cut after 13 steps, since the environment sets no time limit") == 3


@pytest.mark.parametrize("algo", ["sac", "ppo", "mbpo"])
def test_what_an_info_is_called_changes_nothing(algo: str, tmp_path: Path) -> None:
    quiet, talkative = (go(make(algo, tmp_path, env=f"tests.probes:{env}")) for env in ("AnyEnv", "TalkativeEnv"))
    learned = [(run.path / "last_model.safetensors").read_bytes() for run in (quiet, talkative)]
    assert learned[0] == learned[1]
    assert quiet.summary()["final_return_mean"] == talkative.summary()["final_return_mean"]


@pytest.mark.parametrize("algo", ["sac", "mbpo"])
@pytest.mark.parametrize("env", ["OneStepEnv", "TwoStepEnv"])
def test_episodes_may_be_as_short_as_a_step(algo: str, env: str, tmp_path: Path) -> None:
    run = go(make(algo, tmp_path, env=f"tests.probes:{env}"))
    assert run.summary()["status"] == "finished"
    assert run.summary()["final_return_mean"] == 1.0


def test_sac_learns_among_millions_and_millionths_where_they_are_normalised(tmp_path: Path) -> None:
    more = {"learning_rate": 3e-3, "batch_size": 64, "buffer_size": 1_000, "policy_kwargs": {"net_arch": [32]}}
    config = make("sac", tmp_path, env="tests.dyna.test_units:FarEnv", normalize=True, n_envs=1, steps=450)
    config = dataclasses.replace(
        config, hyperparameters=small("sac") | more, eval_every=450, eval_episodes=50, checkpoint_every=450
    )
    assert go(config).summary()["final_return_mean"] > -1e5  # an action that is always 0 has -1e6 / 3


def test_actions_are_in_minus_one_to_one_everywhere_but_at_the_environment() -> None:
    seen = []

    def reward_fn(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        seen.append(action)
        return 10.5 + 0.5 * action[:, 1]  # of the bounds 10 and 11

    env = UnevenEnv()
    settings = small("mbpo") | {"world_model": EnsembleSettings(**SMALL["world_model"])}
    agent = MBPO(env=env, seed=0, device="cpu", reward_fn=reward_fn, **settings)
    agent.learn(100)  # the fit refuses a function that disagrees with what the environment did
    low, high = env.action_space.low, env.action_space.high
    stored = agent.replay_buffer.all_transitions().action.numpy()
    np.testing.assert_allclose(low + (stored + 1) / 2 * (high - low), env.handed[-len(stored) :], atol=1e-5)
    imagined = agent.imagined.sample_transitions(50).action.numpy()
    for action in (stored, imagined, *(each.numpy() for each in seen)):
        assert abs(action).max() <= 1
    assert stored.min() < -0.8 and stored.max() > 0.8
    obs = env.reset(seed=1)[0]
    assert env.action_space.contains(agent.predict(obs, deterministic=True)[0])


def test_an_image_is_left_to_a_policy_that_sees(tmp_path: Path) -> None:
    run = go(make("ppo", tmp_path, env="tests.probes:ImageEnv", steps=48))
    assert run.summary()["status"] == "finished"
    assert run.meta()["observations"] == []
    with pytest.raises(UserError, match="mbpo takes no images.*: choose sac or td3 or ddpg or ppo or a2c or tqc or"):
        go(make("mbpo", tmp_path, env="tests.dyna.test_any_environment:ContinuousImageEnv"))


class ContinuousImageEnv(ImageEnv):
    action_space = UnevenEnv.action_space


def test_an_episode_of_images_that_cannot_be_brought_about_gives_way_to_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make("ppo", tmp_path, env="tests.probes:ImageEnv", eval_every=0)
    killed_at(60, lambda: go(config), monkeypatch)
    (run,) = runs.find_all(config.runs)
    monkeypatch.setattr(ImageEnv, "moved", lambda self, action: 0.5)
    assert go(config, resume=run.path).summary()["status"] == "finished"
    assert "the recorded actions lead to another observation" in capsys.readouterr().err
