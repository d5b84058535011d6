"""Going on where an environment fails: `--on-env-error restart`."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.buffers import ReplayBuffer

from dyna.guard import ActionRefused, EnvironmentFailed
from dyna.tree import Tree

DROPPED = "episode_dropped"
"""The key in a step's info under which the failure stands."""
ATTEMPTS = 10
"""Failures in a row, without a completed step in between, after which there is no use in going on."""


class Restarting(gym.Wrapper[Any, Any, Any, Any]):
    """Ends the episode in which the environment fails, so that the next one begins; lies outside the monitor.

    The step that failed is told as a step of reward 0 that a time limit cuts at the last observation there was, with
    the failure in its info; nobody else may learn from it as it stands, so `forget` takes it out of a replay buffer. To
    an on-policy algorithm, which keeps no next states, it is what it is told as: the value of the last observation is
    bootstrapped. The monitor does not count the episode: it is in no return, length or `monitor.csv`. Where the
    environment fails ten times in a row without a completed step, or at its very first one, the failure is raised.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.dropped = 0
        self.last_failure: str | None = None
        self._in_a_row = 0
        self._has_stepped = False
        self._obs = np.empty(0)

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Gymnasium's reset, tried again where it fails; raises EnvironmentFailed."""
        while True:
            try:
                obs, info = self.env.reset(**kwargs)
            except EnvironmentFailed as failure:
                self._note(failure)
            else:
                self._obs = np.array(obs)  # a copy, which a step that fails cannot change
                return obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Gymnasium's step; raises EnvironmentFailed, and ActionRefused at once."""
        try:
            obs, reward, terminated, truncated, info = self.env.step(action)
        except ActionRefused:
            raise
        except EnvironmentFailed as failure:
            if not self._has_stepped:
                raise
            self._note(failure)
            return self._obs, 0.0, False, True, {DROPPED: str(failure)}
        self._in_a_row, self._has_stepped = 0, True
        self._obs = np.array(obs)
        return obs, reward, terminated, truncated, info

    def state(self) -> dict[str, Tree]:
        """What `restore` needs."""
        return {name: getattr(self, name) for name in ("dropped", "last_failure", "_in_a_row", "_has_stepped", "_obs")}

    def restore(self, state: dict[str, Tree]) -> None:
        """Put back what `state` returned."""
        vars(self).update(state)

    def _note(self, failure: EnvironmentFailed) -> None:
        self.dropped, self._in_a_row = self.dropped + 1, self._in_a_row + 1
        self.last_failure = str(failure)
        if self._in_a_row >= ATTEMPTS:
            raise type(failure)(f"{failure}, and failed {ATTEMPTS} times in a row") from failure


def forget(buffer: ReplayBuffer, step: int, i: int) -> None:
    """Put the last true step of environment `i` in the place of the one stored at `step`, which failed.

    Nothing false is learnt then: that step is drawn twice as often, and the earlier steps of the dropped episode, which
    did happen, stay. Both rows are cut as by a time limit, so that no sequence or n-step return runs on behind them.
    """
    before = (step - 1) % buffer.buffer_size
    for column in vars(buffer).values():
        if isinstance(column, np.ndarray) and column.shape[:2] == (buffer.buffer_size, buffer.n_envs):
            column[step, i] = column[before, i]
    for row in (before, step):
        if not buffer.dones[row, i]:
            _cut(buffer, row, i)


def _cut(buffer: ReplayBuffer, row: int, i: int) -> None:
    buffer.timeouts[row, i] = 1.0
    buffer.dones[row, i] = 1.0
