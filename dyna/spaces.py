"""Observations as one vector of numbers: how they become one, and what each number is called."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import FlattenObservation, TransformObservation
from stable_baselines3.common.preprocessing import is_image_space

LEAVES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
"""The spaces that observations may be made of, alone or in Dicts and Tuples."""


def flattened(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """The environment with observations that are one vector, by gymnasium's own wrappers; an image stays an image.

    A vector of floats or small whole numbers stays as it is. All else becomes float32, and uint8 where it is made of
    categories alone: one-hot vectors of many categories are mostly zeros, and fill a replay buffer.
    """
    space = env.observation_space
    if is_image(space) or is_vector(space):
        return env
    categories = all(not isinstance(leaf, spaces.Box) for _, leaf in leaves(space))
    return _cast(FlattenObservation(env), np.uint8 if categories else np.float32)


def is_image(space: spaces.Space[Any]) -> bool:
    """Whether SB3 takes the space for an image: three dimensions, bytes from 0 to 255."""
    return is_image_space(space)


def is_vector(space: spaces.Space[Any]) -> bool:
    """Whether a learner takes the space as it is: a row of floats, or of whole numbers that float32 holds exactly."""
    if not isinstance(space, spaces.Box) or len(space.shape) != 1:
        return False
    return space.dtype == np.float64 or (space.dtype != np.bool_ and np.can_cast(space.dtype, np.float32, "safe"))


def leaves(space: spaces.Space[Any], name: str = "") -> Iterator[tuple[str, spaces.Space[Any]]]:
    """The spaces inside Dicts and Tuples, with their names, in the order in which gymnasium flattens them."""
    if isinstance(space, spaces.Dict):
        for key, inner in space.spaces.items():
            yield from leaves(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(space, spaces.Tuple):
        for i, inner in enumerate(space.spaces):
            yield from leaves(inner, f"{name}[{i}]")
    else:
        yield name, space


def names(space: spaces.Space[Any], root: str = "obs") -> list[str]:
    """What each number of gymnasium's flattened vector of a space is called, in its order.

    `position[0]` is part of a Box, `gear=3` tells whether a Discrete has that value, `arm.angle` lies in a Dict in a
    Dict; what has no name of its own is called after `root`. Raises TypeError for a space of no fixed size.
    """
    named = leaves(space, "" if isinstance(space, spaces.Dict) else root)
    return [each for name, leaf in named for each in _numbers(leaf, name)]


def _cast(env: gym.Env[Any, Any], dtype: type[np.generic]) -> gym.Env[Any, Any]:
    """DtypeObservation warns of a Box whose bounds are rounded, which no user could help."""
    space = env.observation_space
    assert isinstance(space, spaces.Box)
    with np.errstate(over="ignore"):  # a bound that float32 does not hold is none
        low, high = space.low.astype(dtype), space.high.astype(dtype)
    return TransformObservation(env, lambda obs: obs.astype(dtype), spaces.Box(low, high, dtype=dtype))


def _numbers(leaf: spaces.Space[Any], name: str) -> Iterator[str]:
    if isinstance(leaf, spaces.Discrete):
        yield from (f"{name}={leaf.start + i}" for i in range(int(leaf.n)))
    elif isinstance(leaf, spaces.MultiDiscrete):
        for index in np.ndindex(leaf.nvec.shape):
            values = (int(leaf.start[index]) + i for i in range(int(leaf.nvec[index])))
            yield from (f"{_at(name, index)}={value}" for value in values)
    elif isinstance(leaf, (spaces.Box, spaces.MultiBinary)):
        yield from (_at(name, index) for index in np.ndindex(leaf.shape))
    else:
        raise TypeError(f"{name} is {leaf}, which has no fixed number of dimensions")


def _at(name: str, index: tuple[int, ...]) -> str:
    return f"{name}[{','.join(map(str, index))}]" if index else name
