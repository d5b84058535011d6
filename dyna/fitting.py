"""How the ensemble learns: warm-started, with held-out rows that decide when to stop.

Janner et al. 2019 (MBPO) for the rule; stopping looks at squared error, because "1 % better" has no meaning for a
log-likelihood that changes its sign.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from dyna import audit
from dyna.errors import Diverged, RunFailed
from dyna.holdout import held_out
from dyna.imagination import Z90
from dyna.lessons import Rows, draw_batches, foretells, normalised, set_oversampling, targets, whole
from dyna.scoring import Best, gaussian_loss, mean_of, scores
from dyna.types import Outcome, Transitions

if TYPE_CHECKING:
    from dyna.world_model import GaussianEnsemble

OPEN_LOOP = 5  # steps of the error that chooses the kind of target
PROBE_UPDATES = 300  # training steps of a small ensemble that says what a kind is worth
CLEARLY_BETTER = 1.25  # today's kind of target is left where its error is more than so many times the other's
SLOWEST = 1e-3  # of the spread of a number: as much as a step changes it at least, or rounding would count
GROWTH = 4  # the kind is judged again when the data has grown so many times

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
    if model.settings.target == "auto" and len(data.obs) >= GROWTH * int(model.rows_at_choice):
        with torch.random.fork_rng():  # new weights come from torch's global generator, which is the learner's
            torch.manual_seed(int(torch.randint(2**31, (), generator=rng, device=rng.device)))
            _choose_target(model, data, rng, n_envs)
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
    error = (torch.cat([next_obs, reward[:, None]], dim=1) - truth) / model.y_std
    spread = prediction.std.square().mean(0) + prediction.mean.var(0, correction=0)
    covered = (centre - truth).abs() <= Z90 * spread.sqrt()
    hits, ended = float((said * held.terminated).sum()), held.terminated.any()
    return {
        "holdout_error": float(error.square().mean()),
        "holdout_state_error": float(error[:, :-1].square().mean()),
        "holdout_reward_error": float(error[:, -1].square().mean()),
        "coverage_90": float(covered.float().mean()),
        "termination_f1": 2 * hits / float(said.sum() + held.terminated.sum()) if ended else math.nan,
        "target_delta": float(model.delta),
    }


def open_loop_error(model: GaussianEnsemble, data: Transitions, steps: int, n_envs: int = 1) -> float:
    """Squared error along the actions that were taken, in spreads of what a step of these rows changes.

    Mean of all numbers and of depths 1 to `steps`, median of the places to begin: a few rollouts that run away say
    little of the others.
    """
    rows = windows(data, steps, n_envs)
    if len(rows) == 0:
        rows = torch.arange(len(data.obs), device=data.obs.device)[:, None]
    changes, states = moments(data.next_obs - data.obs)[1], moments(data.obs)[1]
    obs, scale = data.obs[rows[:, 0]], torch.maximum(changes, SLOWEST * states)
    errors = []
    with torch.no_grad():
        for now in rows.T:
            obs = model.predict(obs, data.action[now]).mean.mean(0)[:, :-1]
            errors.append(((obs - data.next_obs[now]) / scale).square().mean(1))
    return float(torch.stack(errors).mean(0).nan_to_num(math.inf).median())


def windows(data: Transitions, steps: int, n_envs: int = 1) -> Tensor:
    """Rows [W, steps] of consecutive steps of one episode, each beginning in what the one before ended in.

    The steps of `n_envs` environments take turns in the data [B, .].
    """
    follows = (data.next_obs[:-n_envs] == data.obs[n_envs:]).all(1) & (data.terminated[:-n_envs] == 0)
    unbroken = torch.ones(max(len(data.obs) - n_envs * (steps - 1), 0), dtype=torch.bool, device=follows.device)
    for step in range(steps - 1):
        unbroken &= follows[step * n_envs :][: len(unbroken)]
    return unbroken.nonzero() + n_envs * torch.arange(steps, device=follows.device)


def _check(data: Transitions) -> None:
    for name, part in zip(data._fields, data, strict=True):
        if not torch.isfinite(part).all():
            row = int((~torch.isfinite(part.reshape(len(part), -1)).all(1)).nonzero()[0])
            raise RunFailed(
                f"the world model was given a {name} that is not finite, {part[row].tolist()}: mend the environment"
            )


def set_units(model: GaussianEnsemble, data: Transitions, rewards: Tensor) -> None:
    """Every dimension by its own spread, the reward among them (arXiv 2510.01457), and the box of living states.

    Every other row makes the box, so that the rest show what leaving it means where it does not end the task. Where
    all `rewards` are the same, those of held-out rows too, they have no spread, and a size all the same.
    """
    alive = data.next_obs[::2][data.terminated[::2] == 0]
    if len(alive):
        model.alive_low.copy_(alive.amin(0))
        model.alive_high.copy_(alive.amax(0))
    changes = torch.cat([data.next_obs - data.obs, data.reward[:, None]], dim=1)
    model.change_std.copy_(moments(changes)[1])
    units = {"x": moments(torch.cat([data.obs, data.action], 1))}
    if model.settings.normalise_targets:
        units["y"] = moments(targets(model, data))
    for kind, (mean, std) in units.items():
        getattr(model, f"{kind}_mean").copy_(mean)
        getattr(model, f"{kind}_std").copy_(std)
    size = float(rewards[0].abs())
    if size and (rewards == rewards[0]).all():
        model.change_std[-1] = size
        if model.settings.normalise_targets:
            model.y_std[-1] = size


def moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each column [B, D] -> [D], [D]; a constant column has no spread and gets 1."""
    wide = values.double()
    mean, std = wide.mean(0), wide.std(0, correction=0)
    std[std <= 1e-6 * mean.abs().clamp_min(1e-12)] = 1.0
    return mean.to(values), std.to(values)


def _choose_target(model: GaussianEnsemble, data: Transitions, rng: torch.Generator, n_envs: int) -> None:
    """Change the kind of target where a small ensemble with the other is clearly nearer in the newest fifth.

    Before the first fit a second small ensemble stands for today's kind. Afterwards the model itself does, though it
    has seen these rows and the small one has not: a change costs all that it has learned of the state.
    """
    cut = int(0.8 * len(data.obs))
    past, newest = data.at(slice(cut)), data.at(slice(cut, None))
    kind, other = ("delta", "next_obs") if model.delta else ("next_obs", "delta")
    today = model if model.fits else _probe(model, kind, past, rng)
    rivals = today, _probe(model, other, past, rng)
    ours, theirs = (open_loop_error(each, newest, OPEN_LOOP, n_envs) for each in rivals)
    if ours > CLEARLY_BETTER * theirs:
        model.state_network.reset_parameters()
        model.delta.fill_(other == "delta")
    model.rows_at_choice.fill_(len(data.obs))


def _probe(model: GaussianEnsemble, target: str, data: Transitions, rng: torch.Generator) -> GaussianEnsemble:
    """A small ensemble like the model, with a target of this kind, after a few training steps."""
    small = dataclasses.replace(
        model.settings,
        target=target,
        members=2,
        elites=2,
        depth=2,
        width=min(128, model.settings.width),
        outcome_states="real",  # only the state is asked about
    )
    probe = type(model)(model.obs_size, model.action_size, small, device=model.x_mean.device)
    set_units(probe, data, data.reward)
    rows = normalised(probe, data, rng)
    set_oversampling(probe, rows)
    update(probe, rows, optimiser(probe), PROBE_UPDATES, rng)
    return probe


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


def update(model: GaussianEnsemble, rows: Rows, adam: torch.optim.AdamW, updates: int, rng: torch.Generator) -> None:
    """Take training steps, each member on batches of its own."""
    parameters = list(model.parameters())
    index, extra = draw_batches(model, rows, updates, rng)
    for batch in index:  # [E, b]
        grads = torch.autograd.grad(_loss(model, rows, batch, extra, rng), parameters)
        for parameter, grad in zip(parameters, grads, strict=True):
            parameter.grad = grad
        adam.step()


def _loss(model: GaussianEnsemble, rows: Rows, index: Tensor, extra: int, rng: torch.Generator) -> Tensor:
    """Negative log-likelihood of next state, reward and termination on rows [E, b], summed over members.

    The first `extra` columns are the terminal rows that were added: they teach termination alone.
    """
    flat = index.flatten()
    x, y, next_obs, terminated = (part.index_select(0, flat).view(*index.shape, *part.shape[1:]) for part in rows[:4])
    first = 0 if model.learns_foretold else extra  # the added rows need a state only to be foretold
    state = model.state_head(x[:, first:])
    if model.learns_foretold:
        next_obs = torch.where(foretells(rows, index, rng).unsqueeze(-1), model.foretold(x, state), next_obs)
    outcome, beta = model.outcome_head(x, next_obs), model.settings.beta
    mean, log_var = (part[:, extra - first :] for part in state)
    by_state = gaussian_loss(mean, log_var, y[:, extra:, :-1], beta)
    by_reward = gaussian_loss(outcome.mean[:, extra:], outcome.log_var[:, extra:], y[:, extra:, -1], beta)
    if rows.lessons is None:
        by_end = F.binary_cross_entropy_with_logits(outcome.logit, terminated)
        return len(index) * (by_state.mean() + by_reward.mean() + by_end)
    of_state, of_reward, of_end = rows.lessons[index].unbind(-1)
    by_end = F.binary_cross_entropy_with_logits(outcome.logit, terminated, reduction="none")
    taught = mean_of(by_state.mean(-1), of_state[:, extra:]) + mean_of(by_reward, of_reward[:, extra:])
    return len(index) * (taught + mean_of(by_end, of_end))


def optimiser(model: GaussianEnsemble) -> torch.optim.AdamW:
    """A fresh AdamW, fused: one pass over all parameters."""
    settings = model.settings
    return torch.optim.AdamW(model.parameters(), settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
