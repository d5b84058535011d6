"""Plans and policy act in turns, and what came of them says which of the two an agent plays.

The critics' error about a state is larger than what a plan promises beyond the policy, so promises cannot say who does
better. Outcomes of both can (docs/planfirst.md).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from dyna.rings import Ring

STEPS = 100
"""Of a turn: a fall is charged to who led there. An episode's end ends it too."""
AUDITED = 1 / 3
"""Share of turns that are played as an agent plays, without noise, by plans and by the policy in pairs: these are
compared. Their share is the same at all times, so that what changes while the agent learns changes for both."""
KEPT = 10
"""Newest audited turns of each that count."""
FEWEST = 5
"""Audited turns of each without which they are not compared."""


OWN = ("left", "planned", "noisy", "outcome", "first", "last")  # attributes of a state


class Turns:
    """Who acts in each environment, for how many more steps, and what came of it."""

    def __init__(self, n_envs: int, device: torch.device | str = "cpu") -> None:
        self.audited = [Ring(KEPT, {"outcome": 2}, device) for _ in range(2)]  # the policy's, and those of plans
        self.first = torch.ones((), dtype=torch.bool)  # whether the next audited turn is the first of a pair
        self.last = torch.ones((), dtype=torch.bool)  # whether plans had the last one
        self.begin(n_envs, device)

    def begin(self, n_envs: int, device: torch.device | str = "cpu") -> None:
        """Leave the turns that are under way: plans act, with noise, until the next."""
        self.left = torch.zeros(n_envs, dtype=torch.int64)
        self.planned = torch.ones(n_envs, dtype=torch.bool, device=device)
        self.noisy = torch.ones(n_envs, dtype=torch.bool, device=device)
        self.outcome = torch.zeros(n_envs, 2, device=device)  # of the turn: the sum over its windows, and their number

    def forget(self) -> None:
        """Forget what came of turns: it was in another world."""
        for ring in self.audited:
            ring.added = 0

    def take(self, waiting: Tensor, lead: float, rng: torch.Generator) -> None:
        """Where no window is under way, in environments [W], the next turn begins if the last is over.

        Of the turns with noise plans have a share of `lead`, or a half where that is NaN.
        """
        new = waiting[self.left[waiting] == 0]
        if not len(new):
            return
        self.left[new] = STEPS
        self.outcome[new] = 0.0
        draws = torch.rand(len(new), 2, generator=rng, device=rng.device).tolist()
        for env, (audit, who) in zip(new.tolist(), draws, strict=True):
            self.noisy[env] = audit >= AUDITED
            self.planned[env] = self._audited(who) if audit < AUDITED else who < (0.5 if math.isnan(lead) else lead)

    def _audited(self, who: float) -> bool:
        """Whether plans have an audited turn that begins: the first of a pair by a coin in [0, 1), then the other."""
        self.last.fill_(who < 0.5 if self.first else not self.last)
        self.first.logical_not_()
        return bool(self.last)

    def note(self, envs: Tensor, beyond: Tensor) -> None:
        """What windows [W] that have just ended in some environments brought beyond the value of their first state."""
        self.outcome[envs] += torch.stack([beyond, torch.ones_like(beyond)], dim=1)

    def advance(self, done: Tensor) -> bool:
        """One more step of every environment, with which some episodes ended, bool [n_envs]: whether `lead` changed."""
        under = self.left > 0
        self.left[under] -= 1
        self.left[done] = 0
        ended = (under & (self.left == 0)).to(self.noisy.device) & ~self.noisy & (self.outcome[:, 1] > 0)
        for planned, ring in enumerate(self.audited):
            of_its = self.outcome[ended & (self.planned == bool(planned))]
            if len(of_its):
                ring.add(outcome=of_its)
        return bool(ended.any())

    def lead(self) -> float:
        """How likely plans do better than the policy, by the audited turns of both; NaN while there are few."""
        if min(ring.size for ring in self.audited) < FEWEST:
            return math.nan
        return likely_greater(*(ring.all()["outcome"] for ring in reversed(self.audited)))

    def state_dict(self) -> dict[str, Any]:
        """Whose turn it is, for how long, and what came of the others."""
        own = {name: getattr(self, name) for name in OWN}
        return {**own, "audited": [ring.state_dict() for ring in self.audited]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for name in OWN:
            getattr(self, name).copy_(state[name])
        for ring, saved in zip(self.audited, state["audited"], strict=True):
            ring.load_state_dict(saved)


def likely_greater(ours: Tensor, theirs: Tensor) -> float:
    """How likely the first of two ratios is the greater one: sums and numbers [M, 2] and [N, 2] of turns -> [0, 1].

    A turn's windows depend on one another, turns do not: the variance of a ratio is that between turns (the ratio
    estimator, Cochran 1977, 6.3), and its error is taken for normal.
    """
    (mean, variance), (other, its_variance) = _ratio(ours), _ratio(theirs)
    error = math.sqrt(variance + its_variance)
    return 0.5 * (1.0 + math.erf((mean - other) / (math.sqrt(2.0) * error))) if error else float(mean >= other)


def _ratio(turns: Tensor) -> tuple[float, float]:
    """The sum over all windows of turns [N, 2] for each of them, and its variance."""
    total, number = turns.double().sum(0).tolist()
    ratio = total / number
    apart = (turns[:, 0] - ratio * turns[:, 1]).double().square().sum().item()
    return ratio, apart / number**2 * len(turns) / (len(turns) - 1)
