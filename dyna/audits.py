"""Plans and policy are audited: what comes of either in turns says which of the two an agent plays.

The critics' error about a state is larger than what a plan promises beyond the policy, so promises cannot say who does
better. Outcomes of both can (docs/planfirst.md).
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from dyna.rings import Ring

STEPS = 100
"""Of a turn, and what its last window needs: a fall is charged to who led there. An episode's end ends it too."""
KEPT = 10
"""Newest audits of each that count."""
FEWEST = 5
"""Audits of each without which they are not compared: with one environment and a share of a fifth 5,000 steps where
episodes are long, for a turn of STEPS is one audit at most."""
OWN = ("left", "planned", "noisy", "outcome")  # tensors of a state


class Audits:
    """Who acts in each environment, for how many more steps, and what came of audited turns.

    Most turns are planned, with the noise by which an agent explores. Audited ones are played as it plays, without
    noise, in pairs of one by plans and one by the policy. Their share is the same at all times, so that what changes
    while the agent learns changes for both.

    :param share: Of turns that are audited.
    """

    def __init__(self, n_envs: int, share: float, device: torch.device | str = "cpu") -> None:
        self.share = share
        self.known = [Ring(KEPT, {"outcome": 2}, device) for _ in range(2)]  # the policy's audits, and those of plans
        self.due: bool | None = None  # whether plans have the second audit of a pair; None where a first one is next
        self.begin(n_envs, device)

    def begin(self, n_envs: int, device: torch.device | str = "cpu") -> None:
        """Leave the turns that are under way."""
        self.left = torch.zeros(n_envs, dtype=torch.int64)
        self.planned = torch.ones(n_envs, dtype=torch.bool, device=device)
        self.noisy = torch.ones(n_envs, dtype=torch.bool, device=device)
        self.outcome = torch.zeros(n_envs, 2, device=device)  # of the turn: the sum over its windows, and their number

    def leave(self, env: int) -> None:
        """Leave the turn that is under way in one environment."""
        self.left[env] = 0
        self.outcome[env] = 0.0

    def take(self, waiting: Tensor, rng: torch.Generator) -> None:
        """Where no window is under way, in environments [W], the next turn begins if the last is over."""
        new = waiting[self.left[waiting] == 0]
        if not len(new):
            return
        self.left[new] = STEPS
        self.outcome[new] = 0.0
        draws = torch.rand(len(new), 2, generator=rng, device=rng.device).tolist()
        for env, (audit, coin) in zip(new.tolist(), draws, strict=True):
            self.noisy[env] = audit >= self.share
            self.planned[env] = audit >= self.share or self._whose(coin)

    def note(self, envs: Tensor, beyond: Tensor) -> None:
        """What windows [W] that have just ended in some environments brought beyond the value of their first state."""
        self.outcome[envs] += torch.stack([beyond, torch.ones_like(beyond)], dim=1)

    def advance(self, done: Tensor, awaited: Tensor) -> bool:
        """One more step of every environment: whether `lead` changed.

        Some episodes ended with it, bool [n_envs]; where a window is awaited, bool [n_envs], no turn ends without it.
        """
        under = self.left > 0
        self.left[under] = torch.maximum(self.left - 1, awaited.long())[under]
        self.left[done] = 0
        ended = (under & (self.left == 0)).to(self.noisy.device) & ~self.noisy & (self.outcome[:, 1] > 0)
        for planned, ring in zip((False, True), self.known, strict=True):
            its = ended & (self.planned == planned)
            if its.any():
                ring.add(outcome=self.outcome[its])
        return bool(ended.any())

    @property
    def are_few(self) -> bool:
        """Whether there are too few of plans or of the policy to compare them."""
        return min(ring.size for ring in self.known) < FEWEST

    def lead(self) -> float:
        """How likely plans do better than the policy; NaN while there are few audits."""
        policy, plans = self.known
        if self.are_few:
            return math.nan
        return likely_greater(plans.all()["outcome"], policy.all()["outcome"])

    def in_words(self, lead: float) -> str:
        """Which of the two plays where plans have this lead, and why."""
        policy, plans = self.known
        if math.isnan(lead):
            return f"plans, until {FEWEST} audits of plans and of the policy are there"
        better = "the policy" if lead < 0.5 else "plans"
        if self.are_few:
            return f"{better}, by audits before it was loaded"
        return f"{better}, by {plans.size} audits of plans and {policy.size} of the policy"

    def forget(self) -> None:
        """Forget what came of audits, of those under way too: it was in another world."""
        self.outcome.zero_()
        for ring in self.known:
            ring.added = 0

    def state_dict(self) -> dict[str, Any]:
        """Whose turn it is, for how long, and what came of audits."""
        own = {name: getattr(self, name) for name in OWN}
        return {**own, "due": self.due, "known": [ring.state_dict() for ring in self.known]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for name in OWN:
            getattr(self, name).copy_(state[name])
        self.due = state["due"]
        for ring, saved in zip(self.known, state["known"], strict=True):
            ring.load_state_dict(saved)

    def _whose(self, coin: float) -> bool:
        """Whether plans have the audit that begins: of a pair the first by a coin in [0, 1), then the other."""
        if self.due is None:
            planned, self.due = coin < 0.5, coin >= 0.5
        else:
            planned, self.due = self.due, None
        return planned


def likely_greater(ours: Tensor, theirs: Tensor) -> float:
    """How likely the first of two ratios is the greater one: sums and numbers [M, 2] and [N, 2] of turns -> [0, 1].

    A turn's windows depend on one another, turns do not: the variance of a ratio is that between turns (the ratio
    estimator: Cochran 1977, chapter 6), and its error is taken for normal. Of equal ones without error the first.
    """
    (mean, variance), (other, its_variance) = _ratio(ours), _ratio(theirs)
    error = math.sqrt(variance + its_variance)
    return NormalDist(0.0, error).cdf(mean - other) if error else float(mean >= other)


def _ratio(turns: Tensor) -> tuple[float, float]:
    """The sums of turns [N, 2] over their numbers, and the variance of that."""
    total, number = turns.double().sum(0).tolist()
    ratio = total / number
    apart = (turns[:, 0] - ratio * turns[:, 1]).double().square().sum().item()
    return ratio, apart / number**2 * len(turns) / (len(turns) - 1)
