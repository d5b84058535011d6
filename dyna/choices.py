"""What of an environment a world model learns: which numbers of an observation, and these as changes or as they are.

Small ensembles say what a choice is worth, on steps that they have not seen.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from dyna.holdout import HOLDOUT_ROWS
from dyna.lessons import normalised, set_oversampling
from dyna.training import moments, optimiser, set_units, update
from dyna.types import Transitions

if TYPE_CHECKING:
    from dyna.world_model import GaussianEnsemble

GROWTH = 4  # choices are made again when the data has grown so many times
OPEN_LOOP = 5  # steps of the error that tells choices apart
PROBE_UPDATES = 300  # training steps of a small ensemble
CLEARLY_BETTER = 1.25  # today's choice is left where its error is more than so many times the other's
SLOWEST = 1e-3  # of the spread of a number: as much as a step changes it at least, or rounding would count
FEW = 1_000  # rows before which nothing is left out
AT_REST = 0.25  # share of the rows in which a number has its most frequent value, the very same: a contact, a flag
BLOCK, BLOCKS = 50, 5  # steps in a row that are held out together at most, and one of how many such blocks is
UNFORESEEN = 0.4  # squared error of what a step changes, in its variance: noise of its own leaves a half
SAME_END = 0.01  # nats that the log-loss of ends may rise by where numbers are left out

log = logging.getLogger("dyna")


class Foretold(NamedTuple):
    """How far a model is off on steps that it has not seen."""

    change: Tensor  # [S] squared error of what a step changes, in its variance
    reward: Tensor  # [] squared error in its variance
    end: Tensor  # [] nats, log-loss


def choose(model: GaussianEnsemble, data: Transitions, rng: torch.Generator, n_envs: int = 1) -> None:
    """Choose before the first fit to the rows [B, .], and again when they have grown by GROWTH.

    The steps of `n_envs` environments take turns in the data, oldest first.
    """
    if not model.may_leave_out:
        model.see(torch.ones_like(model.seen))
    if len(data.obs) < GROWTH * int(model.rows_at_choice):
        return
    model.rows_at_choice.fill_(len(data.obs))
    before = model.seen
    resting = torch.zeros_like(before)
    if model.may_leave_out and len(data.obs) >= FEW:
        resting = at_rest(data.obs) | ~before  # a foot that stands feels other forces at each step
    asked = bool(resting.any())
    if not asked and model.settings.target != "auto":
        return
    with torch.random.fork_rng():  # new weights come from torch's global generator, which is the learner's
        torch.manual_seed(int(torch.randint(2**31, (), generator=rng, device=rng.device)))
        if asked:
            model.see(_numbers(model, data, resting, rng, n_envs))
        if model.settings.target == "auto":
            _choose_target(model, data, rng, n_envs, known=bool(model.fits) and torch.equal(model.seen, before))


def at_rest(obs: Tensor) -> Tensor:
    """Which numbers of observations [B, S] have one and the same value in many rows, and others in some: bool [S]."""
    ordered = obs.sort(0).values
    lag = max(1, math.ceil(AT_REST * len(obs)) - 1)
    return (ordered[lag:] == ordered[:-lag]).any(0) & (ordered[0] != ordered[-1])


def open_loop_error(
    model: GaussianEnsemble, data: Transitions, steps: int, n_envs: int, among: Tensor | None = None
) -> float:
    """Squared error along the actions that were taken, in spreads of what a step of these rows changes.

    Mean of depths 1 to `steps` and of all numbers that the model sees, or `among` [S] alone; median of the places to
    begin: a few rollouts that run away say little of the others.
    """
    rows = data.windows(steps, n_envs)
    if len(rows) == 0:
        rows = torch.arange(len(data.obs), device=data.obs.device)[:, None]
    changes, states = moments(data.next_obs - data.obs)[1], moments(data.obs)[1]
    obs, scale = data.obs[rows[:, 0]], torch.maximum(changes, SLOWEST * states)
    chosen, errors = model.seen if among is None else among, []
    with torch.no_grad():
        for now in rows.T:
            obs = model.predict(obs, data.action[now]).mean.mean(0)[:, :-1]
            error = ((obs - data.next_obs[now]) / scale).square()
            errors.append(error[:, chosen].mean(1))
    return float(torch.stack(errors).mean(0).nan_to_num(math.inf).median())


def _choose_target(
    model: GaussianEnsemble, data: Transitions, rng: torch.Generator, n_envs: int, *, known: bool
) -> None:
    """Change the kind of target where a small ensemble with the other is clearly nearer in the newest fifth.

    Where the model does not yet know what it sees, a second small ensemble stands for today's kind. Otherwise the model
    itself does, though it has seen these rows and the small one has not: a change costs all that it has learned of the
    state.
    """
    cut = int(0.8 * len(data.obs))
    past, newest = data.at(slice(cut)), data.at(slice(cut, None))
    other = "next_obs" if model.delta else "delta"
    today = model if known else _probe(model, model.target_kind, model.seen, past, rng)
    rivals = today, _probe(model, other, model.seen, past, rng)
    ours, theirs = (open_loop_error(each, newest, OPEN_LOOP, n_envs) for each in rivals)
    if ours > CLEARLY_BETTER * theirs:
        model.state_network.reset_parameters()
        model.delta.fill_(other == "delta")


def _numbers(model: GaussianEnsemble, data: Transitions, resting: Tensor, rng: torch.Generator, n_envs: int) -> Tensor:
    """All but those of the resting numbers [S] that jump unforeseen, if all else is told clearly better without them.

    All else are the other numbers and the reward, and ends must be told as well. What is left out already stays so
    unless all else is told better with it, for what is seen anew has to be learned from nothing.
    """
    (shown, held), kind = _spread_out(data, n_envs), model.target_kind
    whole = _probe(model, kind, torch.ones_like(resting), shown, rng)
    told = _foretold(whole, held)
    seen = ~(resting & (told.change > UNFORESEEN))
    if seen.all():
        return seen
    rest = _probe(model, kind, seen, shown, rng)
    better = _foretold(rest, held)
    before, after = (open_loop_error(each, held, OPEN_LOOP, n_envs, among=seen) for each in (whole, rest))
    needed = CLEARLY_BETTER if model.seen.all() else 1.0
    clearly = before + told.reward > needed * (after + better.reward)
    if not (clearly and better.end <= told.end + SAME_END):
        return torch.ones_like(seen)
    log.info(
        "%d of %d numbers of an observation are left out: they jump unforeseen, and all else is foretold better "
        "without them (-p world_model.leave_out=false keeps them)",
        int((~seen).sum()),
        len(seen),
    )
    return seen


@torch.no_grad()
def _foretold(model: GaussianEnsemble, rows: Transitions) -> Foretold:
    """Means over rows [B, .]; reward and end are asked of the real next observation."""
    x = model.normalise_input(rows.obs, rows.action).expand(model.settings.members, len(rows.obs), -1)
    outcome = model.outcome_head(x, rows.next_obs.expand(len(x), *rows.next_obs.shape))
    reward, p_terminated = (part.mean(0) for part in model.told(outcome))
    missed = model.next_obs(rows.obs, model.state_head(x).mean).mean(0) - rows.next_obs
    likely = torch.where(rows.terminated > 0, p_terminated, 1.0 - p_terminated)
    return Foretold(
        (missed / moments(rows.next_obs - rows.obs)[1]).square().mean(0),
        ((reward - rows.reward) / moments(rows.reward[:, None])[1]).square().mean(),
        -likely.clamp_min(1e-6).log().mean(),
    )


def _spread_out(data: Transitions, n_envs: int) -> tuple[Transitions, Transitions]:
    """All rows but those of every fifth block, 5,000 at most, and these: what jumps now and then does so in both."""
    steps = max(1, min(BLOCK, len(data.obs) // (BLOCKS * n_envs)))
    block = torch.arange(len(data.obs), device=data.obs.device) // (steps * n_envs)
    every = min(max(BLOCKS, math.ceil(len(data.obs) / HOLDOUT_ROWS)), int(block[-1]))
    held = block % every == every - 1
    return data.at(~held), data.at(held)


def _probe(
    model: GaussianEnsemble, target: str, seen: Tensor, past: Transitions, rng: torch.Generator
) -> GaussianEnsemble:
    """A small ensemble like the model, with a target of this kind for the numbers [S] seen, after some training."""
    small = dataclasses.replace(
        model.settings,
        target=target,
        members=2,
        elites=2,
        depth=2,
        width=min(128, model.settings.width),
        outcome_states="real",
        centred_edges=True,  # 300 steps would not do
    )
    probe = type(model)(model.obs_size, model.action_size, small, device=model.x_mean.device)
    probe.see(seen)
    set_units(probe, past, past.reward)
    rows = normalised(probe, past, rng)
    set_oversampling(probe, rows)
    update(probe, rows, optimiser(probe), PROBE_UPDATES, rng)
    return probe
