"""The return of H steps: one formula for what a plan promises and for what came of it."""

from __future__ import annotations

import torch
from torch import Tensor


def discounted_return(reward: Tensor, ends: Tensor, last_value: Tensor | float, gamma: float) -> Tensor:
    """sum_k gamma^k alive_k r_k + gamma^H alive_H V, with alive_{k+1} = alive_k (1 - end_k) and alive_0 = 1.

    Reward and `ends` [H, ...], the value V of the state after the last step [...]; returns [...]. `ends` are
    probabilities where a model speaks, and 1 or 0 where it happened: an end of the task leaves no value behind, a time
    limit does (Pardo et al. 2018).
    """
    alive = torch.cat([torch.ones_like(ends[:1]), (1 - ends).cumprod(0)])
    discounts = torch.full((len(alive), *[1] * (alive.dim() - 1)), gamma, device=alive.device, dtype=alive.dtype)
    discounts[0] = 1.0
    weight = discounts.cumprod(0) * alive
    return (weight[:-1] * reward).sum(0) + weight[-1] * last_value
