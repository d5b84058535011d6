"""Plans that a policy would make: what a planner begins from, and what it must beat."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dyna.plan_model import PlanModel
from dyna.types import Act


@torch.no_grad()
def policy_plans(model: PlanModel, obs: Tensor, act: Act, n: int, horizon: int) -> Tensor:
    """`n` plans [B, n, H, A] that a policy makes from start states [B, S], following the mean of all members.

    `act` is asked for the actions of all B n rows at once, those of a start state side by side.
    """
    state = obs.repeat_interleave(n, dim=0)
    plans: list[Tensor] = []
    for step in range(horizon):
        if step:
            everyone = (part.expand(model.members, -1, -1) for part in (state, plans[-1]))
            state = model.next_mean(*everyone).mean(0)
        plans.append(act(state))
    return torch.stack(plans, dim=1).view(len(obs), n, horizon, -1)


def noisy_plans(
    model: PlanModel,
    obs: Tensor,
    react: Callable[[Tensor, Tensor], Tensor],
    n: int,
    horizon: int,
    *,
    rng: torch.Generator,
) -> Tensor:
    """As `policy_plans`, of a policy [R, S] -> [R, A] that noise [R, A] makes vary; the first plan's noise is 0."""
    size = model.model.action_size

    def act(state: Tensor) -> Tensor:
        noise = torch.randn(len(state), size, generator=rng, device=state.device)
        noise[::n] = 0.0
        return react(state, noise)

    return policy_plans(model, obs, act, n, horizon)
