"""Replay of what the world model imagined."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dyna import kernels
from dyna.errors import UserError
from dyna.rows import RowStore, new_batch, new_stream, to_device
from dyna.types import ImaginedTransitions, Transitions

DEPTH, UNCERTAINTY, VERSION = range(3)  # the extra columns; float32 holds whole numbers below 2^24


class ImaginedBuffer:
    """A ring of imagined transitions with their depth, uncertainty and model version; the oldest row gives way.

    Raises UserError for a capacity below one.
    """

    def __init__(
        self,
        capacity: int,
        obs_size: int,
        action_size: int,
        *,
        device: torch.device | str = "cpu",
        rng: np.random.Generator | None = None,
    ) -> None:
        self.device = torch.device(device)
        self._store = _new_store(capacity, obs_size, action_size)
        self._first, self._filled = 0, 0  # the oldest row, and how many lie in the ring from there
        self.reseed(rng)

    def reseed(self, rng: np.random.Generator | None) -> None:
        """Draw from now on what follows from a generator; None is NumPy's global one."""
        self._random = new_stream(rng)

    @property
    def capacity(self) -> int:
        """Rows that the ring can hold."""
        return self._store.capacity

    @property
    def row_sizes(self) -> tuple[int, int]:
        """S and A: how many floats an observation and an action take."""
        return self._store.obs_size, self._store.action_size

    @property
    def size(self) -> int:
        """Rows stored."""
        return self._filled

    def add(self, rows: ImaginedTransitions) -> None:
        """Store rows [B, .] in their order; raises ValueError for rows of an older model than the newest stored."""
        if len(rows.obs) == 0:
            return
        versions = rows.version.cpu()
        newest = int(self._newest_version)
        if int(versions[0]) < newest or bool((versions.diff() < 0).any()):
            raise ValueError(f"versions must not fall, got {versions.tolist()[:5]} ... after {newest}")
        n = min(len(rows.obs), self.capacity)  # of more rows than the ring holds, the last ones stay
        self._first = (self._first + max(0, self._filled + n - self.capacity)) % self.capacity
        self._filled = min(self._filled + n, self.capacity)
        start = (self._first + self._filled - n) % self.capacity
        until_end = min(n, self.capacity - start)
        kept = ImaginedTransitions(*(part[len(part) - n :] for part in rows))
        self._write(start, ImaginedTransitions(*(part[:until_end] for part in kept)))
        self._write(0, ImaginedTransitions(*(part[until_end:] for part in kept)))

    def sample_transitions(self, n: int) -> Transitions:
        """[n, .] uniform with replacement; raises UserError while empty."""
        batch = new_batch(n, *self.row_sizes)
        self.fill(batch, 0, n)
        return to_device(batch, self.device)

    def sample(self, n: int) -> ImaginedTransitions:
        """[n, .] uniform with replacement, with depth, uncertainty and version; raises UserError while empty."""
        self._refuse_empty()
        rows = (kernels.draw(self._random, n, self._filled) + self._first) % self.capacity
        batch = new_batch(n, *self.row_sizes)
        self._store.fill(batch, 0, rows)
        extra = torch.from_numpy(self._store.extra[rows]).to(self.device)
        depth, version = extra[:, DEPTH].long(), extra[:, VERSION].long()
        return ImaginedTransitions(*to_device(batch, self.device), depth, extra[:, UNCERTAINTY].contiguous(), version)

    def fill(self, batch: Transitions, at: int, n: int) -> None:
        """Draw n rows into rows at, at + 1, ... of a batch on the CPU (see `rows.new_batch`)."""
        self._refuse_empty()
        self._store.fill_uniform(batch, at, n, self._random, self._first, self._filled)

    def drop_older_than(self, version: int) -> int:
        """Drop the rows of models before `version`; returns how many."""
        dropped = int((self._store.extra[self._in_order(), VERSION] < version).sum())
        self._first = (self._first + dropped) % self.capacity  # versions never fall along the ring
        self._filled -= dropped
        return dropped

    def clear(self) -> None:
        """Drop all rows."""
        self._first, self._filled = 0, 0

    def resize(self, capacity: int) -> None:
        """Change the capacity; where it shrinks, the newest rows stay."""
        store = _new_store(capacity, *self.row_sizes)
        kept = self._in_order()[max(0, self._filled - capacity) :]
        store.rows[: len(kept)] = self._store.rows[kept]
        self._store, self._first, self._filled = store, 0, len(kept)

    def state_dict(self) -> dict[str, Any]:
        """Rows and generator; `rows` is a view of the ring, so write or copy it before the next row is added."""
        used = self.capacity if self._first + self._filled > self.capacity else self._first + self._filled
        return {
            "rows": self._store.rows[:used],
            "capacity": self.capacity,
            "first": self._first,
            "filled": self._filled,
            "random": int(self._random[0]),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, capacity included; raises UserError for rows of another size."""
        rows, width = state["rows"], self._store.rows.shape[1]
        if rows.shape[1] != width:
            raise UserError(f"the saved imagined rows are {rows.shape[1]} wide, not {width}: use the run's environment")
        self._store = _new_store(state["capacity"], *self.row_sizes)
        self._store.rows[: len(rows)] = rows
        self._first, self._filled = state["first"], state["filled"]
        self._random[0] = state["random"]

    @property
    def _newest_version(self) -> float:
        last = (self._first + self._filled - 1) % self.capacity
        return float(self._store.extra[last, VERSION]) if self._filled else 0.0

    def _in_order(self) -> kernels.Indices:
        return (self._first + np.arange(self._filled)) % self.capacity

    def _write(self, start: int, rows: ImaginedTransitions) -> None:
        place = slice(start, start + len(rows.obs))
        store = self._store
        columns = (store.obs, store.action, store.reward, store.next_obs, store.terminated, *store.extra.T)
        for column, part in zip(columns, rows, strict=True):
            column[place] = _array(part)

    def _refuse_empty(self) -> None:
        if self._filled == 0:
            raise UserError("the imagined buffer is empty: imagine before sampling from it")


def _new_store(capacity: int, obs_size: int, action_size: int) -> RowStore:
    if capacity < 1:
        raise UserError(f"the imagined buffer must hold at least one row, got capacity {capacity}")
    return RowStore(capacity, obs_size, action_size, extra=3)


def _array(part: Tensor) -> np.ndarray:
    array: np.ndarray = part.detach().cpu().numpy()
    return array
