"""What an agent that plans knows about how far its parts keep their word.

The configurator of LeCun 2022 decides which part of an agent must be corrected. Here it holds the outcome of every plan
against its promise, in units of return and head by head, and raises an alarm where a part is wrong more often than its
frozen thresholds allow.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dyna.calibration import HEADS, Thresholds, surprise
from dyna.detectors import Detectors
from dyna.holdout import held_out
from dyna.packed import PackedReplayBuffer
from dyna.plan_model import PlanModel
from dyna.plan_scores import Value, propagated_returns
from dyna.promises import Account, chance, interquartile_range, settle
from dyna.returns import discounted_return
from dyna.rings import Ring
from dyna.types import Transitions
from dyna.windows import Closed, Windows, newest_steps
from dyna.world_model import GaussianEnsemble

CRITIC = "critic"
NEWEST = 2_000  # steps whose returns say what difference of values matters
PARTICLES = 4  # a member, that tell noise from error
REMEMBERED = 500  # outcomes
SHOCK = 10.0  # times what counts as a miss: one such outcome is an alarm, for falls are rare and worth a whole return
MATTERS = 0.1  # tau as a share of the spread of returns, or of what a window earns where that is more
PRIORITY = 0.6  # how much a residual counts where outcomes are drawn to learn from (Schaul et al. 2016)


class Verdict(NamedTuple):
    """What came of W windows."""

    steps: Transitions  # [H, W, .]
    account: Account
    noise: Tensor  # [W] standard deviation of the return that is nobody's fault
    missed: Tensor  # [heads + 1, W] bool, the critic last
    alarms: list[str]  # the parts that must be corrected


class Configurator:
    """Promises, outcomes, thresholds and detectors of one agent.

    :param value: What a state is worth, by each critic: [B, S] -> [C, B].
    :param pooled: Let every detector hear of every miss: parts are not told from one another.
    :param centred: Count as the critics' error only what differs from their residual everywhere at the last fit.
    """

    def __init__(
        self,
        n_envs: int,
        horizon: int,
        obs_size: int,
        action_size: int,
        *,
        gamma: float,
        value: Value,
        thresholds: Thresholds,
        pooled: bool = False,
        centred: bool = True,
    ) -> None:
        self.horizon, self.gamma, self.value, self.thresholds = horizon, gamma, value, thresholds
        self.centred, device = centred, thresholds.tau.device
        self.windows = Windows(n_envs, horizon, device)
        widths = {"obs": obs_size, "action": action_size, "earned": 1, "weight": 1, "last": obs_size}
        self.outcomes = Ring(REMEMBERED, widths, device)
        self.detectors = Detectors((*HEADS, CRITIC), pooled=pooled)
        self.shocks = 0  # outcomes that missed what the critics said by very much
        self.covered = torch.zeros(len(HEADS), dtype=torch.int64)  # outcomes inside the prediction sets

    def freeze(self, model: GaussianEnsemble, data: Transitions, of_today: Tensor | None = None) -> None:
        """After a fit to all `data` [B, .]: measure what counts as a surprise until the next one.

        The environments' steps take turns in it, oldest first. Where the world has changed, on the rows of the world
        as it is alone, bool [B].
        """
        held = held_out(data, model.settings.holdout)  # of all rows, as in the fit
        today = torch.ones_like(held) if of_today is None else of_today
        tau, bias = self._measured(data.at(today).at(slice(-NEWEST, None)))
        self.thresholds.freeze(model, data.at(held & today), tau, bias if self.centred else torch.zeros_like(bias))
        self.windows.drop()  # they hold the promises of another model

    def promise(self, model: PlanModel, envs: Tensor, obs: Tensor, plans: Tensor, policy: Tensor) -> None:
        """Open windows in environments [W] in states [W, S], with the plans and the policy's own [W, H, A].

        Where no plan was made, NaN, the policy's is promised, and there is no amortisation gap to be seen.
        """
        alone = plans.isnan().flatten(1).any(1)
        both = torch.stack([torch.where(alone[:, None, None], policy, plans), policy], dim=1)
        promised = propagated_returns(model, obs, both, gamma=self.gamma, value=self.value).mean(0)
        self.windows.begin(envs, promised[:, 0], torch.where(alone, torch.nan, promised[:, 1]))

    def judge(self, model: PlanModel, replay: PackedReplayBuffer, closed: Closed, rng: torch.Generator) -> Verdict:
        """Hold the outcome of windows that have just ended against their promise."""
        steps = newest_steps(replay, closed)
        how: dict[str, Any] = {"value": self.value, "gamma": self.gamma}
        account = settle(model, steps, planned=closed.planned, policy=closed.policy, **how)
        noise = chance(model, steps, particles=PARTICLES, rng=rng, **how)
        scores = surprise(model.model, steps.at(-1))
        residual = account.critic - self.thresholds.bias
        missed = torch.stack([account.dynamics, account.reward, account.termination, residual])
        limit = torch.maximum(self.thresholds.tau, 2.0 * noise)
        shocks = int((residual.abs() > SHOCK * limit).sum())
        missed = missed.abs() > limit
        missed[:-1] |= scores > self.thresholds.wide[:, None]
        gaps = account.policy_gap[account.policy_gap.isfinite()]
        if len(gaps):
            self.thresholds.follow(gaps.mean())
        self.covered += (~self.thresholds.missed(scores)).sum(1).cpu()
        self._remember(steps)
        missed = missed.cpu()
        alarms = [name for one in missed.T for name in self.detectors.hear(one)]
        self.shocks += shocks
        if shocks and CRITIC not in alarms:
            alarms.append(CRITIC)
        return Verdict(steps, account, noise, missed, alarms)

    def metrics(self) -> dict[str, float]:
        """For the logger: detectors, base rates, and how often outcomes lay inside the frozen sets."""
        heard = self.detectors
        values = {f"misses_{name}": rate for name, rate in heard.base_rates().items()}
        for i, name in enumerate(heard.names):
            values |= {f"evidence_{name}": float(heard.evidence[i]), f"alarms_{name}": float(heard.alarms[i])}
        for i, name in enumerate(HEADS):
            values[f"coverage_{name}"] = int(self.covered[i]) / max(heard.outcomes, 1)
        values["shocks"] = self.shocks
        return values | {name: float(getattr(self.thresholds, name)) for name in ("tau", "bias", "gap")}

    def offset(self, n: int) -> float:
        """The constant that the critics lack on the newest n outcomes: LSTD with one feature, the same everywhere.

        Added to every value it makes the mean residual zero (Bradtke & Barto 1996); 0 where every constant would do:
        without an outcome, and without a discount or an end.
        """
        known = self.outcomes.newest(n)
        lost = (1.0 - known["weight"]).sum()
        return float(self._residuals(known).sum() / lost) if lost > 0 else 0.0

    def surprises(self, n: int, rng: torch.Generator) -> dict[str, Tensor]:
        """n outcomes [n, .], the more surprising the likelier; one must be known.

        Each has the state `obs` and the action with which it began, what it `earned`, and the `weight` of the value of
        its `last` state. What surprises is asked of the critics as they are now.
        """
        surprise = self._residuals(self.outcomes.all()) - self.thresholds.bias
        return self.outcomes.sample(n, rng=rng, weights=surprise.abs().clamp_min(1e-6) ** PRIORITY)

    def state_dict(self) -> dict[str, Any]:
        """What the next verdicts depend on, but for the thresholds."""
        parts = {name: getattr(self, name).state_dict() for name in ("windows", "detectors", "outcomes")}
        return {**parts, "covered": self.covered, "shocks": self.shocks}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for name in ("windows", "detectors", "outcomes"):
            getattr(self, name).load_state_dict(state[name])
        self.covered, self.shocks = state["covered"].clone(), state["shocks"]

    def forget(self) -> None:
        """Drop all outcomes: they were made in another world."""
        self.outcomes.added = 0

    def _residuals(self, known: dict[str, Tensor]) -> Tensor:
        """D_critic [n] of outcomes [n, .], with the critics as they are now."""
        earned, weight = (known[name].squeeze(1) for name in ("earned", "weight"))
        return earned + weight * _mean(self.value(known["last"])) - _mean(self.value(known["obs"]))

    def _remember(self, steps: Transitions) -> None:
        """Keep what is needed to judge the critics by these windows [H, W, .] again, and to teach them."""
        no_value = torch.zeros_like(steps.reward[0])
        earned = discounted_return(steps.reward, steps.terminated, no_value, self.gamma)
        weight = discounted_return(torch.zeros_like(steps.reward), steps.terminated, no_value + 1.0, self.gamma)
        ends = {"obs": steps.obs[0], "action": steps.action[0], "last": steps.next_obs[-1]}
        self.outcomes.add(**ends, earned=earned.unsqueeze(1), weight=weight.unsqueeze(1))

    def _measured(self, newest: Transitions) -> tuple[Tensor, Tensor]:
        """What difference of values matters [], and the median of the critics' residual [], on the newest steps."""
        rows = newest.windows(self.horizon, len(self.windows.age)).T
        if rows.shape[1] == 0:  # no episode is as long
            rows = torch.arange(len(newest.obs), device=newest.obs.device).unsqueeze(0)
        steps = newest.at(rows)
        returns = discounted_return(steps.reward, steps.terminated, _mean(self.value(steps.next_obs[-1])), self.gamma)
        # returns may all be alike, critics are never exact
        earned = discounted_return(steps.reward, steps.terminated, torch.zeros_like(returns), self.gamma).abs().mean()
        residual = returns - _mean(self.value(steps.obs[0]))
        return MATTERS * torch.maximum(interquartile_range(returns), earned), residual.median()


def metrics_of(verdict: Verdict) -> dict[str, float]:
    """For the logger, means over windows: promise against outcome, and the size of each part's error."""
    account = verdict.account
    values = {name: getattr(account, name) for name in ("planned", "realised", "broken", "policy_gap")}
    for name in ("model", *HEADS, "replan", CRITIC):
        values[f"error_{name}"] = getattr(account, name).abs()
    means = {name: float(value.mean()) for name, value in {**values, "noise": verdict.noise}.items()}
    return {name: mean for name, mean in means.items() if not math.isnan(mean)}  # no gap where the policy acted


def _mean(values: Tensor) -> Tensor:
    """The mean opinion [B] of C critics [C, B]."""
    return values.mean(0)
