"""Every observation becomes one vector, and each of its numbers has a name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import PPO

from dyna import agents, envs
from dyna.config import RunConfig
from dyna.spaces import flattened, is_vector, learnable, names
from tests.probes import AnyEnv, CategoriesEnv

NESTED = spaces.Dict(
    {
        "position": spaces.Box(-1, 1, (2,)),
        "gear": spaces.Discrete(3, start=1),
        "arm": spaces.Dict({"angle": spaces.Box(-np.pi, np.pi, ())}),
        "lights": spaces.MultiBinary(2),
        "pair": spaces.Tuple((spaces.MultiDiscrete([2, 1]), spaces.Box(0, 1, (1, 2)))),
    }
)
SPACES = [
    NESTED,
    spaces.Discrete(4),
    spaces.MultiDiscrete([[2, 3], [1, 2]]),
    spaces.MultiDiscrete([2, 2], start=[5, -1]),
    spaces.MultiBinary((2, 2)),
    spaces.Tuple((spaces.Discrete(2), spaces.Box(-1, 1, (3,)))),
    spaces.Box(-1, 1, (2, 3, 2)),
    spaces.Box(-1, 1, ()),
    spaces.Box(-(2**40), 2**40, (2,), np.int64),
    spaces.Box(0, 255, (5, 5), np.uint8),
    spaces.Box(-np.inf, np.inf, (2, 2), np.float64),
    spaces.Box(0, 1, (2,), np.bool_),
    *(spaces.Box(0, 100, (2,), dtype) for dtype in (np.uint8, np.int16, np.int32, np.float16, np.float32, np.float64)),
]


class Fixed(gym.Env[Any, Any]):
    """Observes one sample of a space for ever."""

    action_space = spaces.Discrete(2)

    def __init__(self, space: spaces.Space[Any]) -> None:
        self.observation_space = space
        space.seed(0)
        self.sample = space.sample()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return self.sample, {}

    def step(self, action: Any) -> Any:
        return self.sample, 0.0, False, False, {}


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_every_number_has_a_name_of_its_own(space: spaces.Space[Any]) -> None:
    assert len(names(space)) == len(set(names(space))) == spaces.flatdim(space)


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_an_observation_is_a_vector_that_a_learner_takes(space: spaces.Space[Any]) -> None:
    env = flattened(Fixed(space))
    obs = env.reset()[0]
    assert is_vector(env.observation_space)
    assert (obs.shape, obs.dtype) == (env.observation_space.shape, env.observation_space.dtype)
    assert env.observation_space.contains(obs)
    sample = env.unwrapped.sample  # type: ignore[attr-defined]
    np.testing.assert_array_equal(obs, spaces.flatten(space, sample).astype(obs.dtype))


def test_names_tell_where_a_number_comes_from() -> None:
    assert names(NESTED) == [
        *("arm.angle", "gear=1", "gear=2", "gear=3", "lights[0]", "lights[1]"),
        *("pair[0][0]=0", "pair[0][0]=1", "pair[0][1]=0", "pair[1][0,0]", "pair[1][0,1]"),
        *("position[0]", "position[1]"),
    ]
    assert names(spaces.Box(-1, 1, (2,))) == ["obs[0]", "obs[1]"]
    assert names(spaces.Box(-1, 1, (1,)), "action") == ["action[0]"]
    assert names(spaces.Tuple((spaces.Discrete(2),))) == ["obs[0]=0", "obs[0]=1"]


def test_a_name_stands_where_its_number_does() -> None:
    sample = NESTED.sample()
    vector = dict(zip(names(NESTED), spaces.flatten(NESTED, sample), strict=True))
    assert vector["position[1]"] == sample["position"][1]
    assert vector[f"gear={sample['gear']}"] == 1
    assert vector["arm.angle"] == sample["arm"]["angle"]
    assert vector["pair[1][0,1]"] == sample["pair"][1][0, 1]


def test_a_space_without_a_fixed_size_has_no_names() -> None:
    with pytest.raises(TypeError, match="has no fixed number of dimensions"):
        names(spaces.Dict({"words": spaces.Text(3)}))


def test_a_vector_and_an_image_stay_what_they_are() -> None:
    for space in (spaces.Box(-1, 1, (3,), np.float64), spaces.Box(0, 255, (36, 36, 3), np.uint8)):
        env = Fixed(space)
        assert flattened(env) is env


def test_categories_alone_take_a_byte_each() -> None:
    assert flattened(Fixed(spaces.Discrete(500))).observation_space.dtype == np.uint8
    assert flattened(Fixed(NESTED)).observation_space.dtype == np.float32


@pytest.mark.parametrize("cls", [AnyEnv, CategoriesEnv], ids=lambda cls: cls.__name__)
def test_what_the_trainer_saved_loads_with_the_environment_as_it_shows_it(tmp_path: Path, cls: Any) -> None:
    config = RunConfig(env=f"tests.probes:{cls.__name__}", algo="ppo", runs=tmp_path)
    trained = agents.make(config, envs.make(config))
    trained.save(tmp_path / "model.zip")
    loaded = PPO.load(tmp_path / "model.zip", env=learnable(cls()))
    assert loaded.action_space == trained.action_space and loaded.observation_space == trained.observation_space


def test_where_networks_are_computed_follows_from_what_they_see() -> None:
    image = spaces.Box(0, 255, (3, 64, 64), np.uint8)
    numbers, both = spaces.Box(-1, 1, (4,)), spaces.Dict({"eye": image, "arm": spaces.Box(-1, 1, (4,))})
    assert [agents.device(RunConfig(), observed) for observed in (numbers, image, both)] == ["cpu", "auto", "auto"]
    asked = RunConfig(device="cuda:1")
    assert [agents.device(asked, observed) for observed in (numbers, image)] == ["cuda:1", "cuda:1"]
