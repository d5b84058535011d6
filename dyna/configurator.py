"""What an agent that plans knows about how far its parts keep their word.

The configurator of LeCun 2022 decides which part of an agent must be corrected. Here it holds the outcome of every plan
against its promise, in units of return and head by head, and raises an alarm where a part is wrong more often than its
frozen thresholds allow.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from dyna import fitting
from dyna.calibration import HEADS, Thresholds, surprise
from dyna.detectors import Detectors
from dyna.packed import PackedReplayBuffer
from dyna.plan_model import PlanModel
from dyna.plan_scores import Value, propagated_returns
from dyna.promises import Account, chance, interquartile_range, settle
from dyna.returns import discounted_return
from dyna.types import Transitions
from dyna.windows import Closed, Windows, newest_steps
from dyna.world_model import GaussianEnsemble

CRITIC = "critic"
NEWEST = 2_000  # steps whose returns say what difference of values matters
PARTICLES = 4  # a member, that tell noise from error
SHARE_OF_SPREAD, SHARE_OF_VALUE = 0.1, 0.01  # of the returns' interquartile range, or of their size: the larger is tau


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
    """

    def __init__(
        self, n_envs: int, horizon: int, *, gamma: float, value: Value, thresholds: Thresholds, pooled: bool = False
    ) -> None:
        self.horizon, self.gamma, self.value, self.thresholds = horizon, gamma, value, thresholds
        self.windows = Windows(n_envs, horizon, thresholds.tau.device)
        self.detectors = Detectors((*HEADS, CRITIC), pooled=pooled)
        self.covered = torch.zeros(len(HEADS), dtype=torch.int64)  # outcomes inside the prediction sets

    def freeze(self, model: GaussianEnsemble, data: Transitions) -> None:
        """After a fit to all `data` [B, .], oldest first: measure what counts as a surprise until the next one."""
        _, held = fitting.split(data, model.settings.holdout)
        self.thresholds.freeze(model, held, self._tau(Transitions(*(part[-NEWEST:] for part in data))))
        self.windows.drop()  # they hold the promises of another model

    def promise(self, model: PlanModel, obs: Tensor, plans: Tensor, policy: Tensor) -> None:
        """Open the windows that are due, in states [n_envs, S] with the plans and the policy's own [n_envs, H, A]."""
        envs = self.windows.waiting().to(obs.device)
        if len(envs):
            both = torch.stack([plans[envs], policy[envs]], dim=1)
            promised = propagated_returns(model, obs[envs], both, gamma=self.gamma, value=self.value).mean(0)
            self.windows.begin(envs, promised[:, 0], promised[:, 1])

    def judge(
        self, model: GaussianEnsemble, replay: PackedReplayBuffer, closed: Closed, rng: torch.Generator
    ) -> Verdict:
        """Hold the outcome of windows that have just ended against their promise."""
        steps, planner = newest_steps(replay, closed), PlanModel(model)
        how: dict[str, Any] = {"value": self.value, "gamma": self.gamma}
        account = settle(planner, steps, planned=closed.planned, policy=closed.policy, **how)
        noise = chance(planner, steps, particles=PARTICLES, rng=rng, **how)
        scores = surprise(model, _last(steps))
        missed = torch.stack([account.dynamics, account.reward, account.termination, account.critic])
        missed = missed.abs() > torch.maximum(self.thresholds.tau, 2.0 * noise)
        missed[:-1] |= scores > self.thresholds.wide[:, None]
        self.thresholds.follow(account.policy_gap.mean())
        self.covered += (~self.thresholds.missed(scores)).sum(1).cpu()
        missed = missed.cpu()
        alarms = [name for one in missed.T for name in self.detectors.hear(one)]
        return Verdict(steps, account, noise, missed, alarms)

    def metrics(self) -> dict[str, float]:
        """For the logger: detectors, base rates, and how often outcomes lay inside the frozen sets."""
        heard = self.detectors
        values = {f"misses_{name}": rate for name, rate in heard.base_rates().items()}
        for i, name in enumerate(heard.names):
            values |= {f"evidence_{name}": float(heard.evidence[i]), f"alarms_{name}": float(heard.alarms[i])}
        for i, name in enumerate(HEADS):
            values[f"coverage_{name}"] = int(self.covered[i]) / max(heard.outcomes, 1)
        return values | {"tau": float(self.thresholds.tau), "gap": float(self.thresholds.gap)}

    def state_dict(self) -> dict[str, Any]:
        """What the next verdicts depend on, but for the thresholds."""
        parts = {"windows": self.windows.state_dict(), "detectors": self.detectors.state_dict()}
        return {**parts, "covered": self.covered}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.windows.load_state_dict(state["windows"])
        self.detectors.load_state_dict(state["detectors"])
        self.covered = state["covered"].clone()

    def _tau(self, newest: Transitions) -> Tensor:
        """What difference of values matters []: a tenth of the interquartile range of the newest returns."""
        rows = fitting.windows(newest, self.horizon).T
        if rows.shape[1] == 0:  # no episode is as long
            rows = torch.arange(len(newest.obs), device=newest.obs.device).unsqueeze(0)
        steps = Transitions(*(part[rows] for part in newest))
        last_value = self.value(steps.next_obs[-1]).mean(0)
        returns = discounted_return(steps.reward, steps.terminated, last_value, self.gamma)
        # where all returns are alike, a share of their size: critics are never exact
        return torch.maximum(SHARE_OF_SPREAD * interquartile_range(returns), SHARE_OF_VALUE * returns.abs().mean())


def metrics_of(verdict: Verdict) -> dict[str, float]:
    """For the logger, means over windows: promise against outcome, and the size of each part's error."""
    account = verdict.account
    values = {name: getattr(account, name) for name in ("planned", "realised", "broken", "policy_gap")}
    for name in ("model", *HEADS, "replan", CRITIC):
        values[f"error_{name}"] = getattr(account, name).abs()
    return {name: float(value.mean()) for name, value in {**values, "noise": verdict.noise}.items()}


def _last(steps: Transitions) -> Transitions:
    """The last step of each window."""
    return Transitions(*(part[-1] for part in steps))
