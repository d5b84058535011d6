"""A world that has changed: which heads of its model are suspected, since when, and what they learn from afterwards."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from dyna.calibration import HEADS

GROWTH = 1.5
"""Of the steps since a change: from then on a refit is due."""
FEWEST = 50
"""Steps since a suspected change from which on it can be judged."""


class Changes:
    """Heads of the world model by the environment step at which what they tell has changed."""

    def __init__(self) -> None:
        self.suspected: dict[str, int] = {}
        """Those that an alarm says are wrong."""
        self.proven: dict[str, int] = {}
        """Those that have forgotten what was before, and learn from that step on."""

    def suspect(self, head: str, since: int) -> None:
        """An alarm says that a head is wrong since a step, or since it last forgot where that was later."""
        self.suspected[head] = max(since, self.proven.get(head, since))

    def can_be_judged(self, now: int) -> bool:
        """Whether enough steps have come since what is suspected."""
        return bool(self.suspected) and now - max(self.suspected.values()) >= FEWEST

    def wants_refit(self, now: int, fitted_at: int | None) -> bool:
        """Whether what is suspected can be judged, or what is known of the changed world has grown much since a fit."""
        if self.can_be_judged(now):
            return True
        age = self.age(now)
        return age is not None and fitted_at is not None and age >= GROWTH * (age - (now - fitted_at))

    def age(self, now: int) -> int | None:
        """Steps since the last change that is proven; None where there was none."""
        return now - max(self.proven.values()) if self.proven else None

    def lessons(self, rows: int, now: int, *, suspected: bool = False) -> Tensor | None:
        """From which of so many steps, oldest first, each head learns, [rows, 3]; None where all learn from all.

        With `suspected`, as if what is suspected were proven.
        """
        since = {**self.proven, **(self.suspected if suspected else {})}
        ages = [now - since[name] if name in since else rows for name in HEADS]
        if min(ages) >= rows:
            return None
        return (torch.arange(rows, 0, -1)[:, None] <= torch.tensor(ages)).float()

    def judge(self, wrong: Collection[str]) -> dict[str, int]:
        """Of what is suspected, heads that are `wrong` have forgotten from now on; the others were accused in vain."""
        found = {head: since for head, since in self.suspected.items() if head in wrong}
        self.proven |= found
        self.suspected = {}
        return found

    def count_anew(self, back: int) -> None:
        """Steps are counted so many lower."""
        self.proven = {head: step - back for head, step in self.proven.items()}
        self.suspected = {}

    def state_dict(self) -> dict[str, Any]:
        """What is suspected and what is proven."""
        return {"suspected": dict(self.suspected), "proven": dict(self.proven)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.suspected, self.proven = dict(state["suspected"]), dict(state["proven"])
