"""What a gated learner may spend: never more than one that is always on has spent by then."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from dyna.errors import UserError


@dataclass(frozen=True)
class Budget:
    """In units of the updates that a learner makes which is always on."""

    floor: float = 0.05
    """Share of an always-on learner's updates that is made whatever the gate says."""
    burst: float = 4.0
    """How many times an always-on learner's updates a step may make after an alarm, from what was saved before."""
    capacity: float = 1_000.0
    """Steps whose updates are saved at most."""

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not 0.0 <= value < math.inf:
                raise UserError(f"budget.{name} must be finite and not negative, got {value}")
        if self.floor > 1.0:
            raise UserError(f"budget.floor must be a share, 1 at most, got {self.floor}")
        if self.burst < 1.0:
            raise UserError(f"budget.burst must be at least 1, got {self.burst}")
