"""A gate for learning: wide open at first and after an alarm, narrower each time that learning moved nothing.

An alarm is believed as far as learning moved something after the last ones of that part.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

NARROWER = 0.25
"""By which factor a gate closes at a look that finds no change, and the belief in an alarm that was followed by one."""


@dataclass
class Gate:
    """How many of an always-on learner's updates are made."""

    opening: int = 0
    """Environment steps during which nothing closes it."""
    share: float = field(default=1.0, kw_only=True)
    """Of the updates that a learner makes which is always on."""
    reason: str = field(default="nothing is known yet", kw_only=True)
    """Why it is as wide as it is."""
    alarmed: set[str] = field(default_factory=set, kw_only=True)
    """The parts whose alarms opened it, until a look shows that learning moves little."""
    belief: dict[str, float] = field(default_factory=dict, kw_only=True)
    """Parts whose alarms are not wholly believed, and how far they open it."""

    def alarm(self, part: str) -> None:
        """Open it because of an alarm of a part."""
        belief = self.belief.get(part, 1.0)
        if belief > self.share:
            self.share, self.reason = belief, f"an alarm of {part}"
        self.alarmed.add(part)

    def look(self, step: int, *, moves: bool) -> None:
        """At a step it was seen whether the last updates may move what is earned: open it, or close it further."""
        if moves:
            self.share, self.reason = 1.0, "learning may move what is earned"
            self.belief = {part: belief for part, belief in self.belief.items() if part not in self.alarmed}
        elif step >= self.opening:
            self.share, self.reason = self.share * NARROWER, "learning moves little"
            self.belief |= {part: NARROWER * self.belief.get(part, 1.0) for part in self.alarmed}
            self.alarmed = set()

    def state_dict(self) -> dict[str, Any]:
        """What the next answers depend on."""
        return {
            "share": self.share,
            "reason": self.reason,
            "alarmed": sorted(self.alarmed),
            "belief": dict(self.belief),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.share, self.reason = state["share"], state["reason"]
        self.alarmed, self.belief = set(state["alarmed"]), dict(state["belief"])
