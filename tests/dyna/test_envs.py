"""Any environment is found by name, or refused in one sentence; what it returns is guarded."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.vec_env import VecNormalize

from dyna import envs
from dyna.config import RunConfig
from dyna.errors import UserError

SOURCE = """
import gymnasium as gym
import numpy as np

class Walk(gym.Env):
    observation_space = gym.spaces.Box(-10, 10, (1,))
    action_space = gym.spaces.Discrete(2)

    def __init__(self, length=3, render_mode=None):
        if length < 1:
            raise ValueError("too short")
        self.length = length
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = 0.0
        return np.array([self.place], np.float32), {}

    def step(self, action):
        self.place += 1.0
        return np.array([self.place], np.float32), 1.0, self.place >= self.length, False, {}

class Graphs(Walk):
    observation_space = gym.spaces.Text(3)

class Unbounded(Walk):
    action_space = gym.spaces.Box(-np.inf, np.inf, (1,))

class Stuck(Walk):
    action_space = gym.spaces.Box(np.float32([-1, 2]), np.float32([1, 2]))

class Whole(Walk):
    action_space = gym.spaces.Box(0, 3, (1,), np.int64)

class Both(Walk):
    action_space = gym.spaces.Dict({"a": gym.spaces.Discrete(2)})

class Camera(Walk):
    observation_space = gym.spaces.Dict({"camera": gym.spaces.Box(0, 255, (36, 36, 3), np.uint8)})

class Blank(Walk):
    observation_space = gym.spaces.Box(-1, 1, (0,))

class Nothing(gym.Env):
    pass

class Blind(Walk):
    def __init__(self, render_mode=None):
        super().__init__()

not_a_class = 3
gym.register("Registered-v3", entry_point=Walk, max_episode_steps=7)
"""
_names = itertools.count()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module in the current folder, under a name of its own."""
    name = f"my_env_{next(_names)}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield name
    sys.modules.pop(name, None)
    gym.registry.pop("Registered-v3", None)


def test_a_class_in_the_current_folder_is_made_with_its_arguments(module: str) -> None:
    env = envs.make_one(RunConfig(env=f"{module}:Walk", env_kwargs={"length": 5}))
    assert env.unwrapped.length == 5  # type: ignore[attr-defined]


def test_a_class_is_given_a_time_limit_as_an_id_is(module: str) -> None:
    for name in ("Walk", "Registered-v3"):
        env = envs.make_one(RunConfig(env=f"{module}:{name}", env_kwargs={"length": 50, "max_episode_steps": 2}))
        env.reset(seed=0)
        assert [env.step(0)[3] for _ in range(2)] == [False, True]
    with pytest.raises(UserError, match="cannot be made with {'max_episode_steps': -2}"):
        envs.make_one(RunConfig(env=f"{module}:Walk", env_kwargs={"max_episode_steps": -2}))


def test_an_id_that_a_module_registers_is_made_with_its_time_limit(module: str) -> None:
    env = envs.make_one(RunConfig(env=f"{module}:Registered-v3"))
    assert env.spec is not None
    assert env.spec.max_episode_steps == 7


@pytest.mark.parametrize(
    ("env", "sentence"),
    [
        (
            "Pendulun-v1",
            "unknown environment 'Pendulun-v1': the nearest is 'Pendulum-v1', and `dyna list environments`",
        ),
        (
            "no_such_module:Env",
            "no module 'no_such_module' for the environment 'no_such_module:Env': put no_such_module.py",
        ),
        (
            "odd.py:F64",
            "the environment 'odd.py:F64' names a file where a module belongs: write the environment 'odd:F64'",
        ),
        ("./tasks/odd.py:F64", "write the environment 'tasks.odd:F64'"),
        ("{}:Wark", "unknown environment '{0}:Wark': the nearest is '{0}:Walk'"),
        ("{}:Registered-v4", "unknown environment '{}:Registered-v4'"),
        ("{}:not_a_class", "'{}:not_a_class' must be a gymnasium.Env class, got 3"),
        ("{}:np", "must be a gymnasium.Env class, got <module 'numpy'"),
    ],
)
def test_a_name_that_leads_nowhere_is_told_in_a_sentence(module: str, env: str, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        envs.check_id(env.format(module))
    assert sentence.format(module) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [("import not_installed_anywhere", "needs 'not_installed_anywhere'"), ("1 / 0", "ZeroDivisionError")],
)
def test_a_module_that_cannot_be_imported_is_told_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, sentence: str
) -> None:
    name = f"my_broken_env_{next(_names)}"
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(UserError, match=sentence):
        envs.check_id(f"{name}:Env")


@pytest.mark.parametrize(
    ("env", "kwargs", "sentence"),
    [
        ("Walk", {"length": 0}, "cannot be made with {'length': 0}: ValueError: too short"),
        ("Walk", {"width": 3}, "unexpected keyword argument 'width'"),
        ("Graphs", {}, "has Text observations, which no algorithm takes"),
        ("Unbounded", {}, "give its Box a finite low and high"),
        ("Stuck", {}, "has an action that cannot vary, Box([-1.  2.], [1. 2.], (2,), float32): leave out what has low"),
        ("Whole", {}, "has a Box of whole numbers for actions, Box(0, 3, (1,), int64): make it a Discrete"),
        ("Both", {}, "has Dict actions, which no algorithm takes: Box, Discrete, MultiDiscrete, MultiBinary work"),
        ("Camera", {}, "observes the image camera, Box(0, 255, (36, 36, 3), uint8), beside other things"),
        ("Blank", {}, "observes nothing"),
        ("Nothing", {}, "has no observation_space: set it"),
    ],
)
def test_an_environment_that_nothing_can_use_is_refused(module: str, env: str, kwargs: Any, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        envs.make(RunConfig(env=f"{module}:{env}", env_kwargs=kwargs))
    assert sentence in str(caught.value)


def test_a_render_mode_that_is_missing_is_refused(module: str) -> None:
    with pytest.raises(UserError, match="Blind has no render mode 'rgb_array', it has none"):
        envs.make_evaluation(RunConfig(env=f"{module}:Blind"), "rgb_array")


def test_environment_i_is_seeded_with_seed_plus_i() -> None:
    env = envs.make(RunConfig(env="CartPole-v1", n_envs=3))
    env.seed(5)
    alone = [gym.make("CartPole-v1").reset(seed=5 + i)[0] for i in range(3)]
    np.testing.assert_array_equal(env.reset(), np.stack(alone))
    env.close()


def test_normalisation_takes_the_discount_of_the_algorithm_and_leaves_evaluation_alone() -> None:
    config = RunConfig(env="Pendulum-v1", normalize={"clip_obs": 3.0}, hyperparameters={"gamma": 0.5})
    training, evaluation = envs.make(config), envs.make_evaluation(config)
    assert isinstance(training, VecNormalize)
    assert isinstance(evaluation, VecNormalize)
    assert (training.gamma, training.clip_obs, training.training) == (0.5, 3.0, True)
    assert (evaluation.training, evaluation.norm_reward) == (False, False)


def test_normalisation_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match="normalize=.*does not fit"):
        envs.make(RunConfig(env="Pendulum-v1", normalize={"clip": 3}))


def test_episodes_are_logged_where_sb3s_tools_look_for_them(tmp_path: Path) -> None:
    env = envs.make(RunConfig(env="CartPole-v1", n_envs=2))
    envs.log_episodes(env, tmp_path, append=False)
    env.seed(0)
    env.reset()
    for _ in range(60):
        env.step(np.ones(2, dtype=np.int64))
    env.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.monitor.csv", "monitor.csv"]
    lines = [line for path in tmp_path.iterdir() for line in path.read_text().splitlines()]
    assert len(lines) >= 2 * 2 + 10  # a comment and the columns each, and the episodes
