"""Rollouts of a policy through the model: differentiable for its gradient, or long, for what critics learn.

Stochastic value gradients for the actor (Heess et al. 2015, 1510.09142; DHMBPO: Kubo et al. 2025); model value
expansion (Feinberg et al. 2018, 1803.00101) by lambda-returns for the critics.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from dyna.segments import collected, dealt
from dyna.types import Outcome
from dyna.world_model import GaussianEnsemble

Mask = Literal["soft", "hard", "differentiable"]
Noise = Literal["drawn", "inferred"]

UNLIKELY = 0.01
"""Probability that a step is the last, below which nobody is asked for its slope."""

ActionValue = Callable[[Tensor, Tensor], Tensor]
"""What critics say of actions: obs [N, S], action [N, A] -> [N]."""

Sampler = Callable[[Tensor], tuple[Tensor, Tensor]]
"""A reparameterised policy: obs [B, S] -> action [B, A] in [-1, 1] and its log-density [B]."""


class Expansion(NamedTuple):
    """H imagined steps with their gradients, and the state and action that follow them."""

    obs: Tensor  # [H+1, B, S] env units
    action: Tensor  # [H+1, B, A] in [-1, 1]
    log_prob: Tensor  # [H+1, B] nats
    reward: Tensor  # [H, B] env units
    end: Tensor  # [H, B] probability that the step ends the task

    @property
    def alive(self) -> Tensor:
        """Probability [H+1, B] that the task has not ended before the step; 1 at first."""
        return torch.cat([torch.ones_like(self.log_prob[:1]), (1 - self.end).cumprod(dim=0)])

    def action_values(self, value: Tensor, *, alpha: Tensor, gamma: float, return_lambda: float) -> Tensor:
        """Entropy-regularised return [H+1, B] of every action, from `value` [H+1, B], what critics say of them.

        The lambda-return (Sutton & Barto 2018, section 12.1): with 1 only the last value counts, with 0 each action
        looks one step ahead. After a certain end nothing counts, whatever the model says of it.
        """
        returns = [value[-1]]
        for t in range(len(self.reward) - 1, -1, -1):
            following = torch.lerp(value[t + 1], returns[-1], return_lambda) - alpha * self.log_prob[t + 1]
            going_on = torch.where(self.end[t] < 1, (1 - self.end[t]) * following, 0.0)
            returns.append(self.reward[t] + gamma * going_on)
        return torch.stack(returns[::-1])

    def first_value(self, value: ActionValue, *, alpha: Tensor, gamma: float) -> Tensor:
        """Discounted entropy-regularised return [B] of the first action: the first of `action_values`, sooner.

        Its slope knows more. An end that is not differentiable has none, and nothing comes after it: a policy that
        falls before the last step would never learn not to. So as far as a step ends the task, its reward has the slope
        of what critics say of its action, who know what comes where it does not.
        """
        likely = self.alive[:-1] * self.end > UNLIKELY
        ends = (likely & (not self.end.requires_grad)).nonzero(as_tuple=True)
        asked = (torch.cat([part[:-1][ends], part[-1]]) for part in (self.obs, self.action))
        told, n = value(*asked), len(ends[0])
        last, beyond = told[n:], self.end[ends].detach() * (told[:n] - self.reward[ends])
        reward = self.reward.index_put(ends, self.reward[ends] + beyond - beyond.detach())
        weight = gamma ** torch.arange(len(self.log_prob), device=last.device).unsqueeze(1) * self.alive
        earned = torch.cat([reward, last.unsqueeze(0)])
        return (weight * earned).sum(0) - alpha * (weight[1:] * self.log_prob[1:]).sum(0)

    def at_once(self) -> Expansion:
        """The same without its steps: the first action is the last."""
        return Expansion(self.obs[:1], self.action[:1], self.log_prob[:1], self.reward[:0], self.end[:0])


@dataclass(frozen=True, eq=False)
class Valued:
    """Steps, imagined or real, and what they are worth: what critics learn from."""

    obs: Tensor  # [N, S] env units
    action: Tensor  # [N, A] in [-1, 1]
    value: Tensor  # [N] discounted return

    @classmethod
    def of(cls, rollout: Expansion, value: Tensor) -> Valued:
        """The steps of a rollout that are more likely to be reached than not, with their values [H, B]."""
        rows = (rollout.alive[:-1].flatten() > 0.5).nonzero().squeeze(1)
        obs, action = (part[:-1].flatten(0, 1)[rows] for part in (rollout.obs, rollout.action))
        return cls(obs, action, value.flatten()[rows])

    def joined(self, more: Valued) -> Valued:
        """These steps and more of them."""
        return Valued(*(torch.cat([getattr(each, name) for each in (self, more)]) for name in vars(self)))

    def sample(self, rows: int, *, rng: torch.Generator) -> Valued:
        """[rows, .] of them, uniform with replacement."""
        drawn = torch.randint(len(self.value), (rows,), generator=rng, device=self.value.device)
        return Valued(*(part.index_select(0, drawn) for part in (self.obs, self.action, self.value)))


def expand(
    model: GaussianEnsemble,
    policy: Sampler,
    start: Tensor,
    horizon: int,
    *,
    mask: Mask = "soft",
    noise: Tensor | None = None,
    rng: torch.Generator,
) -> Expansion:
    """Roll the policy from `start` [B, S], env units, through the model for `horizon` steps, with gradients.

    Every member takes an equal part of the rows through all steps (TS-infinity: Chua et al. 2018, section 5.1), so
    there must be a multiple of E rows; raises ValueError otherwise. The noise of the next states is drawn, and reward
    and end are asked of the expected ones. Or it is given, [H, B, S] in standard deviations, as `Segments.noise` finds
    it: then members take turns, and reward and end are asked of the states that are reached.

    The end of the task is not drawn: a step counts with the probability that it is reached. `hard` makes this 0 or 1.
    Only `differentiable` lets gradients flow through the probability: how steeply a classifier rises is a matter of its
    fit, and not of the task.
    """
    obs = shared(start, model)
    steps: list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]] = []
    for t in range(horizon):
        action, log_prob = policy(obs)
        outcome = _step(model, obs, action, rng) if noise is None else _led(model, obs, action, noise[t], t)
        steps.append((obs, action, log_prob, outcome.reward, counted(outcome.terminated, mask)))
        obs = outcome.next_obs
    action, log_prob = policy(obs)
    passed, actions, log_probs, rewards, ends = zip(*steps, strict=True)
    return Expansion(
        obs=torch.stack([*passed, obs]),
        action=torch.stack([*actions, action]),
        log_prob=torch.stack([*log_probs, log_prob]),
        reward=torch.stack(rewards),
        end=torch.stack(ends),
    )


def shared(start: Tensor, model: GaussianEnsemble) -> Tensor:
    """The rows [B, S], if every member can take an equal part of them; raises ValueError otherwise."""
    if len(start) % model.settings.members:
        raise ValueError(f"rows must be a multiple of the {model.settings.members} members, got {len(start)}")
    return start


def counted(p_terminated: Tensor, mask: Mask) -> Tensor:
    """How far a step counts as the last, from the probability that it is, any shape."""
    if mask == "hard":
        return (p_terminated > 0.5).to(p_terminated)
    return p_terminated if mask == "differentiable" else p_terminated.detach()


def _step(model: GaussianEnsemble, obs: Tensor, action: Tensor, rng: torch.Generator) -> Outcome:
    """One reparameterised step: next obs drawn, the mean reward, the probability of the end as `terminated`."""
    members = model.settings.members
    prediction = model.predict_own(obs.view(members, -1, obs.shape[1]), action.view(members, -1, action.shape[1]))
    mean, std, p_terminated = (part.flatten(0, 1) for part in prediction)
    noise = torch.randn(obs.shape, generator=rng, device=obs.device)
    # how the noise grows with the action is left out of the gradient: half of the cost for little of the slope
    next_obs = mean[:, :-1] + std[:, :-1].detach() * noise
    return model.known(obs, action, Outcome(next_obs, mean[:, -1], p_terminated))


def _led(model: GaussianEnsemble, obs: Tensor, action: Tensor, noise: Tensor, t: int) -> Outcome:
    """One step with the noise [B, S] that is given, at turn t."""
    members = model.settings.members
    parts = dealt(obs, members, t)
    x = model.normalise_input(parts, dealt(action, members, t))
    state = model.state_head(x)
    std = (0.5 * state.log_var.detach()).exp() * model.y_std[:-1]
    next_obs = model.next_obs(parts, state.mean) + std * dealt(noise, members, t)
    said = model.told(model.outcome_head(x, next_obs))
    return model.known(obs, action, Outcome(*(collected(part, t) for part in (next_obs, *said))))
