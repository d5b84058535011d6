"""How many updates a learner may make: always as many, a constant share, a random gate's, or a gate's.

The last is the subject, the others are its controls: a gate must beat a constant share and a random gate that spend as
much. All of them leave the opening alone, in which the learner is always on. None ever has made more updates than a
learner that is always on would have, but for the chance of a random gate.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch

from dyna.budgets import Budget
from dyna.gates import Gate

Kind = Literal["always", "constant", "random", "gated"]


class Carry:
    """Makes whole numbers of shares: what is left over counts the next time."""

    def __init__(self) -> None:
        self.owed = 0.0

    def whole(self, share: float) -> int:
        """How many there are in all that has been asked for and not been given."""
        self.owed += share
        made = math.floor(self.owed + 1e-9)  # ten times 0.1 is one
        self.owed = max(self.owed - made, 0.0)
        return made


class Allowance:
    """A learner that is always on; its gate is watched and decides nothing."""

    def __init__(self, opening: int) -> None:
        self.gate = Gate(opening)
        self.carry = Carry()

    def grant(self, step: int, always: int, steps: int, rng: torch.Generator) -> int:
        """Updates to make at an environment step, where one that is always on makes `always` for the last `steps`."""
        if step < self.gate.opening:
            return always
        return self.carry.whole(always * self.share(steps, rng))

    def share(self, steps: int, rng: torch.Generator) -> float:
        """How many of the updates of a learner that is always on are granted for so many steps."""
        return 1.0

    def state_dict(self) -> dict[str, Any]:
        """What the next grants depend on."""
        return {"gate": self.gate.state_dict(), "owed": self.carry.owed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.gate.load_state_dict(state["gate"])
        self.carry.owed = state["owed"]


class Constant(Allowance):
    """The same share at every step."""

    def __init__(self, opening: int, ratio: float) -> None:
        super().__init__(opening)
        self.ratio = ratio

    def share(self, steps: int, rng: torch.Generator) -> float:
        """As it was told."""
        return self.ratio


class Random(Allowance):
    """The same share on average, in bursts at steps that a coin chooses."""

    def __init__(self, opening: int, ratio: float, burst: float) -> None:
        super().__init__(opening)
        self.burst, self.often = burst, ratio / burst

    def share(self, steps: int, rng: torch.Generator) -> float:
        """A burst or nothing at each step."""
        bursts = torch.rand(steps, generator=rng, device=rng.device) < self.often
        return self.burst * float(bursts.float().mean())


class Gated(Allowance):
    """As far as its gate is open, and after an alarm more, as long as there is something saved."""

    def __init__(self, opening: int, budget: Budget) -> None:
        super().__init__(opening)
        self.budget = budget
        self.saved = 0.0  # steps of a learner that is always on

    def share(self, steps: int, rng: torch.Generator) -> float:
        """The gate's, and a burst."""
        wanted = self.gate.share * self.budget.burst if self.gate.alarmed else self.gate.share
        share = max(min(wanted, self.saved / steps + 1.0), self.budget.floor)
        left = max(self.saved + steps * (1.0 - share), 0.0)  # rounding may lead a bit below
        self.saved = min(left, self.budget.capacity)
        return share

    def state_dict(self) -> dict[str, Any]:
        """With what it saved."""
        return {**super().state_dict(), "saved": self.saved}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self.saved = state["saved"]


def allowance(kind: Kind, *, opening: int, budget: Budget, ratio: float) -> Allowance:
    """The allowance of a name; `ratio` is the share that the controls constant and random spend on average."""
    if kind == "constant":
        return Constant(opening, ratio)
    if kind == "random":
        return Random(opening, ratio, budget.burst)
    return Gated(opening, budget) if kind == "gated" else Allowance(opening)
