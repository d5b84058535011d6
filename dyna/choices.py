"""What of an environment a world model learns: which numbers of an observation, and these as changes or as they are.

Small ensembles say what a choice is worth, on steps that they have not seen.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

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
AT_REST = 0.25  # share of the steps in which a number has its most frequent value, bit for bit: a contact, a flag
BLOCK = 50  # steps in a row that are held out together
UNFORESEEN = 0.4  # squared error of what a step changes, in its variance: noise of its own leaves a half
SAME_END = 0.01  # nats that the log-loss of ends may rise by where numbers are left out

log = logging.getLogger("dyna")


def choose(model: GaussianEnsemble, data: Transitions, rng: torch.Generator, n_envs: int = 1) -> None:
    """Choose before the first fit to the rows [B, .], and again when they have grown by GROWTH.

    The steps of `n_envs` environments take turns in the data, oldest first.
    """
    if len(data.obs) < GROWTH * int(model.rows_at_choice):
        return
    model.rows_at_choice.fill_(len(data.obs))
    asked = model.may_leave_out and len(data.obs) >= FEW
    resting = at_rest(data.obs) if asked else torch.zeros_like(model.seen)
    if not resting.any():
        model.see(~resting)
    if not resting.any() and model.settings.target != "auto":
        return
    with torch.random.fork_rng():  # new weights come from torch's global generator, which is the learner's
        torch.manual_seed(int(torch.randint(2**31, (), generator=rng, device=rng.device)))
        if resting.any():
            _choose_numbers(model, data, resting, rng, n_envs)
        if model.settings.target == "auto":
            _choose_target(model, data, rng, n_envs)


def at_rest(obs: Tensor) -> Tensor:
    """Which numbers of observations [B, S] have one and the same value in many rows, and others in some: bool [S]."""
    ordered = obs.sort(0).values
    lag = max(1, math.ceil(AT_REST * len(obs)) - 1)
    return (ordered[lag:] == ordered[:-lag]).any(0) & (ordered[0] != ordered[-1])


def open_loop_error(
    model: GaussianEnsemble, data: Transitions, steps: int, n_envs: int = 1, among: Tensor | None = None
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


def _choose_target(model: GaussianEnsemble, data: Transitions, rng: torch.Generator, n_envs: int) -> None:
    """Change the kind of target where a small ensemble with the other is clearly nearer in the newest fifth.

    Before the first fit a second small ensemble stands for today's kind. Afterwards the model itself does, though it
    has seen these rows and the small one has not: a change costs all that it has learned of the state.
    """
    cut = int(0.8 * len(data.obs))
    past, newest = data.at(slice(cut)), data.at(slice(cut, None))
    kind, other = ("delta", "next_obs") if model.delta else ("next_obs", "delta")
    today = model if model.fits else _probe(model, kind, model.seen, past, rng)
    rivals = today, _probe(model, other, model.seen, past, rng)
    ours, theirs = (open_loop_error(each, newest, OPEN_LOOP, n_envs) for each in rivals)
    if ours > CLEARLY_BETTER * theirs:
        model.state_network.reset_parameters()
        model.delta.fill_(other == "delta")


class Foretold(NamedTuple):
    """How far a model is off on steps that it has not seen."""

    change: Tensor  # [S] squared error of what a step changes, in its variance
    reward: float  # squared error in its variance
    end: float  # nats, log-loss


def _choose_numbers(
    model: GaussianEnsemble, data: Transitions, resting: Tensor, rng: torch.Generator, n_envs: int
) -> None:
    """Leave out those of the resting numbers [S] that jump unforeseen, where all else is told clearly better without.

    All else are the other numbers and the reward, and ends must be told as well.
    """
    (shown, held), kind = _spread_out(data, n_envs), "delta" if model.delta else "next_obs"
    whole = _probe(model, kind, torch.ones_like(resting), shown, rng)
    told = _foretold(whole, held)
    seen = ~(resting & (told.change > UNFORESEEN))
    if not seen.all():
        rest = _probe(model, kind, seen, shown, rng)
        better = _foretold(rest, held)
        before, after = (open_loop_error(each, held, OPEN_LOOP, n_envs, among=seen) for each in (whole, rest))
        clearly = before + told.reward > CLEARLY_BETTER * (after + better.reward)
        seen |= not (clearly and better.end <= told.end + SAME_END)
    if not seen.all():
        log.info(
            "%d numbers of an observation are left out: they jump unforeseen, and all else is foretold clearly better "
            "without them (-p world_model.leave_out=false keeps them)",
            int((~seen).sum()),
        )
    model.see(seen)


@torch.no_grad()
def _foretold(model: GaussianEnsemble, rows: Transitions) -> Foretold:
    """Means over rows [B, .]; reward and end are asked of the real next observation."""
    x = model.normalise_input(rows.obs, rows.action).expand(model.settings.members, len(rows.obs), -1)
    outcome = model.outcome_head(x, rows.next_obs.expand(len(x), *rows.next_obs.shape))
    reward, p_terminated = (part.mean(0) for part in model.told(outcome))
    missed = model.next_obs(rows.obs, model.state_head(x).mean).mean(0) - rows.next_obs
    return Foretold(
        (missed / moments(rows.next_obs - rows.obs)[1]).square().mean(0),
        float(((reward - rows.reward) / moments(rows.reward[:, None])[1]).square().mean()),
        float(F.binary_cross_entropy(p_terminated.clamp(0.0, 1.0), rows.terminated)),
    )


def _spread_out(data: Transitions, n_envs: int) -> tuple[Transitions, Transitions]:
    """All but every fifth block of BLOCK steps, and these: whatever jumps now and then does so in both."""
    block = torch.arange(len(data.obs), device=data.obs.device) // (BLOCK * n_envs)
    held = block % 5 == 4 if block[-1] >= 4 else block == block[-1]
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
    )
    probe = type(model)(model.obs_size, model.action_size, small, device=model.x_mean.device)
    probe.see(seen)
    set_units(probe, past, past.reward)
    rows = normalised(probe, past, rng)
    set_oversampling(probe, rows)
    update(probe, rows, optimiser(probe), PROBE_UPDATES, rng)
    return probe
