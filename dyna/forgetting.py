"""When the world has changed, what was learned of the old one is wrong.

A model that forgets is held against one that remembers, on new steps that neither was trained on and that are familiar:
where the members do not agree, a step is merely new, and no reason to forget. Both see new steps as often.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor

from dyna.calibration import disagreement
from dyna.holdout import held_out
from dyna.lessons import whole
from dyna.types import Outcome, Transitions
from dyna.world_model import GaussianEnsemble

CLEARLY = 0.5
"""Share of the other's error from which a model that forgets is believed: a false alarm must not cost what is known."""
WORSE = 2.0
"""How many times worse than old steps a model that remembers must tell the new ones."""
FEWEST = 5
"""Familiar rows without which nothing is said."""
ALMOST = 0.99
"""How much a model that remembers learns from old rows; all of it would make them as frequent as new ones."""


def outdated(
    model: GaussianEnsemble,
    data: Transitions,
    lessons: Tensor,
    *,
    familiar: Tensor | float,
    rng: torch.Generator,
    n_envs: int = 1,
) -> tuple[list[bool], int]:
    """Whether next state, reward and end are clearly better told if `model` learns `lessons` [B, 3] of `data` alone,
    and the training steps that it took to see that.

    Judged on held-out rows that teach all three, as far as the members disagree by `familiar` at most. `model` is left
    alone. The steps of `n_envs` environments take turns in the data.
    """
    held, new = held_out(data, model.settings.holdout), whole(lessons)
    known = disagreement(model, data.obs, data.action) <= familiar
    if (held & new & known).sum() < FEWEST:
        return [False] * lessons.shape[1], 0
    forgets, remembers = copy.deepcopy(model), copy.deepcopy(model)
    for each in (forgets, remembers):
        each.rows_at_choice.fill_(len(data.obs))  # they are held against each other, and choose nothing
    fits = [
        each.fit(data, rng=rng, lessons=taught, n_envs=n_envs)
        for each, taught in ((forgets, lessons), (remembers, lessons.clamp_min(ALMOST)))
    ]
    old_rows, new_rows = data.at(held & ~new), data.at(held & new & known)
    usual, before, after = (
        misfit(one, rows, remembers.y_std)
        for one, rows in ((remembers, old_rows), (remembers, new_rows), (forgets, new_rows))
    )
    wrong = (before > WORSE * usual) & (after < CLEARLY * before)
    return wrong.tolist(), sum(int(fit["updates"]) for fit in fits)


@torch.no_grad()
def misfit(model: GaussianEnsemble, rows: Transitions, unit: Tensor) -> Tensor:
    """Squared errors of next state and reward in units [S+1], and log-loss of the end: means [3] over rows [B, .]."""
    prediction = model.predict_elites(rows.obs, rows.action)
    centre = prediction.mean.mean(0)
    told = Outcome(centre[:, :-1], centre[:, -1], prediction.p_terminated.mean(0))
    next_obs, reward, ends = model.known(rows.obs, rows.action, told)
    return torch.stack(
        [
            ((next_obs - rows.next_obs) / unit[:-1])[:, model.seen].square().mean(),
            ((reward - rows.reward) / unit[-1]).square().mean(),
            F.binary_cross_entropy(ends.to(unit).clamp(1e-3, 1.0 - 1e-3), rows.terminated),
        ]
    )
