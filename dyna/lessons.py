"""What an ensemble learns from: normalised rows, batches for each member, and more ends than there are.

Lessons say how much a row teaches each head; where a head forgets, steps of the old world teach it nothing.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from dyna.types import Transitions

if TYPE_CHECKING:
    from dyna.world_model import GaussianEnsemble

NEVER = 50.0  # nats that the odds of termination are lowered by


class Rows(NamedTuple):
    """Rows in normalised units."""

    x: Tensor  # [B, S+A]
    y: Tensor  # [B, S+1]
    next_obs: Tensor  # [B, S] raw
    terminated: Tensor  # [B]
    resample: Tensor  # [E, B] row numbers: each member's own bootstrap of the rows, or all of them
    lessons: Tensor | None = None  # [B, 3] how much may be learned from them, where that is not all


def normalised(model: GaussianEnsemble, data: Transitions, rng: torch.Generator, lessons: Tensor | None = None) -> Rows:
    """The rows in the model's units, and which of them each member draws from; `lessons` as in `fitting.fit`."""
    y = (targets(model, data) - model.y_mean) / model.y_std
    shape = (model.settings.members, len(y))
    if model.settings.bootstrap:
        resample = torch.randint(len(y), shape, generator=rng, device=y.device)
    else:
        resample = torch.arange(len(y), device=y.device).expand(shape)
    if lessons is not None:
        new = whole(lessons).nonzero().squeeze(1)
        resample = resample.clone()
        resample[:, ::2] = new[torch.randint(len(new), resample[:, ::2].shape, generator=rng, device=y.device)]
    return Rows(model.normalise_input(data.obs, data.action), y, data.next_obs, data.terminated, resample, lessons)


def targets(model: GaussianEnsemble, data: Transitions) -> Tensor:
    """[B, S+1] what the networks learn, raw: change or next state, 0 of a number that is left out, and the reward."""
    state = data.next_obs - data.obs if model.delta else data.next_obs
    return torch.cat([torch.where(model.seen, state, 0.0), data.reward[:, None]], dim=1)


def whole(lessons: Tensor) -> Tensor:
    """Which rows teach all that there is to learn: lessons [B, 3] -> bool [B]."""
    return lessons.amin(1) == 1


def draw_batches(model: GaussianEnsemble, rows: Rows, updates: int, rng: torch.Generator) -> tuple[Tensor, int]:
    """Row numbers [updates, E, b] from each member's resample, of which the first columns are added terminal rows."""
    members, count, device = model.settings.members, len(rows.x), rows.x.device
    batch = min(model.settings.batch_size, count)
    draw = torch.randint(count, (members, updates * batch), generator=rng, device=device)
    index = rows.resample.gather(1, draw).view(members, updates, batch).transpose(0, 1).contiguous()
    ends, extra = _ends_taught(rows), _added_ends(model, rows)
    if extra:
        index[..., :extra] = ends[torch.randint(len(ends), (updates, members, extra), generator=rng, device=device)]
    return index, extra


def foretells(rows: Rows, index: Tensor, rng: torch.Generator) -> Tensor:
    """Of which rows [E, b] the foretold next state is shown: of half, and of none whose states are of an old world."""
    chosen = torch.rand(index.shape, generator=rng, device=index.device) < 0.5
    return chosen if rows.lessons is None else chosen & (rows.lessons[index][..., 0] > 0)


def set_oversampling(model: GaussianEnsemble, rows: Rows) -> None:
    """Set `log_oversampling`, by which the surplus of terminal rows is taken off the predicted odds."""
    ends, extra, (weight, share) = _ends_taught(rows), _added_ends(model, rows), _ends_drawn(rows)
    if len(ends) == 0:
        model.log_oversampling.fill_(NEVER)  # none is imagined: the head would only guess (`fit` says so)
        return
    added = extra if rows.lessons is None else extra * float(rows.lessons[ends, 2].mean())
    others = (min(model.settings.batch_size, len(rows.x)) - extra) * weight * share
    model.log_oversampling.fill_(math.log1p(added / others) if others else 0.0)


def _added_ends(model: GaussianEnsemble, rows: Rows) -> int:
    """How many rows of a batch are replaced by terminal ones."""
    share = model.settings.terminal_share
    few = 0 < _ends_drawn(rows)[1] < share
    return round(share * min(model.settings.batch_size, len(rows.x))) if few else 0


def _ends_drawn(rows: Rows) -> tuple[float, float]:
    """What a row that is drawn teaches about ends: how much on average, and which share of that is of ends."""
    if rows.lessons is None:
        return 1.0, float(rows.terminated.double().mean())
    new, lessons = whole(rows.lessons).double(), rows.lessons[:, 2].double()
    taught = lessons * (0.5 * new / new.sum() + 0.5 / len(new))  # half of a batch is new, as in `normalised`
    weight = float(taught.sum())
    return weight, float((taught * rows.terminated).sum()) / max(weight, 1e-12)


def _ends_taught(rows: Rows) -> Tensor:
    """Numbers [N] of the terminal rows from which ends may be learned."""
    taught = rows.terminated if rows.lessons is None else rows.terminated * rows.lessons[:, 2]
    return taught.nonzero().squeeze(1)
