"""Gravity and masses of a simulator, as something that can change while it runs.

Simulators are those of Gymnasium's pendulum, its cart-poles, and MuJoCo.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from gymnasium.envs.classic_control.pendulum import PendulumEnv
from gymnasium.envs.mujoco import MujocoEnv
from gymnasium.envs.mujoco.reacher_v5 import ReacherEnv

Environment = gym.Env[Any, Any]


class Quantity(Protocol):
    """What a bare environment's physics has a value of."""

    def scale(self, env: Any, factor: float) -> None:
        """Make it a multiple of what it was at first, from the next step on."""


class Numbers:
    """A quantity that is kept in attributes of the environment, derived ones among them."""

    def __init__(self, env: Environment, names: Sequence[str]) -> None:
        self._first = {name: getattr(env, name) for name in names}

    def scale(self, env: Any, factor: float) -> None:
        """As in `Quantity`."""
        for name, value in self._first.items():
            setattr(env, name, factor * value)


class MujocoGravity:
    """The vector of gravity in a MuJoCo model."""

    def __init__(self, env: MujocoEnv) -> None:
        self._first = env.model.opt.gravity.copy()

    def scale(self, env: Any, factor: float) -> None:
        """As in `Quantity`."""
        env.model.opt.gravity[:] = factor * self._first


class MujocoMass:
    """Mass and inertia of all bodies of a MuJoCo model, or of one; raises ValueError for a body that it has not."""

    def __init__(self, env: MujocoEnv, body: str | None) -> None:
        model = env.model
        names = [model.body(i).name for i in range(1, model.nbody)]  # the first is the world
        if body is not None and body not in names:
            raise ValueError(f"{type(env).__name__} has no body {body!r}, it has {', '.join(names)}")
        self._bodies = [i for i, name in enumerate(names, 1) if body in (None, name)]
        self._first = model.body_mass[self._bodies], model.body_inertia[self._bodies]

    def scale(self, env: Any, factor: float) -> None:
        """As in `Quantity`."""
        model, (mass, inertia) = env.model, self._first
        if np.array_equal(model.body_mass[self._bodies], factor * mass):
            return
        model.body_mass[self._bodies], model.body_inertia[self._bodies] = factor * mass, factor * inertia
        mujoco.mj_setConst(model, mujoco.MjData(model))  # what contacts and solvers derive from masses


def gravity(env: Environment) -> Quantity:
    """The gravity in a bare environment; raises ValueError where none is felt or the simulator is not known."""
    if isinstance(env, PendulumEnv):
        return Numbers(env, ["g"])
    if isinstance(env, CartPoleEnv):
        return Numbers(env, ["gravity"])
    if isinstance(env, ReacherEnv):
        raise ValueError("Reacher moves in a plane along which gravity does not pull: choose change=mass or reward")
    if isinstance(env, MujocoEnv):
        return MujocoGravity(env)
    raise _unknown("gravity", env)


def mass(env: Environment, body: str | None = None) -> Quantity:
    """All masses in a bare environment, or that of one body of a MuJoCo model; raises ValueError."""
    if isinstance(env, MujocoEnv):
        return MujocoMass(env, body)
    if body is not None:
        raise ValueError(f"only MuJoCo's models have named bodies: leave out body={body!r} for {type(env).__name__}")
    if isinstance(env, PendulumEnv):
        return Numbers(env, ["m"])
    if isinstance(env, CartPoleEnv):
        return Numbers(env, ["masscart", "masspole", "total_mass", "polemass_length"])
    raise _unknown("mass", env)


def _unknown(what: str, env: Environment) -> ValueError:
    return ValueError(
        f"{what} is known of Gymnasium's pendulum, its cart-poles and MuJoCo's environments, got {type(env).__name__}"
    )
