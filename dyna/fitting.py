"""How the ensemble learns: warm-started, with held-out rows that decide when to stop.

Janner et al. 2019 (MBPO) for the rule; stopping looks at squared error, because "1 % better" has no meaning for a
log-likelihood that changes its sign.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dyna import audit
from dyna.choices import choose
from dyna.errors import Diverged, RunFailed
from dyna.holdout import held_out
from dyna.imagination import Z90
from dyna.lessons import normalised, set_oversampling, whole
from dyna.scoring import Best, scores
from dyna.training import optimiser, set_units, update
from dyna.types import Outcome, Transitions

if TYPE_CHECKING:
    from dyna.world_model import GaussianEnsemble

log = logging.getLogger("dyna")


def fit(
    model: GaussianEnsemble,
    data: Transitions,
    *,
    rng: torch.Generator,
    lessons: Tensor | None = None,
    n_envs: int = 1,
) -> dict[str, float]:
    """Fit the ensemble to all real transitions [B, .]; returns metrics, errors in units of the data's spread.

    The steps of `n_envs` environments take turns in the data, oldest first.
    `lessons` [B, 3] in [0, 1] say how much of next state, reward and termination may be learned from a row, where not
    all may. Half of a batch are then rows that teach all three wholly, of which there must be some. Raises UserError
    when an exact reward or termination function disagrees with the data, RunFailed when the data or the loss is not
    finite.
    """
    _check(data)
    audits = audit.compare(model, data)
    audit.refuse(audits, data.terminated)
    choose(model, data, rng, n_envs)
    is_held = held_out(data, model.settings.holdout)
    train, held = data.at(~is_held), data.at(is_held)
    taught = asked = None
    if lessons is not None:
        taught, asked = lessons[~is_held], lessons[is_held]
        if not whole(asked).any():  # then training rows must do
            held, asked = data, lessons
    set_units(model, train, data.reward)
    updates = _train(model, train, held, rng, taught, asked)
    model.fits += 1
    terminals = float(data.terminated.sum())
    if terminals == 0 and model.version == 1 and model.termination_fn is None:
        log.info("no step has terminated yet: until one does, the world model imagines that episodes never end")
    disagreements = {f"{each.name}_disagreements": float(each.wrong.sum()) for each in audits}
    if asked is not None:
        held = held.at(whole(asked))  # the world as it is
    sizes = {"rows": len(data.obs), "terminals": terminals, "updates": updates}
    return {**holdout_metrics(model, held), **disagreements, **sizes}


def holdout_metrics(model: GaussianEnsemble, held: Transitions) -> dict[str, float]:
    """Errors of the elites' mean on held-out rows, and how well ends are told from steps."""
    prediction = model.predict_elites(held.obs, held.action)
    centre = prediction.mean.mean(0)
    likely = (prediction.p_terminated.mean(0) > 0.5).float()
    next_obs, reward, said = model.known(held.obs, held.action, Outcome(centre[:, :-1], centre[:, -1], likely))
    truth = torch.cat([held.next_obs, held.reward[:, None]], dim=1)
    scored = torch.cat([model.seen, model.seen.new_ones(1)])  # the reward always is
    error = ((torch.cat([next_obs, reward[:, None]], dim=1) - truth) / model.y_std)[:, scored]
    spread = prediction.std.square().mean(0) + prediction.mean.var(0, correction=0)
    covered = ((centre - truth).abs() <= Z90 * spread.sqrt())[:, scored]
    hits, ended = float((said * held.terminated).sum()), held.terminated.any()
    return {
        "holdout_error": float(error.square().mean()),
        "holdout_state_error": float(error[:, :-1].square().mean()),
        "holdout_reward_error": float(error[:, -1].square().mean()),
        "coverage_90": float(covered.float().mean()),
        "termination_f1": 2 * hits / float(said.sum() + held.terminated.sum()) if ended else math.nan,
        "target_delta": float(model.delta),
        "left_out": float((~model.seen).sum()),
    }


def _check(data: Transitions) -> None:
    for name, part in zip(data._fields, data, strict=True):
        if not torch.isfinite(part).all():
            row = int((~torch.isfinite(part.reshape(len(part), -1)).all(1)).nonzero()[0])
            raise RunFailed(
                f"the world model was given a {name} that is not finite, {part[row].tolist()}: mend the environment"
            )


def _train(
    model: GaussianEnsemble,
    train: Transitions,
    held: Transitions,
    rng: torch.Generator,
    taught: Tensor | None,
    asked: Tensor | None,
) -> int:
    """Train until no member's held-out error improves; each member keeps its best weights. Returns the steps.

    `taught` and `asked` [B, 3] are the lessons of the training and of the held-out rows.
    """
    settings, adam = model.settings, optimiser(model)
    if not held.terminated.any():  # or weights that never end would be judged the best
        ends = train.terminated > 0
        held = Transitions(*(torch.cat([part, more]) for part, more in zip(held, train.at(ends), strict=True)))
        asked = None if asked is None or taught is None else torch.cat([asked, taught[ends]])
    rows, test = normalised(model, train, rng, taught), normalised(model, held, rng)._replace(lessons=asked)
    set_oversampling(model, rows)
    window = min(max(math.ceil(len(train.obs) / settings.batch_size), 25), 100)
    best = [Best(*pair) for pair in zip((model.state_network, model.outcome_network), scores(model, test), strict=True)]
    updates = idle = 0
    while idle < settings.patience and updates < settings.max_updates:
        steps = min(window, settings.max_updates - updates)
        update(model, rows, adam, steps, rng)
        updates += steps
        found = scores(model, test)
        if not all(torch.isfinite(score.loss).all() for score in found):
            raise Diverged("world model", "its loss on held-out rows is not finite")
        fell = [network.offer(score, settings.improvement) for network, score in zip(best, found, strict=True)]
        idle = 0 if any(fell) else idle + 1
    for network in best:
        network.restore()
    model.elites.copy_(best[0].score.error.argsort()[: settings.elites])
    return updates
