"""Which transitions a world model is judged by and never learns from: their own bits decide."""

from __future__ import annotations

import torch
from torch import Tensor

from dyna.errors import RunFailed
from dyna.types import Transitions

HOLDOUT_ROWS = 5_000  # at most
FEW_ENDS = 10  # terminal rows below which all are trained on
GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # the golden ratio's part of a signed word, odd


def held_out(data: Transitions, share: float) -> Tensor:
    """Which rows are held out, bool [B]; a row's own bits decide, so that none is held out after it was trained on.

    `share` of the rows is held out, about 5,000 at most; of fewer than 10 terminal rows, none, so that with the tenth
    some are held out after all. Copies of a row are dealt in turn, and the first is learned from, or a task of few
    transitions would have some that nobody learns from. Raises RunFailed for one row.
    """
    if len(data.obs) < 2:
        raise RunFailed("the world model was given a single transition: raise learning_starts")
    share = min(share, HOLDOUT_ROWS / len(data.obs))
    every = max(2, round(1 / share))
    bits = _bits(data)
    copy = _copies(bits)
    chance = bits >> 40 & 0xFFFF
    turn = 1 + chance % (every - 1)  # never the first, and not always the second: many have but one copy
    held = torch.where(copy >= 0, copy % every == turn, chance < 65_536 * share)
    if data.terminated.sum() < FEW_ENDS:
        held &= data.terminated == 0  # too few ends to spare any
    if held.all() or not held.any():
        held = torch.zeros_like(held)
        held[1::every] = True
    return held


def _bits(data: Transitions) -> Tensor:
    """A number [B] for each transition, by all of its bits: of unlike ones hardly ever the same."""
    rows = torch.cat([data.obs, data.action, data.next_obs], 1) + 0.0  # no zero is negative
    mixed = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
    for column in rows.view(torch.int32).long().unbind(1):
        mixed = (mixed ^ column) * GOLDEN  # Fibonacci hashing (Knuth, TAOCP 3, section 6.4)
        mixed ^= mixed >> 32
    return mixed


def _copies(values: Tensor) -> Tensor:
    """Which copy of its value each one is [B], from 0 on; -1 where there is none but itself."""
    _, kind, count = torch.unique(values, return_inverse=True, return_counts=True)
    order = kind.argsort(stable=True)
    rank = torch.empty_like(kind)
    rank[order] = torch.arange(len(kind), device=kind.device) - (count.cumsum(0) - count)[kind[order]]
    return torch.where(count[kind] > 1, rank, -1)
