"""Plans that a policy would make: what a planner begins from, and what it must beat."""

from __future__ import annotations

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
