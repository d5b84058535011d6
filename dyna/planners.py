"""Planners: pure functions that search for the actions that a score likes best.

`cem(score, mean, std, ..., rng=rng) -> Plan`, where `score` maps candidates [B, N, H, A] to [B, N], `mean` and `std`
[B, H, A] say where to look first, and `Plan.actions` is [B, H, A]: one plan of H actions of A numbers for each of B
start states, which do not influence each other. A warm start is the last plan's mean, `shifted` by the steps that were
made. With `deadline_ms` a planner stops between iterations, after one at least, and returns what it has by then.

Letters: B start states, N candidates, K elites, H horizon, A action size.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dyna.plans import (
    Bound,
    Plan,
    Ranked,
    Rounds,
    Score,
    best,
    bounded,
    check_elites,
    coloured_noise,
    truncated_normal,
    uniform,
)


@torch.no_grad()
def random_shooting(
    score: Score,
    mean: Tensor,
    *,
    n: int = 1_000,
    iterations: int = 1,
    low: Bound = -1.0,
    high: Bound = 1.0,
    deadline_ms: float | None = None,
    rng: torch.Generator,
) -> Plan:
    """The best of `n` plans an iteration, drawn uniformly within the bounds, and of `mean` [B, H, A] itself.

    Nagabandi et al. 2018 (1708.02596), section 4.2.
    """
    found = bounded(mean, low, high).unsqueeze(1)
    rounds = Rounds(iterations, deadline_ms)
    while rounds.another():
        candidates = torch.cat([found, uniform(mean, n, low, high, rng)], dim=1)
        top = best(candidates, score(candidates), 1)
        found = top.plans
    actions = found[:, 0]
    return Plan(actions, top.scores[:, 0], actions, torch.zeros_like(actions), *top, rounds.made)


@torch.no_grad()
def cem(
    score: Score,
    mean: Tensor,
    std: Tensor,
    *,
    n: int = 350,
    elites: int = 35,
    iterations: int = 5,
    smoothing: float = 0.1,
    low: Bound = -1.0,
    high: Bound = 1.0,
    deadline_ms: float | None = None,
    rng: torch.Generator,
) -> Plan:
    """The cross-entropy method: draw `n` plans, fit mean and std [B, H, A] to the best, again; the plan is the mean.

    As in PETS (Chua et al. 2018, section 5.2): a normal cut at two standard deviations, of which two fit between the
    mean and each bound, and `smoothing`, the share of the old mean and variance that stays.
    """
    check_elites(elites, n)
    low, high = torch.as_tensor(low).to(mean), torch.as_tensor(high).to(mean)
    mean = bounded(mean, low, high)
    rounds = Rounds(iterations, deadline_ms)
    while rounds.another():
        fitting = torch.minimum(std, torch.minimum(mean - low, high - mean) / 2)
        candidates = bounded(truncated_normal(mean, fitting, n, rng), low, high)
        top = best(candidates, score(candidates), elites)
        mean, std = _refit(mean, std, top.plans, smoothing)
    return _centre(score, bounded(mean, low, high), std, top, rounds.made)


@torch.no_grad()
def icem(
    score: Score,
    mean: Tensor,
    std: Tensor,
    *,
    n: int = 100,
    elites: int = 10,
    iterations: int = 4,
    smoothing: float = 0.1,
    beta: float = 2.0,
    decay: float = 1.25,
    keep: float = 0.3,
    seeds: Tensor | None = None,
    low: Bound = -1.0,
    high: Bound = 1.0,
    deadline_ms: float | None = None,
    rng: torch.Generator,
) -> Plan:
    """The sample-efficient cross-entropy method (Pinneri et al. 2020, 2008.06389); the plan is the best candidate.

    Noise is coloured along time with the exponent `beta`; each iteration draws `decay` times fewer plans than the one
    before, 2 K at least; the share `keep` of the elites stays a candidate, and so does the mean, in every iteration and
    not in the last alone, since a deadline may make any the last: where all are equal, the plan is the mean. Plans
    `seeds` [B, M, H, A] are candidates at first: handed the shifted elites of the last plan, these are kept over time.
    """
    check_elites(elites, n)
    kept = mean[:, None][:, :0] if seeds is None else seeds
    rounds = Rounds(iterations, deadline_ms)
    while rounds.another():
        size = max(2 * elites, int(n / decay ** (rounds.made - 1)))
        drawn = mean.unsqueeze(1) + std.unsqueeze(1) * coloured_noise(mean, size, beta, rng)
        candidates = bounded(torch.cat([mean.unsqueeze(1), kept, drawn], dim=1), low, high)
        top = best(candidates, score(candidates), elites)
        mean, std = _refit(mean, std, top.plans, smoothing)
        kept = top.plans[:, : max(1, round(keep * elites))]
    return Plan(top.plans[:, 0], top.scores[:, 0], mean, std, *top, rounds.made)


@torch.no_grad()
def mppi(
    score: Score,
    mean: Tensor,
    std: Tensor,
    *,
    n: int = 232,
    elites: int = 32,
    iterations: int = 4,
    temperature: float = 0.5,
    min_std: float = 0.05,
    max_std: float = 2.0,
    seeds: Tensor | None = None,
    scored: bool = True,
    low: Bound = -1.0,
    high: Bound = 1.0,
    deadline_ms: float | None = None,
    rng: torch.Generator,
) -> Plan:
    """Model predictive path integral control, seeded by a policy, as in TD-MPC2 (Hansen et al. 2024, appendix).

    Draws `n` plans and weighs the elites by exp(temperature (score - best score)), in the score's unit: the higher, the
    greedier (Williams et al. 2017 divide by it). Plans `seeds` [B, M, H, A], the policy's, compete in every iteration;
    they are scored once. The plan is the weighted mean, which a last call scores; without `scored`, its score is NaN.
    """
    check_elites(elites, n)
    seeds = mean[:, None][:, :0] if seeds is None else bounded(seeds, low, high)
    seed_scores = seeds.new_empty(len(seeds), 0)
    rounds = Rounds(iterations, deadline_ms)
    while rounds.another():
        noise = torch.randn(len(mean), n, *mean.shape[1:], generator=rng, device=mean.device, dtype=mean.dtype)
        drawn = bounded(mean.unsqueeze(1) + std.unsqueeze(1) * noise, low, high)
        new = [seeds, drawn] if rounds.made == 1 else [drawn]
        scores = torch.cat([seed_scores, score(torch.cat(new, dim=1))], dim=1)
        seed_scores = scores[:, : seeds.shape[1]]
        top = best(torch.cat([seeds, drawn], dim=1), scores, elites)
        weight = torch.softmax(temperature * top.scores, dim=1)[:, :, None, None]
        mean = (weight * top.plans).sum(1)
        std = (weight * (top.plans - mean.unsqueeze(1)).square()).sum(1).sqrt().clamp(min_std, max_std)
    mean = bounded(mean, low, high)
    if not scored:
        return Plan(mean, mean.new_full((len(mean),), math.nan), mean, std, *top, rounds.made)
    return _centre(score, mean, std, top, rounds.made)


@torch.no_grad()
def categorical_cem(
    score: Score,
    probs: Tensor,
    *,
    n: int = 200,
    elites: int = 20,
    iterations: int = 5,
    smoothing: float = 0.1,
    seeds: Tensor | None = None,
    deadline_ms: float | None = None,
    rng: torch.Generator,
) -> Plan:
    """The cross-entropy method for discrete actions: probs [B, H, A] of each action at each step -> one-hot plan.

    Probabilities move to the elites' frequencies. The best plan so far stays a candidate and is returned; `Plan.mean`
    holds the probabilities (Rubinstein 1999; de Boer et al. 2005, section 3). Plans `seeds` [B, M, H, A] are candidates
    at first.
    """
    check_elites(elites, n)
    batch, horizon, actions = probs.shape
    found = probs.new_empty(batch, 0, horizon, actions) if seeds is None else seeds
    rounds = Rounds(iterations, deadline_ms)
    while rounds.another():
        drawn = torch.multinomial(probs.flatten(0, 1), n, replacement=True, generator=rng)  # [B*H, N]
        one_hot = F.one_hot(drawn, actions).to(probs.dtype).view(batch, horizon, n, actions).transpose(1, 2)
        candidates = torch.cat([found, one_hot], dim=1)
        top = best(candidates, score(candidates), elites)
        found = top.plans[:, :1]
        probs = smoothing * probs + (1 - smoothing) * top.plans.mean(1)
    return Plan(found[:, 0], top.scores[:, 0], probs, (probs * (1 - probs)).sqrt(), *top, rounds.made)


def gradient(
    score: Score,
    plans: Tensor,
    *,
    iterations: int = 20,
    learning_rate: float = 0.05,
    low: Bound = -1.0,
    high: Bound = 1.0,
    deadline_ms: float | None = None,
) -> Plan:
    """Climb a differentiable score from each of the plans [B, N, H, A] with Adam, and return the best that was met.

    After each step the plans are cut at the bounds. A score that draws random numbers should draw the same ones in
    every call. Bharadhwaj et al. 2020 (2003.02826) for its use in model predictive control.
    """
    climbing = bounded(plans.detach(), low, high).clone().requires_grad_()
    adam = torch.optim.Adam([climbing], learning_rate, maximize=True)
    found: Ranked | None = None
    rounds = Rounds(iterations, deadline_ms)
    while rounds.another():
        with torch.enable_grad():
            scores = score(climbing)
            (climbing.grad,) = torch.autograd.grad(scores.sum(), climbing)
        top = best(climbing.detach(), scores.detach(), 1)
        found = top if found is None else _better(found, top)
        adam.step()
        with torch.no_grad():
            climbing.copy_(bounded(climbing, low, high))
    assert found is not None  # one round is always made
    actions = found.plans[:, 0]
    return Plan(actions, found.scores[:, 0], actions, torch.zeros_like(actions), *found, rounds.made)


def _refit(mean: Tensor, std: Tensor, elites: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """Mean and std [B, H, A] of the elites [B, K, H, A], of which the old ones keep a share."""
    var = smoothing * std.square() + (1 - smoothing) * elites.var(1, correction=0)
    return smoothing * mean + (1 - smoothing) * elites.mean(1), var.sqrt()


def _centre(score: Score, mean: Tensor, std: Tensor, top: Ranked, iterations: int) -> Plan:
    """The mean as the plan, scored."""
    return Plan(mean, score(mean.unsqueeze(1))[:, 0], mean, std, *top, iterations)


def _better(a: Ranked, b: Ranked) -> Ranked:
    """Row by row the one of two single plans with the higher score."""
    wins = b.scores > a.scores  # [B, 1]
    return Ranked(torch.where(wins[:, :, None, None], b.plans, a.plans), torch.where(wins, b.scores, a.scores))
