"""What a plan promised, what came of it, and which part of the agent the difference belongs to.

A window is H executed steps that began with a plan. With V = 0 where the task ended and V of the last state where it
went on or a time limit cut it,

    G        what came: sum gamma^k r_k + gamma^H V(s_H)
    J_plan   what the plan promised
    J_exec   what the world model says of the actions that were executed
    J_pi     what it says of the actions that the policy alone would have planned

    G - J_plan = (G - J_exec) + (J_exec - J_plan) = D_model + D_replan
    D_model    = D_dynamics + D_reward + D_termination
    D_critic   = G - V(s_0), with no model in it
    D_pi       = J_plan - J_pi, the amortisation gap: what planning adds

All of them hold V, of plans too that were found without it. J_plan and J_pi know V as it was when the window began, the
rest as it is at its end: only D_replan takes part in what was learned between.

Letters: W windows, H steps, K members, C critics.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dyna.plan_model import PlanModel
from dyna.plan_scores import Value, propagated_returns, sampled_returns
from dyna.returns import discounted_return
from dyna.types import Transitions


class Account(NamedTuple):
    """Promise and outcome of W windows, [W] each, in units of return."""

    realised: Tensor  # G
    planned: Tensor  # J_plan
    policy: Tensor  # J_pi
    executed: Tensor  # J_exec
    value: Tensor  # V(s_0)
    reward: Tensor  # part of D_model: the reward head, asked about the real steps
    termination: Tensor  # part of D_model: the termination head, asked about the real steps

    @property
    def broken(self) -> Tensor:
        """G - J_plan: how far the promise was from the outcome."""
        return self.realised - self.planned

    @property
    def model(self) -> Tensor:
        """D_model: what the world model got wrong about the actions that were executed."""
        return self.realised - self.executed

    @property
    def dynamics(self) -> Tensor:
        """D_dynamics: the part of D_model that is left when the other two heads have theirs."""
        return self.model - self.reward - self.termination

    @property
    def replan(self) -> Tensor:
        """D_replan: what the model sees in doing other actions than the plan's, and what V learned in the meantime."""
        return self.executed - self.planned

    @property
    def critic(self) -> Tensor:
        """D_critic: the H-step residual of the critics on what happened."""
        return self.realised - self.value

    @property
    def policy_gap(self) -> Tensor:
        """D_pi: what the plan promised beyond the policy."""
        return self.planned - self.policy


@torch.no_grad()
def settle(
    model: PlanModel, steps: Transitions, *, planned: Tensor, policy: Tensor, value: Value, gamma: float
) -> Account:
    """The account of W windows of real steps [H, W, .], with what was promised of them, J_plan and J_pi [W].

    A window that ended early is shorter, and so belongs in a call of its own length.
    """
    first, last = steps.obs[0], steps.next_obs[-1]
    last_value = _mean(value(last))
    realised = discounted_return(steps.reward, steps.terminated, last_value, gamma)
    reward, ends = _judged(model, steps)  # [H, K, W]
    happened = steps.terminated.unsqueeze(1).expand_as(ends)
    with_reward = discounted_return(reward, happened, last_value, gamma).mean(0)
    with_both = discounted_return(reward, ends, last_value, gamma).mean(0)
    return Account(
        realised=realised,
        planned=planned,
        policy=policy,
        executed=propagated_returns(model, first, _plans(steps), gamma=gamma, value=value).mean(0)[:, 0],
        value=_mean(value(first)),
        reward=realised - with_reward,
        termination=with_reward - with_both,
    )


@torch.no_grad()
def chance(
    model: PlanModel, steps: Transitions, *, value: Value, gamma: float, particles: int, rng: torch.Generator
) -> Tensor:
    """Standard deviation [W] of the return of windows [H, W, .] that the model's members put down to noise alone.

    `particles` a member; the mean over critics of each particle's return, its variance within members, their mean.
    """
    total = particles * model.members
    returns = sampled_returns(
        model, steps.obs[0], _plans(steps), particles=total, gamma=gamma, value=value, rng=rng
    )  # [C P, W, 1]
    by_member = returns.view(-1, model.members, particles, returns.shape[1]).mean(0)
    return by_member.var(1).mean(0).sqrt()


def interquartile_range(values: Tensor) -> Tensor:
    """The spread of the middle half of values [N] -> []."""
    return values.quantile(0.75) - values.quantile(0.25)


def _plans(steps: Transitions) -> Tensor:
    """The executed actions [H, W, A] as candidates [W, 1, H, A]."""
    return steps.action.transpose(0, 1).unsqueeze(1)


def _judged(model: PlanModel, steps: Transitions) -> tuple[Tensor, Tensor]:
    """Reward and probability of the end [H, K, W] that each member gives the real steps [H, W, .]."""
    rows = [part.flatten(0, 1).expand(model.members, -1, -1) for part in (steps.obs, steps.action, steps.next_obs)]
    reward, ends = model.outcome(*rows)  # [K, H W]
    shape = (model.members, *steps.reward.shape)
    return reward.view(shape).transpose(0, 1), ends.view(shape).transpose(0, 1)


def _mean(values: Tensor) -> Tensor:
    """The mean opinion [B] of [B] or [C, B]."""
    return values.view(-1, values.shape[-1]).mean(0)
