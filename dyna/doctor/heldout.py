"""What world models foresee of steps that they have not seen.

Rows are held out by long blocks of time, so that none has its neighbours in the training data; each is held out once.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dyna.doctor.sampling import Sample
from dyna.training import moments
from dyna.types import Transitions
from dyna.world_model import EnsembleSettings, GaussianEnsemble

FOLDS, BLOCKS = 2, 10
ROUNDING = 1e-5  # of an observation: changes that do not rise above it are float32's
SETTINGS = EnsembleSettings(members=3, elites=3, width=128, depth=2, target="delta", max_updates=300)


class Foreseen(NamedTuple):
    """Each row as told by a model that was fitted without it."""

    rows: Tensor  # [B] numbers in the sample
    change: Tensor  # [B, S] of the observation
    reward: Tensor  # [B] from the real next observation
    p_terminated: Tensor  # [B] from the real next observation
    fold: Tensor  # [B] in which the row was held out

    def state_error(self, data: Transitions, rows: Tensor) -> Tensor:
        """[FOLDS, S] squared error on some of the rows, as share of the variance of the change."""
        change = (data.next_obs - data.obs)[self.rows]
        scale = torch.maximum(moments(change)[1], ROUNDING * data.next_obs.abs().amax(0))
        error = ((self.change - change) / scale).square()
        chosen = torch.isin(self.rows, rows)
        return torch.stack([error[chosen & (self.fold == k)].mean(0) for k in range(FOLDS)])

    def reward_r2(self, data: Transitions) -> float:
        """Share of the reward's variance that is told; at most 1."""
        reward = data.reward[self.rows]
        return 1 - float(((self.reward - reward) / moments(reward[:, None])[1]).square().mean())

    def termination_f1(self, data: Transitions) -> float:
        """How well ends are told from other steps, 1 at best; at least one row must be an end."""
        said, ended = self.p_terminated > 0.5, data.terminated[self.rows] > 0
        return 2 * float((said & ended).sum()) / float(said.sum() + ended.sum())


def foresee(sample: Sample, seed: int, *, history: bool) -> Foreseen:
    """Fit a small ensemble for each fold; with `history`, the observation and action before a step are inputs too."""
    data, rows = sample.transitions, torch.arange(sample.steps)
    fold = rows * FOLDS * BLOCKS // len(rows) % FOLDS
    if history:
        rows = with_past(sample)
        action = torch.cat([data.action[rows], data.obs[rows - 1], data.action[rows - 1]], 1)
        data, fold = data.at(rows)._replace(action=action), fold[rows]
    change, reward, p_terminated = (torch.empty_like(part) for part in (data.obs, data.reward, data.terminated))
    for k in range(FOLDS):
        model = _fitted(data.at(fold != k), seed + k)
        held = fold == k
        change[held], reward[held], p_terminated[held] = _told(model, data.at(held))
    return Foreseen(rows, change, reward, p_terminated, fold)


def with_past(sample: Sample) -> Tensor:
    """Rows that follow another of the same episode."""
    return (sample.episode[1:] == sample.episode[:-1]).nonzero().flatten() + 1


def _fitted(data: Transitions, seed: int) -> GaussianEnsemble:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GaussianEnsemble(data.obs.shape[1], data.action.shape[1], SETTINGS)
    model.fit(data, rng=torch.Generator().manual_seed(seed))
    return model


@torch.no_grad()
def _told(model: GaussianEnsemble, data: Transitions) -> tuple[Tensor, Tensor, Tensor]:
    x = model.normalise_input(data.obs, data.action).expand(SETTINGS.members, -1, -1)
    outcome = model.outcome_head(x, data.next_obs.expand(SETTINGS.members, -1, -1))
    change = model.state_head(x).mean.mean(0) * model.y_std[:-1] + model.y_mean[:-1]
    reward = outcome.mean.mean(0) * model.y_std[-1] + model.y_mean[-1]
    return change, reward, torch.sigmoid(outcome.logit - model.log_oversampling).mean(0)
