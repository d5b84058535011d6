"""Mode-2 against Mode-1: each acts for a while, and what came of it says which of them shall act.

What a plan promises beyond the policy is a hundredth of what a state is worth, less than is known of any state
(docs/planfirst.md). What a hundred steps by plans and by the policy earn differs by far more, and is seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dyna.rings import Ring
from dyna.types import Transitions

NONE = -1  # age of an environment's trial where none is under way
STEPS = 100
"""Of a trial; an episode's end ends it too."""
RECENT = 20
"""Trials that count: what plans and the policy were worth before is of no matter."""
FEWEST = 2
"""Recent trials of each without which that one is tried next."""


class Trials:
    """One trial an environment at a time, by plans or by the policy; the surer one is the worse, the less it acts.

    The outcome of a trial is what was earned and what critics say of where it led, less what they said of where it
    began, discounted: the constant that they lack is in both. Plans act as often as it is likely that they earn more
    (Thompson 1933; means of the recent trials with a common variance), but for a share `audit` that either gets.

    :param value: What observations [B, S] are worth: [B].
    """

    def __init__(
        self, n_envs: int, value: Callable[[Tensor], Tensor], *, gamma: float, audit: float, device: torch.device | str
    ) -> None:
        self.value, self.gamma, self.audit = value, gamma, audit
        self.age = torch.full((n_envs,), NONE)
        self.planned = torch.zeros(n_envs, dtype=torch.bool, device=device)
        self.outcome = torch.zeros(n_envs, device=device)  # so far
        self.recent = Ring(RECENT, {"planned": 1, "outcome": 1})

    def plans(self, obs: Tensor, rng: torch.Generator) -> Tensor:
        """In which environments, now in states [n_envs, S], plans act: bool [n_envs]. Where no trial is, one begins."""
        new = (self.age == NONE).nonzero().squeeze(1)
        if len(new):
            likely = torch.full((len(new),), self.likely())
            self.planned[new] = torch.rand(len(new), generator=rng, device=rng.device) < likely.to(rng.device)
            self.outcome[new] = -self.value(obs[new])
            self.age[new] = 0
        return self.planned

    def likely(self) -> float:
        """How likely plans get the next trial."""
        groups = self._groups()
        few = [len(group) < FEWEST for group in groups]
        if any(few):
            return 0.5 if all(few) else float(few[1])
        apart, (policy, plans) = self.advantage(), groups
        squares = sum(float((group - group.mean()).square().sum()) for group in groups)
        error = math.sqrt(squares / (len(policy) + len(plans) - 2) * (1 / len(policy) + 1 / len(plans)))
        likely = 0.5 * (1 + math.erf(apart / (math.sqrt(2) * error))) if error else float(apart >= 0)
        return min(max(likely, self.audit), 1 - self.audit)

    def advantage(self) -> float:
        """By how much the recent trials of plans were better than the policy's; NaN where one had none."""
        policy, plans = self._groups()
        return float(plans.mean() - policy.mean())

    def advance(self, step: Transitions, done: Tensor) -> Tensor:
        """The newest step [n_envs, .], with which some episodes ended (bool [n_envs]); the trials that did [T]."""
        under = (self.age != NONE).to(self.outcome.device)
        weight = self.gamma ** self.age.clamp_min(0).to(self.outcome)
        self.outcome += torch.where(under, weight * step.reward, 0.0)
        self.age[self.age != NONE] += 1
        over = (self.age != NONE) & (done | (self.age == STEPS))
        envs = over.nonzero().squeeze(1)
        if not len(envs):
            return envs
        left = self.gamma ** self.age[envs].to(self.outcome) * (1 - step.terminated[envs])
        outcome = self.outcome[envs] + left * self.value(step.next_obs[envs])
        self.recent.add(planned=self.planned[envs, None].float(), outcome=outcome[:, None])
        self.age[envs] = NONE
        return envs

    def drop(self, envs: Tensor | slice = slice(None)) -> None:
        """Forget what is under way in some environments, or all."""
        self.age[envs] = NONE

    def _groups(self) -> tuple[Tensor, Tensor]:
        """Outcomes of the policy and of plans."""
        recent = self.recent.all()
        planned, outcome = recent["planned"].squeeze(1) > 0, recent["outcome"].squeeze(1)
        return outcome[~planned], outcome[planned]

    def state_dict(self) -> dict[str, Any]:
        """What is under way and what came of it."""
        own = {name: getattr(self, name) for name in ("age", "planned", "outcome")}
        return {**own, "recent": self.recent.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for name in ("age", "planned", "outcome"):
            getattr(self, name).copy_(state[name])
        self.recent.load_state_dict(state["recent"])
