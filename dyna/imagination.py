"""imagine(): rollouts of a policy in the world model, and how far they can be trusted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dyna.errors import Diverged, UserError
from dyna.truncation import Frontier, Truncation
from dyna.types import Act, ImaginedTransitions, Outcome, Transitions, WorldModel
from dyna.uncertainty import spread

Z90 = 1.6448536  # half-width of a Gaussian's central 90 % interval, in standard deviations


@torch.no_grad()
def imagine(
    model: WorldModel, act: Act, start: Tensor, horizon: int, truncate: Truncation, *, rng: torch.Generator
) -> ImaginedTransitions:
    """Roll the policy forward in the model from `start` [B, S], env units, for at most `horizon` steps.

    A rollout ends where the task ends or where the rule stops it, and leaves the batch. Returns the rows that the rule
    keeps, shallow ones first, without gradients. Janner et al. 2019, algorithm 2, lines 6-8. Raises Diverged where one
    of them is not finite.
    """
    if horizon < 1:
        raise ValueError(f"horizon must be at least 1, got {horizon}")
    obs, memory = start, truncate.begin(start)
    rows, kept = [], []
    for depth in range(horizon):
        action = act(obs)
        step = truncate.step(model, Frontier(obs, action, memory, depth, horizon), rng=rng)
        next_obs, reward, terminated = model.known(obs, action, step.outcome)
        depths = torch.full_like(reward, depth, dtype=torch.int64)
        versions = torch.full_like(depths, model.version)
        rows.append((obs, action, reward, next_obs, terminated, depths, step.uncertainty, versions))
        kept.append(step.keep)
        going = torch.nonzero(step.go_on & (terminated == 0)).squeeze(1)
        obs, memory = next_obs[going], step.memory[going]
        if len(obs) == 0:
            break
    keep = torch.nonzero(torch.cat(kept)).squeeze(1)
    imagined = ImaginedTransitions(*(torch.cat(column)[keep] for column in zip(*rows, strict=True)))
    for name in ("reward", "next_obs"):
        if not torch.isfinite(getattr(imagined, name)).all():
            raise Diverged("world model", f"it imagined a {name} that is not finite")
    return imagined


@dataclass(frozen=True)
class MBPOSchedule:
    """A horizon that grows linearly with the environment steps (Janner et al. 2019, appendix C)."""

    start_length: int
    """Horizon until `start_step`."""
    end_length: int
    """Horizon from `end_step` on."""
    start_step: int
    """Environment step at which the horizon begins to change."""
    end_step: int
    """Environment step at which it stops changing."""

    def __post_init__(self) -> None:
        if min(self.start_length, self.end_length) < 1:
            raise UserError(f"a horizon must be at least 1, got {self.start_length} to {self.end_length}")
        if not self.start_step <= self.end_step:
            raise UserError(f"start_step must not be above end_step, got {self.start_step} and {self.end_step}")

    @property
    def longest(self) -> int:
        """The longest horizon there will be."""
        return max(self.start_length, self.end_length)

    def horizon(self, step: int) -> int:
        """Steps to imagine at an environment step, rounded down."""
        if step < self.start_step:
            return self.start_length
        if step >= self.end_step:
            return self.end_length
        done, span = step - self.start_step, self.end_step - self.start_step
        return self.start_length + done * (self.end_length - self.start_length) // span


class HorizonError(NamedTuple):
    """How far an open-loop prediction is from what really happened, by depth."""

    state: Tensor  # [L] root mean squared error of the next observation, in standard deviations of the real data
    reward: Tensor  # [L] the same of the reward
    coverage: Tensor  # [L] share of real outcomes inside the model's one-step 90 % interval; 0.9 is calibrated

    def metrics(self) -> dict[str, float]:
        """Values for the logger, one a depth, counted from 1."""
        named = {"error": self.state, "reward_error": self.reward, "coverage": self.coverage}
        return {
            f"world_model/{name}_depth_{depth}": value
            for name, values in named.items()
            for depth, value in enumerate(values.tolist(), 1)
        }


@torch.no_grad()
def horizon_error(model: WorldModel, windows: Transitions) -> HorizonError:
    """Replay the actions of real windows [B, L, .] in the model from each first observation, and score every depth.

    Members are propagated by their mean (Chua et al. 2018, section 5, "E"). The interval is that of the members'
    mixture, seen from the predicted state: at depth 1 it is plain calibration. The error is that of an exact reward,
    where there is one; the interval is the model's own. What the model leaves out is not scored.
    """
    real = torch.cat([windows.next_obs, windows.reward.unsqueeze(2)], 2)
    scale = spread(real.flatten(0, 1))
    scored = torch.cat([model.seen, model.seen.new_ones(1)])  # the reward always is
    squared, inside = [], []
    imagined = windows.obs[:, 0]
    for depth in range(real.shape[1]):
        action = windows.action[:, depth]
        prediction = model.predict(imagined, action)
        mean = prediction.mean.mean(0)
        outcome = Outcome(mean[:, :-1], mean[:, -1], prediction.p_terminated.mean(0))
        next_obs, reward, _ = model.known(imagined, action, outcome)
        std = (prediction.std.square().mean(0) + prediction.mean.var(0, correction=0)).sqrt()
        error = (real[:, depth] - torch.cat([next_obs, reward[:, None]], 1)).abs()
        squared.append((error / scale).square().mean(0)[scored])
        inside.append(((real[:, depth] - mean).abs() <= Z90 * std)[:, scored].to(error.dtype).mean())
        imagined = next_obs
    by_depth = torch.stack(squared)
    return HorizonError(by_depth[:, :-1].mean(1).sqrt(), by_depth[:, -1].sqrt(), torch.stack(inside))
