"""States as whole numbers: what a table needs of an observation."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TransformObservation

from dyna.errors import UserError
from dyna.guard import shown
from dyna.kernels import Indices
from dyna.spaces import leaves

KINDS = (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


class Numbering:
    """Numbers the observations of a space of categories from 0 to n - 1, by mixed radix: the last part counts fastest.

    It takes Discrete, MultiDiscrete and MultiBinary, and Tuples and Dicts of these. Raises UserError for other spaces,
    and for an observation outside the space.
    """

    def __init__(self, space: spaces.Space[Any]) -> None:
        if not is_of_categories(space):
            raise UserError(
                f"a table has a row for each state, which {space} does not count: its observations must be Discrete, "
                "MultiDiscrete or MultiBinary, or Tuples and Dicts of these, so choose an algorithm with networks "
                "(`dyna list algorithms`), or round what is observed with gymnasium.wrappers.TransformObservation"
            )
        self.space = space
        self._sizes = [size for _, leaf in leaves(space) for size in _sizes(leaf)]
        self.n = math.prod(self._sizes)

    def __call__(self, obs: Any) -> Indices:
        """The number of one observation [], or those of a batch [B] as SB3's vectorised environments give it."""
        number = np.zeros((), np.int64)
        for part, size in zip(_parts(self.space, obs), self._sizes, strict=True):
            if (part < 0).any() or (part >= size).any():  # compiled loops would write beside their tables
                raise _outside(self.space, obs)
            number = np.asarray(number * size + part)
        return number


def is_of_categories(space: spaces.Space[Any]) -> bool:
    """Whether the observations of a space can be numbered."""
    return all(isinstance(leaf, KINDS) for _, leaf in leaves(space))


def numbered(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """The environment with one number for an observation that is a Tuple or a Dict; any other stays as it is."""
    space = env.observation_space
    if not isinstance(space, (spaces.Tuple, spaces.Dict)) or not is_of_categories(space):
        return env
    numbering = Numbering(space)
    return TransformObservation(env, numbering, spaces.Discrete(numbering.n))


def _sizes(leaf: spaces.Space[Any]) -> list[int]:
    if isinstance(leaf, spaces.Discrete):
        return [int(leaf.n)]
    if isinstance(leaf, spaces.MultiDiscrete):
        return [int(size) for size in leaf.nvec.flat]
    return [2] * math.prod(leaf.shape or ())


def _parts(space: spaces.Space[Any], obs: Any) -> Iterator[Any]:
    """Each category of an observation, or of a batch, counted from 0, in the order of the leaves."""
    if isinstance(space, spaces.Dict):
        for key, inner in space.spaces.items():
            yield from _parts(inner, obs[key])
    elif isinstance(space, spaces.Tuple):
        for inner, part in zip(space.spaces, obs, strict=True):
            yield from _parts(inner, part)
    elif isinstance(space, spaces.Discrete):
        yield _whole(space, obs) - space.start
    else:
        categories = _whole(space, obs)
        if isinstance(space, spaces.MultiDiscrete):
            categories = categories - space.start
        flat = categories.reshape(*categories.shape[: categories.ndim - len(space.shape or ())], -1)
        yield from np.moveaxis(flat, -1, 0)


def _whole(space: spaces.Space[Any], obs: Any) -> Indices:
    """An observation, or a batch, as whole numbers; raises UserError where it has others."""
    given = np.asarray(obs)
    if given.dtype.kind not in "biu":  # a cast would drop fractions and nobody told
        raise _outside(space, obs)
    return given.astype(np.int64, copy=False)


def _outside(space: spaces.Space[Any], obs: Any) -> UserError:
    return UserError(f"the observation {shown(obs)} is not in the observation space {space}")
