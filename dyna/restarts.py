"""Going on where an environment fails: `--on-env-error restart`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from dyna.errors import UserError
from dyna.generators import stream
from dyna.guard import ActionRefused, EnvironmentFailed
from dyna.progress import say
from dyna.tree import Tree

DROPPED = "dyna/episode_dropped"
"""The key in a step's info under which the failure stands; no environment's own is called so."""
ATTEMPTS = 10
"""Failures in a row, without a completed step in between, after which there is no use in going on."""


class Restarting(gym.Wrapper[Any, Any, Any, Any]):
    """Ends the episode in which the environment fails, so that the next one begins; lies outside the monitor.

    The step that failed is told as a step of reward 0 that a time limit cuts at the last observation there was, with
    the failure in its info; nobody may learn from it as it stands, and `Failures` sees to that. The monitor does not
    count the episode: it is in no return, length or `monitor.csv`. Where the environment fails ten times in a row
    without a completed step, the failure is raised.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.dropped = 0
        self.last_failure: str | None = None
        self._in_a_row = 0
        self._obs = np.empty(0)

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Gymnasium's reset, tried again where it fails; raises EnvironmentFailed."""
        while True:
            try:
                obs, info = self.env.reset(**kwargs)
            except EnvironmentFailed as failure:
                self._note(failure)
                if kwargs.get("seed") is not None:  # the same draws might fail again
                    kwargs["seed"] = stream(kwargs["seed"], self._in_a_row)
            else:
                self._obs = obs
                return obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Gymnasium's step; raises EnvironmentFailed, and ActionRefused at once."""
        try:
            obs, reward, terminated, truncated, info = self.env.step(action)
        except ActionRefused:
            raise
        except EnvironmentFailed as failure:
            self._note(failure)
            return self._obs, 0.0, False, True, {DROPPED: str(failure)}
        self._in_a_row = 0
        self._obs = obs
        return obs, reward, terminated, truncated, info

    def state(self) -> dict[str, Tree]:
        """What `restore` needs besides the last observation."""
        return {"dropped": self.dropped, "last_failure": self.last_failure, "in_a_row": self._in_a_row}

    def restore(self, state: dict[str, Tree] | None, obs: np.ndarray) -> None:
        """Put back what `state` returned, if anything did; obs is the last observation of a run that goes on."""
        if state is not None:
            self.dropped, self.last_failure, self._in_a_row = (state[name] for name in self.state())
        self._obs = obs

    def _note(self, failure: EnvironmentFailed) -> None:
        self.dropped, self._in_a_row = self.dropped + 1, self._in_a_row + 1
        self.last_failure = str(failure)
        if self._in_a_row >= ATTEMPTS:
            raise type(failure)(f"{failure}, and failed {ATTEMPTS} times in a row") from failure


class Failures:
    """What a training does about the episodes that its environments drop.

    Nothing is learnt from the step that failed: in a replay buffer the last true step stands in its place (`forget`);
    in a rollout its advantage is 0 and its return is its value. The steps before it did happen, and are learnt from as
    those of an episode that a time limit cut.
    """

    def __init__(self, model: BaseAlgorithm, layers: list[Restarting]) -> None:
        self._layers, self._buffer = layers, replay_of(model)
        self._gamma = model.gamma if isinstance(model, OnPolicyAlgorithm) else None
        self._told = 0
        self._steps: list[tuple[int, int]] = []  # place in the buffer, environment
        if layers and getattr(model, "optimize_memory_usage", False):
            raise UserError(
                "on_env_error=restart takes failed steps out of the replay buffer, which optimize_memory_usage=True "
                "does not let it: leave one of them out"
            )

    @property
    def count(self) -> int:
        """Failures so far, each of which dropped an episode."""
        return sum(layer.dropped for layer in self._layers)

    def note(self, step: Mapping[str, Any]) -> None:
        """Look for failures in a step that is about to be stored, SB3's locals at `on_step`; the first is told."""
        failed = [i for i, info in enumerate(step.get("infos", ())) if DROPPED in info]
        if failed and not self._told:
            say(f"an episode was dropped, further ones are only counted: {step['infos'][failed[0]][DROPPED]}")
        self._told += len(failed)
        if self._buffer is not None:
            self._steps += [(self._buffer.pos, i) for i in failed]
        if self._gamma is not None:
            for i in failed:  # SB3 adds the discounted value of the last observation, which is the one before the step
                step["rewards"][i] = (1.0 - self._gamma) * float(step["values"][i])

    def forget(self) -> None:
        """Take the failed steps out of the replay buffer; before anything is learnt from it or saved."""
        for step, i in self._steps:
            assert self._buffer is not None
            if self._buffer.full or step < self._buffer.pos:  # it was not emptied meanwhile
                forget(self._buffer, step, i)
        self._steps.clear()


def replay_of(model: BaseAlgorithm) -> ReplayBuffer | None:
    """The replay buffer of an off-policy algorithm."""
    return model.replay_buffer if isinstance(model, OffPolicyAlgorithm) else None


def forget(buffer: ReplayBuffer, step: int, i: int) -> None:
    """Put the last true step of environment `i` in the place of the one stored at `step`, which failed.

    Nothing false is learnt then: that step is drawn twice as often, and the earlier steps of the dropped episode, which
    did happen, stay. Both rows are cut as by a time limit, so that no sequence or n-step return runs on behind them.
    Where nothing came before, the buffer is emptied of the failed step and what the rollout has brought behind it.
    """
    if step == 0 and not buffer.full:
        buffer.reset()
        return
    before = (step - 1) % buffer.buffer_size
    for column in vars(buffer).values():
        if isinstance(column, np.ndarray) and column.shape[:2] == (buffer.buffer_size, buffer.n_envs):
            column[step, i] = column[before, i]
    for row in (before, step):
        cut(buffer, row, i)


def cut(buffer: ReplayBuffer, step: int, i: int) -> None:
    """Cut the episode of environment `i` behind a stored step, as a time limit does, unless it ended there."""
    if not buffer.dones[step, i]:
        buffer.timeouts[step, i] = 1.0
        buffer.dones[step, i] = 1.0
