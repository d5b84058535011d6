"""A ring of rows with named columns: the newest are kept, and drawn evenly or by weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class Ring:
    """Holds the newest `capacity` rows of columns, each with a width of its own."""

    def __init__(self, capacity: int, widths: Mapping[str, int], device: torch.device | str = "cpu") -> None:
        self.capacity, self.added = capacity, 0
        self.columns = {name: torch.zeros(capacity, width, device=device) for name, width in widths.items()}

    @property
    def size(self) -> int:
        """Rows that it holds."""
        return min(self.added, self.capacity)

    def add(self, **rows: Tensor) -> None:
        """New rows [B, width] of every column."""
        count = len(next(iter(rows.values())))
        places = (self.added + torch.arange(count)) % self.capacity
        for name, column in self.columns.items():
            column[places] = rows[name].to(column)
        self.added += count

    def all(self) -> dict[str, Tensor]:
        """Every row that it holds [size, width], in no order."""
        return {name: column[: self.size] for name, column in self.columns.items()}

    def newest(self, n: int) -> dict[str, Tensor]:
        """The newest n rows that it holds, or all if there are fewer, newest first."""
        places = (self.added - 1 - torch.arange(min(n, self.size))) % self.capacity
        return {name: column[places] for name, column in self.columns.items()}

    def sample(self, n: int, *, rng: torch.Generator, weights: Tensor | None = None) -> dict[str, Tensor]:
        """n rows with replacement, in proportion to weights [size], or evenly; it must hold one."""
        device = rng.device
        if weights is None:
            drawn = torch.randint(self.size, (n,), generator=rng, device=device)
        else:
            drawn = torch.multinomial(weights, n, replacement=True, generator=rng)
        return {name: column[drawn] for name, column in self.columns.items()}

    def state_dict(self) -> dict[str, Any]:
        """The rows that it holds."""
        return {"added": self.added, "columns": self.all()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.added = state["added"]
        for name, column in self.columns.items():
            column[: self.size] = state["columns"][name]
