"""Plans and policy act in turns, and what really came of each says how often plans get the next.

What a plan promises beyond the policy is less than what is not known of any state; what comes of a few hundred windows
of either is seen (docs/planfirst.md, which compares this with other rules).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

PLANS, POLICY, EXPLORER = range(3)
"""Who acts: Mode-2; Mode-1 as it plays; Mode-1 with the noise by which it explores."""
STEPS = 100
"""Of a turn: a fall is charged to who led there. An episode's end ends it too."""
FEWEST = 20
"""Outcomes of plans, and of the policy, without which they are not compared."""


class Turns:
    """Who acts in each environment, and for how many more steps."""

    def __init__(self, n_envs: int, device: torch.device | str = "cpu") -> None:
        self.left = torch.zeros(n_envs, dtype=torch.int64)
        self.actor = torch.full((n_envs,), PLANS, device=device)

    def take(self, waiting: Tensor, belief: float, audit: float, rng: torch.Generator) -> Tensor:
        """Who acts now [n_envs]; in environments [W] where no window is under way, the next turn begins if it is time.

        A share `audit` of turns is the policy's as it plays, to know what that is worth. Of the others plans have a
        share of `belief`, a half where that is NaN, and no less than `audit`; so has the policy with noise.
        """
        new = waiting[self.left[waiting] <= 0]
        if len(new):
            drawn, audited = torch.rand(2, len(new), generator=rng, device=rng.device)
            share = 0.5 if math.isnan(belief) else min(max(belief, audit), 1.0 - audit)
            actor = torch.where(drawn < share, PLANS, EXPLORER)
            self.actor[new.to(rng.device)] = torch.where(audited < audit, POLICY, actor)
            self.left[new] = STEPS
        return self.actor

    def advance(self, done: Tensor) -> bool:
        """One more step of every environment, with which some episodes ended, bool [n_envs]: whether a turn did."""
        self.left -= 1
        self.left[done] = 0
        return bool((self.left <= 0).any())

    def state_dict(self) -> dict[str, Any]:
        """Whose turn it is, and for how long."""
        return {"left": self.left, "actor": self.actor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.left.copy_(state["left"])
        self.actor.copy_(state["actor"])


def belief(plans: Tensor, policy: Tensor) -> float:
    """How likely plans do better than the policy, by what came of each beyond the same V: outcomes [P] and [R].

    Their means are taken for normal, with the variance of both groups; NaN with fewer than `FEWEST` of either.
    """
    if min(len(plans), len(policy)) < FEWEST:
        return math.nan
    apart = float(plans.mean() - policy.mean())
    error = math.sqrt(float(plans.var()) / len(plans) + float(policy.var()) / len(policy))
    return 0.5 * (1.0 + math.erf(apart / (math.sqrt(2.0) * error))) if error else float(apart >= 0.0)
