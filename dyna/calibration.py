"""How surprised a world model may be, head by head, before it counts as wrong: split-conformal prediction sets.

A head's score of a real step grows with its surprise. The threshold is the 90 % quantile of the scores on held-out
rows, with the finite-sample rule of split-conformal prediction (Vovk et al. 2005; Angelopoulos & Bates 2021,
2107.07511, section 1), and stays frozen until the next refit: a threshold that adapts online forces the share of misses
to its target, and nobody would ever be surprised for long.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dyna.lessons import targets
from dyna.types import Transitions
from dyna.world_model import GaussianEnsemble

HEADS = ("dynamics", "reward", "termination")
SURE = 0.01  # nats: log-losses below it are all the same, or a head that has seen no end is surprised by 1e-9
MISS_RATE = 0.1
"""Share of new rows that may lie outside their prediction sets."""


@torch.no_grad()
def surprise(model: GaussianEnsemble, rows: Transitions) -> Tensor:
    """Scores [3, B] of `HEADS` on real steps [B, .]: mean of (y - mu)^2 / (var_aleatoric + var_epistemic), or log-loss.

    Reward and termination are surprised only where neither the real next observation nor the expected one explains
    what came: a wrong state is not held against them, nor a real one that the old world could not have led to. A head
    in whose place the model has an exact function is never surprised.
    """
    elites = model.elites
    x = model.normalise_input(rows.obs, rows.action).expand(len(elites), len(rows.obs), -1)
    target = (targets(model, rows) - model.y_mean) / model.y_std
    state = model.state_head(x, elites)
    dynamics = _squared(state.mean, state.log_var, target[:, :-1]).mean(-1)
    expected = model.next_obs(rows.obs, state.mean)
    by_real = _of_outcomes(model, x, rows.next_obs.expand_as(expected), rows.terminated, target[:, -1])
    by_expected = _of_outcomes(model, x, expected, rows.terminated, target[:, -1])
    reward, termination = torch.minimum(by_real, by_expected)
    return torch.stack(
        [
            dynamics,
            torch.zeros_like(reward) if model.reward_fn is not None else reward,
            torch.zeros_like(termination) if model.termination_fn is not None else termination,
        ]
    )


def _of_outcomes(model: GaussianEnsemble, x: Tensor, next_obs: Tensor, terminated: Tensor, reward: Tensor) -> Tensor:
    """Scores [2, B] of the reward and termination heads for next observations [K, B, S], one for each elite."""
    outcome = model.outcome_head(x, next_obs, model.elites)
    p_terminated = torch.sigmoid(outcome.logit - model.log_oversampling).mean(0).clamp(0.0, 1.0)
    surprised = F.binary_cross_entropy(p_terminated, terminated, reduction="none").clamp_min(SURE)
    return torch.stack([_squared(outcome.mean, outcome.log_var, reward), surprised])


@torch.no_grad()
def disagreement(model: GaussianEnsemble, obs: Tensor, action: Tensor) -> Tensor:
    """Epistemic share of the predicted variance of the next state, mean over dimensions: [B, S], [B, A] -> [B]."""
    elites = model.elites
    x = model.normalise_input(obs, action).expand(len(elites), len(obs), -1)
    state = model.state_head(x, elites)
    epistemic = state.mean.var(0, correction=0)
    return (epistemic / (epistemic + state.log_var.exp().mean(0))).mean(-1)


def conformal_quantile(scores: Tensor, miss_rate: float = MISS_RATE) -> Tensor:
    """The ceil((n+1)(1-a))-th smallest of scores [..., n]: a new exchangeable one lies above it with chance a at most.

    Infinite where n is too small for any finite set: [...].
    """
    n = scores.shape[-1]
    rank = math.ceil(round((n + 1) * (1.0 - miss_rate), 9))  # the product of two decimals is not exact in binary
    if rank > n:
        return scores.new_full(scores.shape[:-1], math.inf)
    return scores.kthvalue(rank, dim=-1).values if rank else scores.new_full(scores.shape[:-1], -math.inf)


class Thresholds(nn.Module):
    """What counts as a surprise until the next refit; part of a saved agent."""

    heads: Tensor  # [3] of `surprise`: the prediction sets
    wide: Tensor  # [3] of sets that half as many rows miss, which leaves the other half to tests in units of return
    disagreement: Tensor  # [] of `disagreement`
    tau: Tensor  # [] units of return: a difference of values that matters
    bias: Tensor  # [] units of return: what the critics' residual is everywhere
    gap: Tensor  # [] units of return: running mean of D_pi; this and the next are not frozen
    lead: Tensor  # [] how likely plans do better than the policy; NaN where that was not tried

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("heads", torch.full((len(HEADS),), math.inf))
        self.register_buffer("wide", torch.full((len(HEADS),), math.inf))
        self.register_buffer("disagreement", torch.tensor(-math.inf))
        self.register_buffer("tau", torch.tensor(math.inf))
        self.register_buffer("bias", torch.tensor(0.0))
        self.register_buffer("gap", torch.tensor(math.inf))
        self.register_buffer("lead", torch.tensor(math.nan))

    @torch.no_grad()
    def freeze(self, model: GaussianEnsemble, held: Transitions, tau: Tensor, bias: Tensor) -> None:
        """Set them from rows that the model was not trained on [B, .], tau [] and bias []."""
        scores = surprise(model, held)
        self.heads.copy_(_sets(scores, held.terminated, MISS_RATE))
        self.wide.copy_(_sets(scores, held.terminated, MISS_RATE / 2))
        familiar = conformal_quantile(disagreement(model, held.obs, held.action))
        few = familiar.isinf()  # then no state is familiar
        self.disagreement.copy_(torch.where(few, -math.inf, familiar))
        self.tau.copy_(tau)
        self.bias.copy_(bias)

    def follow(self, gap: Tensor, share: float = 0.1) -> None:
        """Move the running mean of D_pi a share of the way to a new one []."""
        self.gap.copy_(torch.lerp(self.gap, gap, share) if torch.isfinite(self.gap) else gap)

    def missed(self, scores: Tensor) -> Tensor:
        """Whether scores [3, B] lie outside the prediction sets: bool [3, B]."""
        return scores > self.heads[:, None]


def _sets(scores: Tensor, terminated: Tensor, miss_rate: float) -> Tensor:
    """Thresholds [3] from scores [3, B] of held-out rows, of which [B] ended the task.

    Ends are so rare that a set which misses one row in ten may miss them all, and windows close with an end far more
    often than a row is one. So the termination head's threshold is the higher of those of ends and of other rows alone
    (label-conditional sets: Vovk 2012, 1209.2673). With fewer than nine ends, or nineteen where half as many may be
    missed, it is infinite, and only what the head's errors cost in return is held against it.
    """
    heads = conformal_quantile(scores, miss_rate)
    kinds = [conformal_quantile(scores[-1, terminated == ended], miss_rate) for ended in (0.0, 1.0)]
    return torch.cat([heads[:-1], torch.stack(kinds).amax(0, keepdim=True)])


def _squared(mean: Tensor, log_var: Tensor, target: Tensor) -> Tensor:
    """Squared error of the elites' mean over the variance of their mixture: [K, B, ...] and [B, ...] -> [B, ...]."""
    var = log_var.exp().mean(0) + mean.var(0, correction=0)
    return (mean.mean(0) - target).square() / var
