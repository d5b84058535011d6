"""A gate that an alarm opens, and that closes when what was surprising no longer is, or when learning does not help."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

PATIENCE = 3
"""Checks without gain after which a gate closes."""
GAIN = 0.05
"""Relative fall of the residual that counts as gain."""


@dataclass
class Gate:
    """Open for the first steps, then from an alarm until a check closes it."""

    opening: int = 0
    """Environment steps during which it is open in any case."""
    reason: str = field(default="", kw_only=True)
    """Why it is open, or what closed it."""
    alarmed: bool = field(default=False, kw_only=True)
    """Whether an alarm opened it."""
    best: float = field(default=math.inf, kw_only=True)
    """The least residual since it was opened."""
    idle: int = field(default=0, kw_only=True)
    """Checks since then."""

    def is_open(self, step: int) -> bool:
        """Whether it is open at an environment step."""
        return self.alarmed or step < self.opening

    def open(self, reason: str) -> None:
        """Open it because of an alarm; a second alarm starts its checks anew."""
        self.alarmed, self.reason, self.best, self.idle = True, reason, math.inf, 0

    def check(self, residual: float, tau: float) -> None:
        """Close it where the residual is at most tau, or has not fallen in three checks."""
        if not self.alarmed:
            return
        self.idle = 0 if residual < self.best * (1.0 - GAIN) else self.idle + 1
        self.best = min(self.best, residual)
        if residual <= tau:
            self.alarmed, self.reason = False, "the residual is small again"
        elif self.idle >= PATIENCE:
            self.alarmed, self.reason = False, "learning does not help"

    def state_dict(self) -> dict[str, Any]:
        """What the next answers depend on."""
        return {"reason": self.reason, "alarmed": self.alarmed, "best": self.best, "idle": self.idle}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.reason, self.alarmed = state["reason"], state["alarmed"]
        self.best, self.idle = state["best"], state["idle"]
