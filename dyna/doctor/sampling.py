"""What an environment does under random actions: the transitions that every other check looks at."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Space, utils
from torch import Tensor

from dyna import spaces
from dyna.doctor.contract import Watched
from dyna.doctor.findings import Finding
from dyna.types import Transitions

Numbers = np.ndarray[Any, np.dtype[np.float64]]
Row = tuple[Numbers, Numbers, float, Numbers, bool, bool, int]


@dataclass(frozen=True)
class Sample:
    """Steps under uniformly random actions, in the order they were made; the letters are those of `dyna.types`."""

    transitions: Transitions
    truncated: Tensor  # [B] bool
    episode: Tensor  # [B] int64, its number
    names: list[str]  # [S] of the numbers of an observation
    continuous: Tensor  # [S] bool: part of a Box, and not of a one-hot number
    seconds: float  # spent in the environment's step
    odd: list[Finding]  # what was not as promised

    @property
    def steps(self) -> int:
        """B."""
        return len(self.episode)

    @property
    def ended(self) -> Tensor:
        """[B] bool: whether an episode ended here, one way or the other."""
        return (self.transitions.terminated > 0) | self.truncated

    @property
    def lengths(self) -> Tensor:
        """[N] steps of each episode that ended."""
        ends = self.ended.nonzero().flatten()
        return torch.diff(ends, prepend=torch.tensor([-1]))


def collect(
    env: gym.Env[Any, Any], *, steps: int, seconds: float, seed: int, show: Callable[[int], None] = lambda steps: None
) -> Sample:
    """Play random actions for some steps, or seconds if they are over before; raises Broken."""
    watched, space = Watched(env), env.observation_space
    env.action_space.seed(seed)
    obs, rows = flatten(space, watched.reset(seed=seed)[0]), list[Row]()
    episode, spent, began = 0, 0.0, time.perf_counter()
    while len(rows) < steps and time.perf_counter() - began < seconds:
        action = env.action_space.sample()
        before = time.perf_counter()
        after, reward, terminated, truncated, _ = watched.step(action)
        spent += time.perf_counter() - before
        next_obs = flatten(space, after)
        rows.append((obs, scaled(env.action_space, action), reward, next_obs, terminated, truncated, episode))
        obs = next_obs
        if terminated or truncated:
            obs, episode = flatten(space, watched.reset()[0]), episode + 1
        show(len(rows))
    return _sample(space, rows, spent, watched.oddities())


def flatten(space: Space[Any], value: Any) -> Numbers:
    """One row of numbers: boxes unrolled, discrete numbers one-hot, the parts of a Dict one after the other."""
    return np.array(utils.flatten(space, value), np.float64)


def scaled(space: Space[Any], action: Any) -> Numbers:
    """[A] an action as world models read it: in [-1, 1], discrete numbers one-hot."""
    flat = flatten(space, action)
    if not isinstance(space, Box):
        return flat
    low, high = space.low.flatten().astype(np.float64), space.high.flatten().astype(np.float64)
    return 2 * (flat - low) / (high - low) - 1


def _sample(space: Space[Any], rows: list[Row], seconds: float, odd: list[Finding]) -> Sample:
    obs, action, reward, next_obs, terminated, truncated, episode = (
        np.array(column) for column in zip(*rows, strict=True)
    )
    parts = (obs, action, reward, next_obs, terminated)
    sizes = [(leaf, utils.flatdim(leaf)) for _, leaf in spaces.leaves(space)]
    return Sample(
        Transitions(*(torch.as_tensor(np.asarray(part, np.float32)) for part in parts)),
        torch.as_tensor(truncated),
        torch.as_tensor(episode),
        spaces.names(space),
        torch.tensor([isinstance(leaf, Box) for leaf, size in sizes for _ in range(size)]),
        seconds,
        odd,
    )
