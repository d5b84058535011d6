"""PlanFirst: a planner acts, and what it promised says where reinforcement learning must correct it.

The parts are others': policy-seeded MPPI with a terminal value (TD-MPC2: Hansen et al. 2024; LOOP: Sikchi et al. 2021),
value expansions through an ensemble (DHMBPO: Kubo et al. 2025), split-conformal sets, Shiryaev-Roberts e-detectors.
That the outcome of a plan is held against its promise, and decides what is learnt, is a hypothesis: docs/planfirst.md
tells what speaks for it and against it.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from gymnasium import spaces
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.sac.policies import Actor
from torch import Tensor, nn

from dyna import actor_critic
from dyna.algorithms.dhmbpo import DHMBPO
from dyna.base import with_actions
from dyna.bounded import BoundedSACPolicy
from dyna.correction import CorrectionMixin
from dyna.errors import UserError
from dyna.foresight import ForesightMixin
from dyna.plan_seeds import noisy_plans
from dyna.planners import mppi
from dyna.plans import Plan
from dyna.segments import Segments
from dyna.value_expansion import Noise, Valued

START_STD = 0.5  # of a plan's first iteration
GREEDIEST = 1e6  # temperature: times a return it must be a number
RECENT = 100  # outcomes that say which constant the critics lack
DISTILLED = 64  # plans in an update of the policy


class PlanFirstPolicy(ForesightMixin, BoundedSACPolicy):
    """Mode-1 is the soft actor-critic policy; Mode-2 plans, and is what `predict` does."""


class PlanFirst(CorrectionMixin, DHMBPO):
    """A planner acts; what its plans promise is held against what comes of them, and says what must be corrected.

    Its modules, by the names of LeCun 2022 ("A path towards autonomous machine intelligence"):

    | module            | here                                                                                       |
    |-------------------|--------------------------------------------------------------------------------------------|
    | configurator      | `configurator`: promise against outcome, frozen thresholds, detectors; `allowance`: gate   |
    | perception        | observations in units of the data's spread (the policy's and the model's)                  |
    | world model       | `world_model`: a probabilistic ensemble with heads for next state, reward and termination  |
    | cost              | the reward head or `reward_fn`, and the trainable critics behind `value`                   |
    | actor             | Mode-1: `react`, the policy; Mode-2: `plan`                                                |
    | short-term memory | `replay_buffer`; the configurator's windows and outcomes, with each plan's promise         |

    It takes DHMBPO's arguments too, whose learner runs in the background.

    :param temperature: How greedily a plan follows the best candidates, whose weights are exp(temperature score).
    :param recentre: Give the critics at every fit the constant that recent outcomes say they lack.
    :param realised_share: Share, below 1, of the critics' lessons that are what really came of windows, the more
        surprising the likelier; the others are imagined.
    :param distil: Teach the policy the plans while they promise more than it by a difference that matters.
    :param noise: Noise of imagined next states: drawn; or inferred from real steps, as by default in DHMBPO. They are
        not the policy's where plans act.
    """

    plays_by = (*CorrectionMixin.plays_by, "temperature")
    policy_aliases = {"MlpPolicy": PlanFirstPolicy}
    policy: PlanFirstPolicy

    def __init__(
        self,
        policy: str | type[PlanFirstPolicy] = "MlpPolicy",
        env: GymEnv | str | None = None,
        temperature: float = 0.5,
        recentre: bool = False,
        realised_share: float = 0.0,
        distil: bool = False,
        noise: Noise = "drawn",
        **more: Any,
    ) -> None:
        if not 0.0 < temperature <= GREEDIEST:
            raise UserError(f"temperature must be above 0 and at most {GREEDIEST:g}, got {temperature}")
        if not 0.0 <= realised_share < 1.0:
            raise UserError(f"realised_share must be a share below 1, got {realised_share}")
        self.temperature, self.recentre, self.distil = temperature, recentre, distil
        self.realised_share = realised_share
        env = with_actions(env, spaces.Box, "DiscretePlanFirst takes a Discrete")
        super().__init__(policy, env, noise=noise, **more)

    # actor

    @property
    def mode_1(self) -> Actor:
        """The average of SB3's actor."""
        return self.policy.averaged

    @property
    def turnover(self) -> float:
        """As many updates as it is the average of."""
        return self.policy.averaged_over(self._n_updates)

    def most_likely(self, network: nn.Module, obs: Tensor) -> Tensor:
        """The middle of what such an actor may do: [B, S] -> [B, A] in [-1, 1]."""
        return torch.tanh(cast(Actor, network).get_action_dist_params(obs)[0])

    @torch.no_grad()
    def react(self, obs: Tensor, noise: Tensor | None = None) -> Tensor:
        """Mode-1: the policy's most likely action, or with noise [B, A] a draw: [B, S] -> [B, A] in [-1, 1]."""
        mean, log_std, _ = self.actor.get_action_dist_params(obs)
        return torch.tanh(mean if noise is None else mean + log_std.exp() * noise)

    @torch.no_grad()
    def reply(self, obs: Tensor) -> Tensor:
        """Mode-1 as it plays, by the average of the policy: [B, S] -> [B, A] in [-1, 1]."""
        return self.most_likely(self.policy.player, obs)

    @torch.no_grad()
    def plan(self, obs: Tensor, warm: Tensor, rng: torch.Generator, *, in_play: bool = False) -> Plan:
        """Mode-2: plans from observations [B, S], begun with [B, H, A] and with what the policy would do."""
        model = self.plan_model()
        return mppi(
            self.score(model, obs, in_play=in_play),
            warm,
            torch.full_like(warm, START_STD),
            n=self.candidates - self.policy_plans,
            elites=self.elites,
            iterations=self.iterations,
            temperature=self.temperature,
            seeds=noisy_plans(model, obs, self.react, self.policy_plans, self.horizon, rng=rng),
            scored=False,
            rng=rng,
        )

    def draw(self, plan: Plan, noise: Tensor) -> Tensor:
        """First actions [B, A] of plans, with noise [B, A] as wide as their search ended (TD-MPC2)."""
        return (plan.mean[:, 0] + plan.std[:, 0] * noise).clamp(-1.0, 1.0)

    # cost

    @torch.no_grad()
    def value(self, obs: Tensor) -> Tensor:
        """What the policy is worth, by each critic: observations [B, S] -> [C, B]."""
        return self.critic.values(obs, self.react(obs))

    @torch.no_grad()
    def value_in_play(self, obs: Tensor) -> Tensor:
        """As `value`, by the average of each critic over its last updates.

        A search finds what a critic overrates at the moment, which explores, and costs where nothing is to be learned.
        """
        return self.critic_target.values(obs, self.react(obs))

    # configurator

    def refit(self) -> None:
        """As DHMBPO does, with the constant that the critics lack."""
        super().refit()
        self._recentre()

    def teach(self, updates: int, batch_size: int) -> None:
        """As DHMBPO does; the policy learns from plans while these promise more."""
        super().teach(updates, batch_size)
        if self.distil and self.thresholds.gap > self.thresholds.tau and self.plans.size >= DISTILLED:
            self._distil()

    def _recentre(self) -> None:
        """Give the critics at once the constant that they lack, which thousands of updates would bring."""
        offset = self.configurator.offset(RECENT) if self.recentre else 0.0
        for critic in (self.critic, self.critic_target):
            critic.centre += offset
        self.logger.record("planfirst/offset", offset)

    @torch.no_grad()
    def _evaluate(self, batch_size: int) -> Valued:
        """As DHMBPO's imagined lessons, and what windows brought: the critics' value stands for what followed them.

        Their actions are those that were executed, so that only the end of a window is paid for entropy.
        """
        imagined = super()._evaluate(batch_size)
        rows = round(len(imagined.value) * self.realised_share / (1.0 - self.realised_share))
        if not rows or not self.configurator.outcomes.size:
            return imagined
        known = self.configurator.surprises(rows, self.rng)
        action, log_prob = self._sample(known["last"])
        last = self._lower(known["last"], action) - actor_critic.entropy_weight(self) * log_prob
        value = known["earned"].squeeze(1) + known["weight"].squeeze(1) * last
        return imagined.joined(Valued(known["obs"], known["action"], value.clamp(self.critic.low, self.critic.high)))

    def _starts(self, rows: int, *, real: bool = False) -> Tensor:
        """As DHMBPO's; while an alarm is answered, half of them are states whose outcome was a surprise."""
        starts = super()._starts(rows, real=real)
        if self.answers_alarm:
            chosen, surprises = self._surprises(rows)
            starts[chosen] = surprises
        return starts

    def _segments(self, rows: int, horizon: int) -> Segments:
        """As DHMBPO's; then half of the critics' rollouts begin at surprises, and are not led from there."""
        segments = super()._segments(rows, horizon)
        if not self.answers_alarm:
            return segments
        chosen, surprises = self._surprises(rows)
        return segments.begun_at(surprises, chosen)

    def _surprises(self, rows: int) -> tuple[Tensor, Tensor]:
        """States [b, S] for half of so many rows, and for which [b]: members take equal parts of the rows."""
        chosen = torch.randperm(rows, generator=self.rng, device=self.device)[: rows // 2]
        return chosen, self.configurator.surprises(len(chosen), self.rng)["obs"]

    def _distil(self) -> None:
        """One step of the policy towards plans it has seen: KL(pi || plan), weighed as its entropy is."""
        plans = self.plans.sample(DISTILLED, rng=self.rng)
        action, log_prob = self._sample(plans["obs"])
        squared = ((action - plans["mean"]) / plans["std"]).square()
        divergence = log_prob + (0.5 * squared + plans["std"].log()).sum(1)
        actor_critic.step(self.actor.optimizer, actor_critic.entropy_weight(self) * divergence.mean())
        self.policy.average(self._n_updates + 1)
        self.updates["distil"] += 1
