"""Observations of categories are numbered: each its own number, from 0 on, alone or in a batch."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

from dyna.errors import UserError
from dyna.numbering import Numbering, numbered

SPACES = {
    "Discrete": spaces.Discrete(5, start=-2),
    "MultiDiscrete": spaces.MultiDiscrete([2, 3], start=[4, -1]),
    "a matrix": spaces.MultiDiscrete([[2, 3], [1, 2]]),
    "MultiBinary": spaces.MultiBinary(3),
    "Tuple": spaces.Tuple((spaces.Discrete(3), spaces.MultiBinary(2), spaces.Discrete(2, start=1))),
    "Dict": spaces.Dict({"b": spaces.Discrete(3), "a": spaces.MultiDiscrete([2, 2])}),
}


class Drawn(gym.Env[Any, Any]):
    """Observes what is drawn from a space."""

    action_space = spaces.Discrete(2)

    def __init__(self, space: spaces.Space[Any]) -> None:
        self.observation_space = space
        space.seed(0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        return self.observation_space.sample(), 0.0, False, False, {}


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_each_observation_has_a_number_of_its_own(space: spaces.Space[Any]) -> None:
    number = Numbering(space)
    space.seed(0)
    drawn = [space.sample() for _ in range(60 * number.n)]
    numbers = {repr(obs): int(number(obs)) for obs in drawn}
    assert sorted(numbers.values()) == list(range(number.n))


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_a_batch_is_numbered_as_its_observations_are(space: spaces.Space[Any]) -> None:
    number, batch = Numbering(space), DummyVecEnv([lambda: Drawn(space)] * 4).reset()
    alone = [gym.vector.utils.iterate(gym.vector.utils.batch_space(space, 4), batch)]
    assert number(batch).tolist() == [int(number(obs)) for obs in alone[0]]


def test_the_last_part_counts_fastest() -> None:
    number = Numbering(spaces.Tuple((spaces.Discrete(32), spaces.Discrete(11), spaces.Discrete(2))))
    assert [int(number(obs)) for obs in ((0, 0, 1), (0, 1, 0), (1, 0, 0), (31, 10, 1))] == [1, 2, 22, 703]


@pytest.mark.parametrize("space", [spaces.Box(-1, 1, (2,)), spaces.Tuple((spaces.Discrete(2), spaces.Box(0, 1)))])
def test_what_cannot_be_counted_is_refused(space: spaces.Space[Any]) -> None:
    with pytest.raises(UserError, match="a table has a row for each state, which"):
        Numbering(space)
    env = Drawn(space)
    assert numbered(env) is env


@pytest.mark.parametrize(
    ("space", "obs"),
    [
        (spaces.Discrete(5, start=-2), 3),
        (spaces.Discrete(5), np.array([0, -1])),
        (spaces.Discrete(5), 2.5),
        (spaces.MultiDiscrete([2, 3]), np.array([0, np.nan])),
        (spaces.MultiDiscrete([2, 3]), np.array([0, 3])),  # whose number alone, 3, would be that of (1, 0)
        (SPACES["Tuple"], (3, np.zeros(2, np.int8), 1)),
        (SPACES["Dict"], {"b": -1, "a": np.zeros(2, int)}),
    ],
)
def test_an_observation_outside_its_space_is_refused(space: spaces.Space[Any], obs: Any) -> None:
    with pytest.raises(UserError, match="the observation .* is not in the observation space"):
        Numbering(space)(obs)


def test_only_an_observation_of_parts_is_replaced_by_its_number() -> None:
    for name, space in SPACES.items():
        env = Drawn(space)
        assert (numbered(env) is env) == (name not in ("Tuple", "Dict"))
    env = numbered(gym.make("Blackjack-v1"))
    assert env.observation_space == spaces.Discrete(704)
    assert env.reset(seed=0)[0] in env.observation_space
