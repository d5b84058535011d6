"""How many gradient updates an environment step may cost: a token bucket."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from dyna.errors import UserError


@dataclass(frozen=True)
class Budget:
    """What a `TokenBucket` earns, keeps and spends."""

    rate: float = 2.0
    """Updates that a step earns."""
    capacity: float = 2_000.0
    """Updates that are kept at most."""
    burst: float = 20.0
    """Updates that a step may spend while the gate is open."""
    floor: float = 0.1
    """Updates that every step grants, whatever the gate says."""

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not 0.0 <= value < math.inf:
                raise UserError(f"budget.{name} must be finite and not negative, got {value}")


class TokenBucket:
    """Earns updates at a steady rate, keeps them, and spends them in bursts; empty at first.

    Over n steps it grants at least n floor and at most n (rate + floor) updates, and in one step about a burst.
    """

    def __init__(self, budget: Budget | None = None) -> None:
        self.budget = budget or Budget()
        self.level = 0.0  # what it keeps
        self.owed = 0.0  # part of an update that was granted and not made yet

    def grant(self, *, is_open: bool) -> int:
        """Updates to make for one environment step."""
        self.level = min(self.budget.capacity, self.level + self.budget.rate)
        spent = min(self.budget.burst, self.level) if is_open else 0.0
        self.level -= spent
        self.owed += max(spent, self.budget.floor)
        made = math.floor(self.owed + 1e-9)  # ten times 0.1 is one
        self.owed = max(self.owed - made, 0.0)
        return made

    def state_dict(self) -> dict[str, float]:
        """What the next grant depends on."""
        return {"level": self.level, "owed": self.owed}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore what `state_dict` returned."""
        self.level, self.owed = state["level"], state["owed"]
