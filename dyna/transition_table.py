"""The world model of the tabular family: what was seen, counted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from dyna.kernels import tabular
from dyna.kernels.tabular import OUTCOMES, STATES, Queue, Table

SLACK = 16  # outcomes beyond one for each pair for which there is room at first
T = TypeVar("T", Table, Queue)


class Arrays(nn.Module, Generic[T]):
    """A named tuple of NumPy arrays that compiled loops write to, saved and loaded as the weights of a network are."""

    def __init__(self, arrays: T) -> None:
        super().__init__()
        self._kind: type[T] = type(arrays)
        self._views: T | None = None
        for name, array in arrays._asdict().items():
            self.register_buffer(name, torch.from_numpy(array))

    @property
    def arrays(self) -> T:
        """The arrays themselves, not copies."""
        if self._views is None:  # to ask fourteen tensors for theirs takes longer than to plan
            self._views = self._kind(*(buffer.numpy() for buffer in self._buffers.values() if buffer is not None))
        return self._views

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_views": None}  # a copy has memory of its own

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._views = None


class TransitionTable(Arrays[Table]):
    """What followed each pair of state and action, how often, and with which mean reward.

    `latest` keeps of each pair only what followed last: right where an action has one outcome until the environment
    changes.
    """

    def __init__(self, states: int, actions: int, *, latest: bool) -> None:
        super().__init__(tabular.new_table(states, actions, states * actions + SLACK))
        self.actions, self.latest = actions, latest

    def remember(self, state: int, action: int, reward: float, next_state: int) -> None:
        """Take in one step; the next state of an end is S."""
        table = self._with_room(1)
        if self.latest:
            table.visits[state * self.actions + action] = 0
        tabular.remember(table, state, action, reward, next_state)

    def assume(self, state: int) -> None:
        """Let every action of a state that was never tried lead back to it, with reward 0."""
        tabular.assume(self._with_room(self.actions), state)

    def metrics(self) -> dict[str, float]:
        """How much is known: states that were left, pairs that were tried, and different outcomes of these."""
        table = self.arrays
        tried = int((table.visits > 0).sum())
        assumed = int(table.n_pairs.sum()) - tried
        return {
            "states": int(table.counters[STATES]),
            "pairs": tried,
            "outcomes": int(table.counters[OUTCOMES]) - assumed,
        }

    def _with_room(self, more: int) -> Table:
        table = self.arrays
        if table.counters[OUTCOMES] + more <= len(table.pair):
            return table
        self._make_room(2 * len(table.pair) + more)
        return self.arrays

    def _make_room(self, outcomes: int) -> None:
        """Give every array of outcomes a number of places."""
        table = self.arrays
        larger = tabular.new_table(1, 1, outcomes)
        for name in ("pair", "next_state", "reward", "seen", "after", "beside"):
            old, new = getattr(table, name), getattr(larger, name)
            kept = min(len(old), outcomes)
            new[:kept] = old[:kept]
            self._buffers[name] = torch.from_numpy(new)
        self._views = None

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        saved = state_dict.get(f"{prefix}pair")
        if saved is not None and len(saved) != len(self.arrays.pair):
            self._make_room(len(saved))
        super()._load_from_state_dict(state_dict, prefix, *args)
