"""A gate for learning: wide open at first and after an alarm, narrower each time that learning was seen not to pay."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

NARROWER = 0.5
"""By which factor a gate closes at a look that finds no gain."""


@dataclass
class Gate:
    """How many of an always-on learner's updates are made."""

    opening: int = 0
    """Environment steps during which nothing closes it."""
    share: float = field(default=1.0, kw_only=True)
    """Of the updates that a learner makes which is always on."""
    reason: str = field(default="nothing is known yet", kw_only=True)
    """Why it is as wide as it is."""
    alarmed: bool = field(default=False, kw_only=True)
    """Whether an alarm opened it, and no look since then found learning useless."""

    def open(self, reason: str) -> None:
        """Open it because of an alarm."""
        self.alarmed, self.share, self.reason = True, 1.0, reason

    def look(self, step: int, *, pays: bool) -> None:
        """At an environment step it was seen whether the last updates paid: open it, or close it by half."""
        if pays:
            self.share, self.reason = 1.0, "learning pays"
        elif step >= self.opening:
            self.alarmed, self.share, self.reason = False, self.share * NARROWER, "learning does not pay"

    def state_dict(self) -> dict[str, Any]:
        """What the next answers depend on."""
        return {"share": self.share, "reason": self.reason, "alarmed": self.alarmed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.share, self.reason, self.alarmed = state["share"], state["reason"], state["alarmed"]
