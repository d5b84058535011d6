"""When misses are more than chance: Shiryaev-Roberts e-detectors.

Shin, Ramdas and Rinaldo 2022 (2203.03532): evidence against "misses come at rate alpha or less" adds up over all
moments at which a change may have happened,

    R <- (1 + R) (1 + bet (miss - alpha)),        alarm at R >= A

and while they do, R - n is a supermartingale: the mean time to a false alarm is at least A, whatever else they depend
on. Misses must not overlap: of windows of H steps every H-th is fed. When the change happened is told by CUSUM (Page
1954): it is most likely the last time that no evidence was left.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from dyna.calibration import MISS_RATE

ALARM = 1_000.0
"""Evidence at which it is raised, and the least mean number of misses and hits to a false alarm."""
BET = 2.0
"""How much evidence a miss is worth: 1 + bet (1 - alpha) as a factor; 1 / alpha at most."""


def evidence(before: Tensor, miss: Tensor, *, alpha: float = MISS_RATE, bet: float = BET) -> Tensor:
    """The evidence [...] after one more outcome, missed or not, bool [...]."""
    return (1.0 + before) * (1.0 + bet * (miss.to(before.dtype) - alpha))


class Detectors:
    """One detector a name, side by side; with `pooled`, each hears of the misses of all, which come as often as all."""

    def __init__(self, names: Sequence[str], *, pooled: bool = False) -> None:
        self.names, self.pooled = tuple(names), pooled
        self.alpha = min(MISS_RATE * len(names), 1.0) if pooled else MISS_RATE  # of misses by chance
        self.bet = min(BET, 1.0 / self.alpha)
        self.evidence = torch.zeros(len(names), dtype=torch.float64)
        self.outcomes = 0
        self.misses = torch.zeros(len(names), dtype=torch.int64)
        self.alarms = torch.zeros(len(names), dtype=torch.int64)
        self.cusum = torch.zeros(len(names), dtype=torch.float64)
        self.ages = torch.zeros(len(names), dtype=torch.int64)  # outcomes since the likeliest moment of a change

    def hear(self, missed: Tensor) -> list[str]:
        """One more outcome, bool [names]; returns the names for which an alarm is raised, and starts them anew."""
        self.outcomes += 1
        self.misses += missed
        heard = missed.any().expand(len(self.names)) if self.pooled else missed
        self.evidence = evidence(self.evidence, heard, alpha=self.alpha, bet=self.bet)
        gain = 1.0 + self.bet * (heard.to(torch.float64) - self.alpha)
        self.cusum = (self.cusum + gain.log()).clamp_min(0.0)
        self.ages = torch.where(self.cusum > 0, self.ages + 1, 0)
        raised = self.evidence >= ALARM
        self.alarms += raised
        self.evidence = torch.where(raised, 0.0, self.evidence)
        return [name for name, alarm in zip(self.names, raised.tolist(), strict=True) if alarm]

    def age(self, name: str) -> int:
        """Outcomes since the moment at which that part most likely began to be wrong; 0 where nothing says so."""
        return int(self.ages[self.names.index(name)])

    def restart(self, names: Collection[str]) -> None:
        """Forget what speaks for a change of some parts, for it was judged; counts stay."""
        judged = torch.tensor([name in names for name in self.names])
        for heard in (self.evidence, self.cusum, self.ages):
            heard[judged] = 0

    def base_rates(self) -> dict[str, float]:
        """Share of all outcomes that each missed."""
        return {name: int(n) / max(self.outcomes, 1) for name, n in zip(self.names, self.misses, strict=True)}

    def state_dict(self) -> dict[str, Any]:
        """What was heard so far."""
        kept = {name: getattr(self, name) for name in ("evidence", "misses", "alarms", "cusum", "ages")}
        return {**kept, "outcomes": self.outcomes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for name, value in state.items():
            setattr(self, name, value.clone() if isinstance(value, Tensor) else value)
