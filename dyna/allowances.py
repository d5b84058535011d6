"""How many updates a step of the learner may take: always as many, a constant share, a random gate's, or a gate's.

The last is the subject, the others are its controls: a gate must beat a constant ratio and a random gate that spend as
much. All of them leave the opening alone, in which the learner is always on.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import torch

from dyna.budgets import Budget, TokenBucket
from dyna.gates import Gate

RANDOM_SHARE = 0.1  # of steps in which a random gate is open

Kind = Literal["always", "constant", "random", "gated"]


class Allowance(Protocol):
    """Says how many updates to make."""

    gate: Gate

    def grant(self, step: int, always: int, rng: torch.Generator) -> int:
        """Updates to make at an environment step, where a learner that is always on makes `always`."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What the next grants depend on."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        ...


class Always:
    """A learner that is always on; its gate is watched and decides nothing."""

    def __init__(self, opening: int) -> None:
        self.gate = Gate(opening)

    def grant(self, step: int, always: int, rng: torch.Generator) -> int:
        """All of them."""
        return always

    def state_dict(self) -> dict[str, Any]:
        """That of the gate."""
        return self.gate.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.gate.load_state_dict(state)


class Gated(Always):
    """What a bucket has saved, while the gate is open."""

    def __init__(self, opening: int, budget: Budget) -> None:
        super().__init__(opening)
        self.bucket = TokenBucket(budget)

    def grant(self, step: int, always: int, rng: torch.Generator) -> int:
        """As many as always during the opening, then what the bucket grants."""
        return always if step < self.gate.opening else self.bucket.grant(is_open=self.is_open(rng))

    def is_open(self, rng: torch.Generator) -> bool:
        """Whether the bucket may be spent in bursts."""
        return self.gate.alarmed

    def state_dict(self) -> dict[str, Any]:
        """Those of gate and bucket."""
        return {"gate": self.gate.state_dict(), "bucket": self.bucket.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.gate.load_state_dict(state["gate"])
        self.bucket.load_state_dict(state["bucket"])


class Random(Gated):
    """The same bursts at random steps."""

    def is_open(self, rng: torch.Generator) -> bool:
        """By a coin."""
        return float(torch.rand((), generator=rng, device=rng.device)) < RANDOM_SHARE


def allowance(kind: Kind, *, opening: int, budget: Budget, ratio: float) -> Allowance:
    """The allowance of a name; `ratio` is what the controls constant and random spend a step, on average."""
    if kind == "always":
        return Always(opening)
    if kind == "constant":
        return Gated(opening, Budget(rate=0.0, burst=0.0, floor=ratio))
    if kind == "random":
        burst = max(budget.burst, 2.0 * ratio / RANDOM_SHARE)
        return Random(opening, Budget(rate=ratio, capacity=budget.capacity, burst=burst, floor=0.0))
    return Gated(opening, budget)
