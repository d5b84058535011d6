"""When misses are more than chance: the Shiryaev-Roberts e-detector.

Shin, Ramdas and Rinaldo 2022 (2203.03532): evidence against "misses come at rate alpha or less" adds up over all
moments at which a change may have happened,

    R <- (1 + R) (1 + bet (miss - alpha)),        alarm at R >= A

and while they do, R - n is a supermartingale: the mean time to a false alarm is at least A, whatever else they depend
on. Misses must not overlap: of windows of H steps every H-th is fed.
"""

from __future__ import annotations

from torch import Tensor

from dyna.calibration import MISS_RATE

ALARM = 1_000.0
"""Evidence at which it is raised, and the least mean number of misses and hits to a false alarm."""
BET = 2.0
"""How much evidence a miss is worth: 1 + bet (1 - alpha) as a factor; 1 / alpha at most."""


def evidence(before: Tensor, miss: Tensor, *, alpha: float = MISS_RATE, bet: float = BET) -> Tensor:
    """The evidence [...] after one more outcome, missed or not [...] (bool or a share in [0, 1])."""
    return (1.0 + before) * (1.0 + bet * (miss.to(before.dtype) - alpha))
