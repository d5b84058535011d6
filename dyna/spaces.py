"""Spaces: which of them learners take, how an observation becomes one vector, and what each number in it is called."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import FlattenObservation, TransformAction, TransformObservation
from stable_baselines3.common.preprocessing import is_image_space

from dyna.errors import UserError

LEAVES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
"""What actions may be, and observations, alone or in Dicts and Tuples."""


def refuse(env_id: str, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
    """Raise UserError for spaces that no algorithm could use, whatever it is."""
    inside = list(leaves(observation_space))
    kinds = ", ".join(kind.__name__ for kind in LEAVES)
    for name, leaf in inside:
        if not isinstance(leaf, LEAVES):
            raise UserError(
                f"{env_id} has {type(leaf).__name__} observations, which no algorithm takes: {kinds}, and Dicts and "
                "Tuples of these work"
            )
        if name and is_image(leaf):
            raise UserError(
                f"{env_id} observes the image {name}, {leaf}, beside other things, which no algorithm takes: leave it "
                "out with gymnasium.wrappers.FilterObservation, or observe it alone"
            )
    if not sum(spaces.flatdim(leaf) for _, leaf in inside):
        raise UserError(f"{env_id} observes nothing, its observation_space is {observation_space}: give it a dimension")
    if isinstance(action_space, spaces.Box):
        _refuse_box(env_id, action_space)
    elif not isinstance(action_space, LEAVES):
        raise UserError(
            f"{env_id} has {type(action_space).__name__} actions, which no algorithm takes: {kinds} work, so lay its "
            "parts into one Box or one MultiDiscrete"
        )


def _refuse_box(env_id: str, space: spaces.Box) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        width = space.high.astype(np.float32) - space.low.astype(np.float32)
    if not np.isfinite(width).all():
        raise UserError(f"{env_id} has actions without bounds, {space}: give its Box a finite low and high")
    if not (width > 0).all():
        raise UserError(f"{env_id} has an action that cannot vary, {space}: leave out what has low = high")
    if space.dtype.kind != "f":
        raise UserError(
            f"{env_id} has a Box of whole numbers for actions, {space}: make it a Discrete or a MultiDiscrete, or a "
            "Box of floats that the environment rounds"
        )


def learnable(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """The environment as the trainer shows it to algorithms: one vector is observed, actions are counted from 0.

    What `dyna train` saved loads with it: `DHMBPO.load("best_model.zip", env=learnable(env))`.
    """
    return flattened(counted_from_zero(env))


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


def counted_from_zero(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """The environment with Discrete and MultiDiscrete actions that begin at 0, as SB3's algorithms choose them."""
    space = env.action_space
    if not isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)) or not np.any(space.start):
        return env
    start = space.start
    counted = spaces.Discrete(space.n) if isinstance(space, spaces.Discrete) else spaces.MultiDiscrete(space.nvec)
    return TransformAction(env, lambda action: action + start, counted)


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
