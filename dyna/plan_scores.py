"""What a learned world model says of candidate plans: scores for the functions of `dyna.planners`.

Each function takes start states [B, S] and returns a score: actions [B, N, H, A] in [-1, 1] -> [B, N]. A return is

    sum_k gamma^k alive_k r_k + gamma^H alive_H V(s_H)        alive_{k+1} = alive_k (1 - p_terminated_k)

with the mean reward, the probability that a step is reached, and a terminal value V, if one is given. An exact reward
or termination function of the model is used in place of what it learned.

Letters: B start states, N candidates, R = B N rows, K members, P particles, H horizon, S observation, A action size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dyna.errors import UserError
from dyna.plan_model import PlanModel
from dyna.plans import Score
from dyna.returns import discounted_return

Value = Callable[[Tensor], Tensor]
"""What a state is worth: observations [B, S] in env units -> [B], or [C, B] where C critics differ."""


def mean_propagation(
    model: PlanModel, obs: Tensor, *, gamma: float = 0.99, pessimism: float = 0.0, value: Value | None = None
) -> Score:
    """Every candidate goes through every member, which follows its own mean from the start states [B, S].

    The score is the mean of the returns less `pessimism` times their standard deviation, over all members and critics.
    It draws no random number, and is differentiable where gradients are asked for.
    """

    def score(plans: Tensor) -> Tensor:
        returns = propagated_returns(model, obs, plans, gamma=gamma, value=value)
        return returns.mean(0) - pessimism * returns.std(0, correction=0)

    return score


def propagated_returns(
    model: PlanModel, obs: Tensor, plans: Tensor, *, gamma: float, value: Value | None = None
) -> Tensor:
    """What every member, with every critic, says of plans [B, N, H, A] from start states [B, S]: [K or C K, B, N]."""
    actions = _by_step(plans).unsqueeze(1).expand(-1, model.members, -1, -1)  # [H, K, R, A]
    path = [obs.repeat_interleave(plans.shape[1], dim=0).expand(model.members, -1, -1)]
    for action in actions:
        path.append(model.next_mean(path[-1], action))
    states = torch.stack(path)  # [H+1, K, R, S]
    reward, ends = _outcomes(model, states[:-1], actions, states[1:])
    returns = discounted_return(reward, ends, _last_value(value, states[-1]), gamma)  # [..., K, R]
    return returns.view(-1, *plans.shape[:2])


def trajectory_sampling(
    model: PlanModel,
    obs: Tensor,
    *,
    particles: int = 20,
    redeal: bool = False,
    gamma: float = 1.0,
    value: Value | None = None,
    rng: torch.Generator,
) -> Score:
    """Every candidate is tried by random trajectories from the start states [B, S]; the score is their mean return.

    A particle draws each next state from one member: the same throughout (TS-infinity), or with `redeal` another deal
    of the particles to the members before each step (TS1; Chua et al. 2018, section 5.1). Every member gets equally
    many, so `particles` must be a multiple of the members; raises UserError otherwise. Particle i of all candidates has
    the same members and the same noise, drawn anew in each call: candidates differ by their actions alone.
    """
    members = model.members
    if particles < 1 or particles % members:
        raise UserError(f"particles must be a multiple of the {members} members that plans believe, got {particles}")

    def score(plans: Tensor) -> Tensor:
        returns = sampled_returns(
            model, obs, plans, particles=particles, redeal=redeal, gamma=gamma, value=value, rng=rng
        )
        return returns.mean(0)

    return score


def sampled_returns(
    model: PlanModel,
    obs: Tensor,
    plans: Tensor,
    *,
    particles: int,
    redeal: bool = False,
    gamma: float,
    value: Value | None = None,
    rng: torch.Generator,
) -> Tensor:
    """What every particle, with every critic, brings of plans [B, N, H, A] from [B, S]: [P or C P, B, N].

    Without `redeal`, the first P/K particles are the first member's, and so on.
    """
    members, horizon, size = model.members, plans.shape[2], obs.shape[1]
    actions = _by_step(plans).unsqueeze(1).expand(-1, particles, -1, -1)  # [H, P, R, A]
    noise = torch.randn(horizon, particles, 1, size, generator=rng, device=obs.device, dtype=obs.dtype)
    places = torch.arange(particles, device=obs.device)  # [P] where each particle is; a member has P/K in a row
    state = obs.repeat_interleave(plans.shape[1], dim=0).expand(particles, -1, -1)  # [P, R, S] by place
    befores: list[Tensor] = []
    afters, homes = [], []
    for action, drawn in zip(actions, noise, strict=True):
        if redeal:
            move = torch.randperm(particles, generator=rng, device=obs.device)
            state, places = state[move], places[move]
        mean, std = _moments(model, state, action, same=not befores)
        befores.append(state)
        state = (mean + std * drawn.view(members, -1, 1, size)).view_as(state)
        afters.append(state)
        homes.append(places.argsort())
    by_place = _outcomes(model, torch.stack(befores), actions, torch.stack(afters))
    step = torch.arange(horizon, device=obs.device).unsqueeze(1)
    reward, ends = (part[step, torch.stack(homes)] for part in by_place)  # [H, P, R] by particle
    returns = discounted_return(reward, ends, _last_value(value, state)[..., homes[-1], :], gamma)  # [..., P, R]
    return returns.view(-1, *plans.shape[:2])


def _by_step(plans: Tensor) -> Tensor:
    """[B, N, H, A] -> [H, R, A]."""
    return plans.flatten(0, 1).transpose(0, 1).contiguous()


def _moments(model: PlanModel, state: Tensor, action: Tensor, *, same: bool) -> tuple[Tensor, Tensor]:
    """Mean and std [K, P/K or 1, R, S] of the next states of [P, R, S] and [P, R, A] by place.

    With `same`, all particles are in the same state, so that one a member is enough.
    """
    step = len(state) // model.members if same else 1
    own = [part[::step].reshape(model.members, -1, part.shape[2]) for part in (state, action)]
    mean, std = model.next_moments(*own)
    shape = (model.members, -1, *state.shape[1:])
    return mean.view(shape), std.view(shape)


def _outcomes(model: PlanModel, before: Tensor, action: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """Reward and probability of the end [H, K or P, R] of all steps [H, K or P, R, .] at once."""
    steps, trials, rows = before.shape[:3]

    def by_member(part: Tensor) -> Tensor:  # [K, H P/K R, .]
        return part.reshape(steps, model.members, -1, part.shape[3]).transpose(0, 1).flatten(1, 2)

    reward, ends = model.outcome(by_member(before), by_member(action), by_member(after))

    def by_step(part: Tensor) -> Tensor:
        return part.view(model.members, steps, -1, rows).transpose(0, 1).reshape(steps, trials, rows)

    return by_step(reward), by_step(ends)


def _last_value(value: Value | None, last: Tensor) -> Tensor:
    """The value of the last states [K or P, R, S] -> [..., K or P, R]; 0 without a value."""
    if value is None:
        return last.new_zeros(last.shape[:2])
    worth = value(last.flatten(0, 1))
    return worth.view(*worth.shape[:-1], *last.shape[:2])
