"""What decides which weights of an ensemble are kept: how its members do on rows that they were not trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from dyna.lessons import Rows
    from dyna.networks import EnsembleMLP
    from dyna.world_model import GaussianEnsemble

NEGLIGIBLE = 1e-4  # of a target's variance: a gain below it is none, or a noiseless task would be fitted for ever


class Score(NamedTuple):
    """How each member does on held-out rows, normalised units."""

    error: Tensor  # [E] never negative, so that "1 % better" has a meaning
    loss: Tensor  # [E] negative log-likelihood


@torch.no_grad()
def scores(model: GaussianEnsemble, rows: Rows) -> tuple[Score, Score]:
    """Of the state networks, and of the outcome networks (reward, and termination's log-loss in both parts)."""
    x = rows.x.expand(model.settings.members, *rows.x.shape)
    state, y = model.state_head(x), rows.y[:, :-1]
    outcome, reward = model.outcome_head(x, rows.next_obs.expand(len(x), *rows.next_obs.shape)), rows.y[:, -1]
    logit = outcome.logit - model.log_oversampling
    ends = F.binary_cross_entropy_with_logits(logit, rows.terminated.expand_as(logit), reduction="none")
    if rows.lessons is None:
        of_state = of_reward = of_end = torch.ones_like(logit)
    else:
        of_state, of_reward, of_end = (part.expand_as(logit) for part in rows.lessons.unbind(-1))
    ended = mean_of(ends, of_end, dim=(1,))
    return (
        Score(
            mean_of((state.mean - y).square().mean(-1), of_state, dim=(1,)),
            mean_of(gaussian_loss(*state, y).mean(-1), of_state, dim=(1,)),
        ),
        Score(
            mean_of((outcome.mean - reward).square(), of_reward, dim=(1,)) + ended,
            mean_of(gaussian_loss(outcome.mean, outcome.log_var, reward), of_reward, dim=(1,)) + ended,
        ),
    )


def gaussian_loss(mean: Tensor, log_var: Tensor, target: Tensor, beta: float = 0.0) -> Tensor:
    """Negative log-likelihood without its constant, element by element, weighed by the variance to the power `beta`.

    By likelihood alone, what is predicted badly gets a large variance and is then hardly learnt from any more; with
    `beta` 1, means learn as from squared error (Seitzer et al. 2022, 2203.09168).
    """
    loss = 0.5 * ((mean - target).square() * (-log_var).exp() + log_var)
    return loss * (beta * log_var.detach()).exp() if beta else loss


def mean_of(loss: Tensor, weight: Tensor, dim: tuple[int, ...] = (0, 1)) -> Tensor:
    """Mean of a loss [E, b] over the rows that count."""
    return (loss * weight).sum(dim) / weight.sum(dim).clamp_min(1.0)


class Best:
    """The weights with which each member of an ensemble did best on held-out rows.

    Squared error decides; among weights of equal error (within `improvement`) the likelihood does, because variances
    are learned after means.
    """

    def __init__(self, network: EnsembleMLP, score: Score) -> None:
        self.parameters = list(network.parameters())
        self.weights = [parameter.detach().clone() for parameter in self.parameters]
        self.score = score

    def offer(self, score: Score, improvement: float) -> bool:
        """Keep the weights of the members that did better; says whether any member's error fell."""
        fell = score.error < self.score.error * (1 - improvement) - NEGLIGIBLE
        equal = score.error <= self.score.error * (1 + improvement) + NEGLIGIBLE
        better = fell | (equal & (score.loss < self.score.loss))
        self.score = Score(*(torch.where(better, new, old) for new, old in zip(score, self.score, strict=True)))
        for kept, parameter in zip(self.weights, self.parameters, strict=True):
            kept[better] = parameter.detach()[better]
        return bool(fell.any())

    @torch.no_grad()
    def restore(self) -> None:
        """Put the best weights back into the network."""
        for kept, parameter in zip(self.weights, self.parameters, strict=True):
            parameter.copy_(kept)
