"""The nouns that every room shares.

Letters: B batch, E ensemble member, H horizon, N candidate plan, S observation size, A action size.

Unit law: buffers and world models hold raw environment observations and rewards, and actions scaled to [-1, 1], a
discrete action one-hot; normalisation lives inside the model and inside the policy. `terminated` is an event of the
task and stops bootstrapping; a time limit (`truncated`) does not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Transitions(NamedTuple):
    """One environment step a row."""

    obs: Tensor  # [B, S] env units
    action: Tensor  # [B, A] in [-1, 1]
    reward: Tensor  # [B] env units
    next_obs: Tensor  # [B, S] env units; at an episode's end the final observation, not the reset's
    terminated: Tensor  # [B] float, 1 where the task ended; 0 at a time limit

    def at(self, rows: Tensor | slice | int) -> Transitions:
        """Those rows alone, by number, by mask or by place."""
        return Transitions(*(part[rows] for part in self))

    def windows(self, steps: int, n_envs: int = 1) -> Tensor:
        """Numbers [W, steps] of rows that are consecutive steps of one episode, each from where the one before ended.

        The steps of `n_envs` environments take turns in the rows.
        """
        follows = (self.next_obs[:-n_envs] == self.obs[n_envs:]).all(1) & (self.terminated[:-n_envs] == 0)
        unbroken = torch.ones(max(len(self.obs) - n_envs * (steps - 1), 0), dtype=torch.bool, device=follows.device)
        for step in range(steps - 1):
            unbroken &= follows[step * n_envs :][: len(unbroken)]
        return unbroken.nonzero() + n_envs * torch.arange(steps, device=follows.device)


class ImaginedTransitions(NamedTuple):
    """One imagined step a row, with where it came from."""

    obs: Tensor  # [B, S] env units
    action: Tensor  # [B, A] in [-1, 1]
    reward: Tensor  # [B] env units
    next_obs: Tensor  # [B, S] env units
    terminated: Tensor  # [B] float, 1 where the model says that the task ended
    depth: Tensor  # [B] int64, 0 for the first step from a real observation
    uncertainty: Tensor  # [B] float, in the unit of the truncation rule that made the row
    version: Tensor  # [B] int64, the world model's refit count when the row was made


class Prediction(NamedTuple):
    """Every moment that the ensemble holds about one step; a new uncertainty rule never needs a new model method."""

    mean: Tensor  # [E, B, S+1] next observation, then reward; env units
    std: Tensor  # [E, B, S+1] aleatoric standard deviation; env units
    p_terminated: Tensor  # [E, B] probability that the task ends in this step


class Outcome(NamedTuple):
    """One sampled step."""

    next_obs: Tensor  # [B, S] env units
    reward: Tensor  # [B] env units
    terminated: Tensor  # [B] float, 0 or 1


Act = Callable[[Tensor], Tensor]
"""A policy for imagination: observations [B, S] in env units -> actions [B, A] in [-1, 1]."""


class WorldModel(Protocol):
    """What imagination and planning ask of a learned model; `GaussianEnsemble` is the first of the kind."""

    @property
    def version(self) -> int:
        """How many times the model was fitted; imagined rows carry it."""
        ...

    @property
    def seen(self) -> Tensor:
        """Which numbers of an observation the model foretells, bool [S]: others are left out."""
        ...

    def fit(self, data: Transitions, *, rng: torch.Generator) -> dict[str, float]:
        """Learn from all real transitions; returns metrics for the logger."""
        ...

    def predict(self, obs: Tensor, action: Tensor) -> Prediction:
        """Every member's moments: obs [B, S], action [B, A] -> Prediction [E, B, .]."""
        ...

    def predict_elites(self, obs: Tensor, action: Tensor) -> Prediction:
        """The moments of the members that imagination believes, without gradient: Prediction [K, B, .]."""
        ...

    def sample(self, prediction: Prediction, *, rng: torch.Generator) -> Outcome:
        """One step from one random elite a row (trajectory sampling TS1, Chua et al. 2018, section 5)."""
        ...

    def sample_step(self, obs: Tensor, action: Tensor, *, rng: torch.Generator) -> Outcome:
        """`sample(predict(obs, action))`, computing only the drawn member of each row: E times cheaper."""
        ...

    def known(self, obs: Tensor, action: Tensor, outcome: Outcome) -> Outcome:
        """The outcome with the exact reward and termination in place of the learned ones, where the user gave them."""
        ...
