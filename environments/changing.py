"""An environment whose physics or reward changes at a given step."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium.utils import RecordConstructorArgs

from dyna.environments import changes


class Changing(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """An environment that changes once, after a number of steps, in the midst of an episode where that is so.

    Steps are counted over all episodes, from the moment that the environment is made, and nothing tells that it has
    changed. Another environment counts its own: that in which a policy is evaluated begins with the world as it was,
    and changes when so many steps have been evaluated. `switch=0` is the changed world from the start. Raises
    ValueError.

    :param env: Gymnasium's pendulum, a cart-pole or a MuJoCo environment; where the reward changes, any.
    :param change: What changes: gravity, mass, reward, or a pendulum's target.
    :param switch: Steps after which that happens.
    :param amount: By which factor, 1.5 if not given; of `target` the new angle in rad, 0.5 if not given.
    :param body: The one body whose mass changes, in a MuJoCo model; by default all.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        change: str = "gravity",
        switch: int = 1_000,
        amount: float | None = None,
        body: str | None = None,
    ) -> None:
        RecordConstructorArgs.__init__(self, change=change, switch=switch, amount=amount, body=body)
        super().__init__(env)
        if isinstance(switch, bool) or not isinstance(switch, int) or switch < 0:
            raise ValueError(f"switch must be a number of steps, 0 or more, got {switch!r}")
        self.switch, self.steps = switch, 0
        self._change = changes.named(change, env.unwrapped, amount, body)

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Gymnasium's reset; the count of steps goes on."""
        self._change.before_step(self.env.unwrapped, self.steps >= self.switch)
        return self.env.reset(**kwargs)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Gymnasium's step."""
        self._change.before_step(self.env.unwrapped, self.steps >= self.switch)
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.steps += 1
        return obs, self._change.paid(reward), terminated, truncated, info


def make(
    of: str,
    change: str = "gravity",
    switch: int = 1_000,
    amount: float | None = None,
    body: str | None = None,
    **kwargs: Any,
) -> Changing:
    """The environment that Gymnasium calls `of`, made with kwargs, as one that changes; its time limit is left out."""
    return Changing(gym.make(of, **kwargs).unwrapped, change, switch, amount, body)
