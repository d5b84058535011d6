"""How many gradient updates an environment step may cost: a token bucket."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from dyna.errors import UserError


@dataclass
class TokenBucket:
    """Earns updates at a steady rate, keeps them, and spends them in bursts; never less than a floor.

    Over any n steps at most `capacity + n (rate + floor)` updates are granted; the bucket is empty at first.
    """

    rate: float = 2.0
    """Updates that a step earns."""
    capacity: float = 2_000.0
    """Updates that it keeps at most."""
    burst: float = 20.0
    """Updates that a step may spend while the gate is open."""
    floor: float = 0.1
    """Updates that every step grants, whatever the gate says."""
    level: float = field(default=0.0, kw_only=True)
    """What it keeps now."""
    owed: float = field(default=0.0, kw_only=True)
    """Parts of an update that were granted and not made yet."""

    def __post_init__(self) -> None:
        for name in ("rate", "capacity", "burst", "floor"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise UserError(f"{name} of a token bucket must be finite and not negative, got {getattr(self, name)}")

    def grant(self, *, is_open: bool, steps: int = 1) -> int:
        """Updates to make for `steps` environment steps."""
        self.level = min(self.capacity, self.level + self.rate * steps)
        spent = min(self.burst * steps, self.level) if is_open else 0.0
        self.level -= spent
        self.owed += max(spent, self.floor * steps)
        made = math.floor(self.owed + 1e-9)  # ten times 0.1 is one
        self.owed = max(self.owed - made, 0.0)
        return made

    def state_dict(self) -> dict[str, float]:
        """What the next grant depends on."""
        return {"level": self.level, "owed": self.owed}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore what `state_dict` returned."""
        self.level, self.owed = state["level"], state["owed"]
