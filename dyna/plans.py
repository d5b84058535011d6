"""Plans, and the parts that planners share."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from dyna.errors import Diverged, UserError

Score = Callable[[Tensor], Tensor]
"""How good candidate plans are, the higher the better: actions [B, N, H, A] -> [B, N].

A score is asked for any number of candidates N, and may draw random numbers; NaN means worst.
"""
Bound = float | Tensor  # one for all actions, or [A]


class Plan(NamedTuple):
    """What a planner found for each start state."""

    actions: Tensor  # [B, H, A] the plan
    score: Tensor  # [B] what the score says of it
    mean: Tensor  # [B, H, A] centre of the last search distribution; `shifted`, it is the next warm start
    std: Tensor  # [B, H, A] width of it
    elites: Tensor  # [B, K, H, A] best candidates of the last iteration, best first
    elite_scores: Tensor  # [B, K]
    iterations: int  # made until the deadline


class Ranked(NamedTuple):
    """Some candidates, best first."""

    plans: Tensor  # [B, K, H, A]
    scores: Tensor  # [B, K]


def best(plans: Tensor, scores: Tensor, k: int) -> Ranked:
    """The k best of the candidates [B, N, H, A] by their scores [B, N], of equal ones the first.

    Raises Diverged where no candidate has a score that is a number.
    """
    scores = torch.where(scores.isnan(), -math.inf, scores)
    values, order = (part[:, :k] for part in scores.sort(dim=1, descending=True, stable=True))
    if (values[:, 0] == -math.inf).any():
        raise Diverged("world model", "it scores no candidate plan by a finite number")
    rows = torch.arange(len(plans), device=plans.device).unsqueeze(1)
    return Ranked(plans[rows, order], values)


def shifted(plans: Tensor) -> Tensor:
    """Plans [..., H, A] as they are a step later: the first action is done, and there is none yet for the last step."""
    return torch.cat([plans[..., 1:, :], torch.zeros_like(plans[..., :1, :])], dim=-2)


class Rounds:
    """Counts iterations: `while rounds.another(): ...`. The first is always made, a deadline may forbid the others.

    A further one is made while it would end before the deadline if it took as long as the last. The clock starts here.
    Raises UserError for fewer than one iteration.
    """

    def __init__(self, iterations: int, deadline_ms: float | None) -> None:
        if iterations < 1:
            raise UserError(f"iterations must be at least 1, got {iterations}")
        self.made = 0
        self._iterations = iterations
        self._last = time.perf_counter()
        self._end = math.inf if deadline_ms is None else self._last + deadline_ms / 1000

    def another(self) -> bool:
        """Whether to make one more iteration, which is then counted."""
        now = time.perf_counter()
        if self.made == self._iterations or (self.made and now + (now - self._last) > self._end):
            return False
        self.made, self._last = self.made + 1, now
        return True


def check_elites(elites: int, n: int) -> None:
    """Raise UserError unless 1 <= elites <= n."""
    if not 1 <= elites <= n:
        raise UserError(f"elites must be between 1 and the {n} candidates, got {elites}")


def bounded(plans: Tensor, low: Bound, high: Bound) -> Tensor:
    """Plans [..., A] cut at the bounds."""
    return plans.clamp(torch.as_tensor(low).to(plans), torch.as_tensor(high).to(plans))


def uniform(like: Tensor, n: int, low: Bound, high: Bound, rng: torch.Generator) -> Tensor:
    """n plans a start state, each action anywhere within the bounds: like [B, H, A] -> [B, n, H, A]."""
    batch, horizon, actions = like.shape
    share = torch.rand(batch, n, horizon, actions, generator=rng, device=like.device, dtype=like.dtype)
    low, high = torch.as_tensor(low).to(like), torch.as_tensor(high).to(like)
    return bounded(low + (high - low) * share, low, high)  # rounding may lead a bit beyond


def truncated_normal(mean: Tensor, std: Tensor, n: int, rng: torch.Generator) -> Tensor:
    """n draws around mean [B, H, A], cut at two standard deviations: [B, n, H, A]."""
    batch, horizon, actions = mean.shape
    share = torch.rand(batch, n, horizon, actions, generator=rng, device=mean.device, dtype=mean.dtype)
    inside = math.erf(math.sqrt(2.0))  # probability within two standard deviations
    normal = math.sqrt(2.0) * torch.erfinv(inside * (2.0 * share - 1.0))
    return mean.unsqueeze(1) + std.unsqueeze(1) * normal


def coloured_noise(like: Tensor, n: int, beta: float, rng: torch.Generator) -> Tensor:
    """n draws [B, n, H, A] of unit variance whose power falls with frequency as f^-beta along H; like [B, H, A].

    beta 0 is white noise, 2 a random walk's. Timmer & Koenig 1995, as in Pinneri et al. 2020, section 3.1.
    """
    batch, horizon, actions = like.shape
    frequency = torch.fft.rfftfreq(horizon, device=like.device, dtype=like.dtype)
    frequency[0] = 1.0 / horizon
    scale: Tensor = frequency ** (-beta / 2.0)
    # a real signal has no phase at frequency zero, nor at the highest of an even length
    lone = torch.zeros_like(scale)
    lone[0] = 1.0
    if horizon % 2 == 0:
        lone[-1] = 1.0
    drawn = torch.randn(2, batch, n, actions, len(scale), generator=rng, device=like.device, dtype=like.dtype)
    real = drawn[0] * (1.0 + lone * (math.sqrt(2.0) - 1.0))
    imaginary = drawn[1] * (1.0 - lone)
    power = ((2.0 - lone) * scale.square()).sum()
    noise: Tensor = torch.fft.irfft(torch.complex(real, imaginary) * scale, n=horizon).transpose(2, 3)
    return noise * (2.0 * power).rsqrt() * horizon
