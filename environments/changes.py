"""What may change in an environment while an agent learns in it: its physics, or what it pays."""

from __future__ import annotations

import math
from typing import Any, Protocol

import gymnasium as gym
from gymnasium.envs.classic_control.pendulum import PendulumEnv, angle_normalize

from dyna.environments import physics
from dyna.environments.physics import Quantity

FACTOR = 1.5
TARGET = 0.5  # rad
NAMES = ("gravity", "mass", "reward", "target")
Environment = gym.Env[Any, Any]


class Change(Protocol):
    """Two worlds, before and after; it keeps nothing that `before_step` does not set anew."""

    def before_step(self, env: Any, changed: bool) -> None:
        """Let the next step of the bare environment, or its reset, happen in the one world or in the other."""

    def paid(self, reward: Any) -> Any:
        """What that step pays, where the environment itself pays `reward`."""


class Scaled:
    """A quantity of the physics becomes a multiple of what it was."""

    def __init__(self, quantity: Quantity, factor: float) -> None:
        self._quantity, self._factor = quantity, factor

    def before_step(self, env: Any, changed: bool) -> None:
        """As in `Change`."""
        self._quantity.scale(env, self._factor if changed else 1.0)

    def paid(self, reward: Any) -> Any:
        """As in `Change`."""
        return reward


class ScaledReward:
    """Rewards become a multiple of what they were."""

    def __init__(self, factor: float) -> None:
        self._factor, self._changed = factor, False

    def before_step(self, env: Any, changed: bool) -> None:
        """As in `Change`."""
        self._changed = changed

    def paid(self, reward: Any) -> Any:
        """As in `Change`."""
        return self._factor * reward if self._changed else reward


class Target:
    """A pendulum is paid for being at another angle than upright, in rad; raises ValueError for another task."""

    def __init__(self, env: Environment, angle: float) -> None:
        if not isinstance(env, PendulumEnv):
            raise ValueError(f"only Gymnasium's pendulum has a target, got {type(env).__name__}: choose another change")
        self._angle, self._more = angle, 0.0

    def before_step(self, env: Any, changed: bool) -> None:
        """As in `Change`."""
        self._more = 0.0
        if changed and hasattr(env, "state"):  # there is none before the first reset
            at = env.state[0]
            self._more = _from_upright(at) ** 2 - _from_upright(at - self._angle) ** 2

    def paid(self, reward: Any) -> Any:
        """As in `Change`."""
        return reward + self._more if self._more else reward


def named(name: str, env: Environment, amount: float | None = None, body: str | None = None) -> Change:
    """One of NAMES in a bare environment; raises ValueError.

    :param amount: The factor, 1.5 if not given; of `target` the angle in rad, 0.5 if not given.
    :param body: The one body whose mass changes, in a MuJoCo model.
    """
    if name not in NAMES:
        raise ValueError(f"change must be {', '.join(NAMES[:-1])} or {NAMES[-1]}, got {name!r}")
    if body is not None and name != "mass":
        raise ValueError(f"body is whose mass changes, so it goes with change=mass, got body={body!r}, change={name}")
    amount = amount if amount is not None else TARGET if name == "target" else FACTOR
    if not isinstance(amount, (int, float)) or not math.isfinite(amount) or (name == "mass" and amount <= 0):
        raise ValueError(f"amount must be a finite number{' above 0' if name == 'mass' else ''}, got {amount!r}")
    if name == "gravity":
        return Scaled(physics.gravity(env), amount)
    if name == "mass":
        return Scaled(physics.mass(env, body), amount)
    return Target(env, amount) if name == "target" else ScaledReward(amount)


def _from_upright(angle: float) -> float:
    return float(angle_normalize(angle))  # type: ignore[no-untyped-call]
