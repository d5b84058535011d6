"""Training steps of the ensemble, and the units that it learns in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from dyna.lessons import Rows, draw_batches, foretells, targets
from dyna.scoring import gaussian_loss, mean_of
from dyna.types import Transitions

if TYPE_CHECKING:
    from dyna.world_model import GaussianEnsemble


def set_units(model: GaussianEnsemble, data: Transitions, rewards: Tensor) -> None:
    """Every dimension by its own spread, the reward among them (arXiv 2510.01457), and the box of living states.

    Every other row makes the box, so that the rest show what leaving it means where it does not end the task. Where
    all `rewards` are the same, those of held-out rows too, they have no spread, and a size all the same.
    """
    alive = data.next_obs[::2][data.terminated[::2] == 0]
    if len(alive):
        model.alive_low.copy_(alive.amin(0))
        model.alive_high.copy_(alive.amax(0))
    changes = torch.cat([data.next_obs - data.obs, data.reward[:, None]], dim=1)
    model.change_std.copy_(moments(changes)[1])
    model.change_std[:-1][(changes[:, :-1] == changes[0, :-1]).all(0)] = torch.inf  # nobody could differ about it
    units = {"x": moments(torch.cat([data.obs, data.action], 1))}
    if model.settings.normalise_targets:
        units["y"] = moments(targets(model, data))
    seen = model.seen
    for kind, (mean, std) in units.items():
        getattr(model, f"{kind}_mean").copy_(mean)
        getattr(model, f"{kind}_std").copy_(std)
    model.see(seen)
    if model.settings.centred_edges:  # most states are far within, which is as good as a large constant input
        model.edge_mean.copy_(model.beyond_edges(data.next_obs).mean(0))
    size = float(rewards[0].abs())
    if size and (rewards == rewards[0]).all():
        model.change_std[-1] = size
        if model.settings.normalise_targets:
            model.y_std[-1] = size


def moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each column [B, D] -> [D], [D]; a constant column has no spread and gets 1."""
    wide = values.double()
    mean, std = wide.mean(0), wide.std(0, correction=0)
    std[std <= 1e-6 * mean.abs().clamp_min(1e-12)] = 1.0
    return mean.to(values), std.to(values)


def update(model: GaussianEnsemble, rows: Rows, adam: torch.optim.AdamW, updates: int, rng: torch.Generator) -> None:
    """Take training steps, each member on batches of its own."""
    parameters = list(model.parameters())
    index, extra = draw_batches(model, rows, updates, rng)
    for batch in index:  # [E, b]
        grads = torch.autograd.grad(_loss(model, rows, batch, extra, rng), parameters)
        for parameter, grad in zip(parameters, grads, strict=True):
            parameter.grad = grad
        adam.step()


def _loss(model: GaussianEnsemble, rows: Rows, index: Tensor, extra: int, rng: torch.Generator) -> Tensor:
    """Negative log-likelihood of next state, reward and termination on rows [E, b], summed over members.

    The first `extra` columns are the terminal rows that were added: they teach termination alone.
    """
    flat = index.flatten()
    x, y, next_obs, terminated = (part.index_select(0, flat).view(*index.shape, *part.shape[1:]) for part in rows[:4])
    first = 0 if model.learns_foretold else extra  # the added rows need a state only to be foretold
    state = model.state_head(x[:, first:])
    if model.learns_foretold:
        next_obs = torch.where(foretells(rows, index, rng).unsqueeze(-1), model.foretold(x, state), next_obs)
    outcome, beta = model.outcome_head(x, next_obs), model.settings.beta
    mean, log_var = (part[:, extra - first :] for part in state)
    by_state = gaussian_loss(mean, log_var, y[:, extra:, :-1], beta)
    by_reward = gaussian_loss(outcome.mean[:, extra:], outcome.log_var[:, extra:], y[:, extra:, -1], beta)
    if rows.lessons is None:
        by_end = F.binary_cross_entropy_with_logits(outcome.logit, terminated)
        return len(index) * (by_state.mean() + by_reward.mean() + by_end)
    of_state, of_reward, of_end = rows.lessons[index].unbind(-1)
    by_end = F.binary_cross_entropy_with_logits(outcome.logit, terminated, reduction="none")
    taught = mean_of(by_state.mean(-1), of_state[:, extra:]) + mean_of(by_reward, of_reward[:, extra:])
    return len(index) * (taught + mean_of(by_end, of_end))


def optimiser(model: GaussianEnsemble) -> torch.optim.AdamW:
    """A fresh AdamW, fused: one pass over all parameters."""
    settings = model.settings
    return torch.optim.AdamW(model.parameters(), settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
