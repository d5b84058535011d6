"""PlanFirst: a planner acts, and reinforcement learning is limited to where what it promised did not come.

The parts are others': policy-seeded MPPI with a terminal value (TD-MPC2: Hansen et al. 2024; LOOP: Sikchi et al. 2021),
value expansions through an ensemble (DHMBPO: Kubo et al. 2025), split-conformal sets, Shiryaev-Roberts e-detectors.
That the outcome of a plan is held against its promise, and decides what is learnt, is a hypothesis: docs/planfirst.md
tells what speaks for it and against it.
"""

from __future__ import annotations

import math
from typing import Any, get_args

import torch
from stable_baselines3.common.type_aliases import GymEnv
from torch import Tensor

from dyna import actor_critic
from dyna.algorithms.dhmbpo import DHMBPO
from dyna.allowances import Allowance, Kind, allowance
from dyna.bounded import BoundedSACPolicy
from dyna.budgets import Budget
from dyna.calibration import HEADS, disagreement
from dyna.configurator import CRITIC, Verdict, metrics_of
from dyna.errors import UserError
from dyna.foresight import ForesightMixin
from dyna.plan_model import PlanModel
from dyna.plan_scores import mean_propagation
from dyna.plan_seeds import policy_plans
from dyna.planners import mppi
from dyna.planning import Acting, PlanningMixin
from dyna.plans import Plan

START_STD = 0.5  # of a plan's first iteration
CHECK_EVERY = 50  # steps between two looks at what was surprising
RECENT = 100  # outcomes that say which constant the critics lack
DISTILLED = 64  # plans in an update of the policy


class PlanFirstPolicy(ForesightMixin, BoundedSACPolicy):
    """Mode-1 is the soft actor-critic policy; Mode-2 plans, and is what `predict` does."""


class PlanFirst(PlanningMixin, DHMBPO):
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

    :param horizon: Steps of a plan, and of the window in which its outcome is awaited.
    :param candidates: Plans that an iteration looks at, those of the policy among them.
    :param policy_plans: How many of them the policy makes.
    :param elites: Best candidates, from which the next iteration draws.
    :param iterations: Iterations of a plan.
    :param temperature: How greedily a plan follows the best candidates, whose weights are exp(temperature score).
    :param pessimism: Standard deviations over members and critics by which a plan's value is lowered; below 0 explores.
    :param terminal_value: Let the critics say what follows the last step of a plan.
    :param acting: Plan at every step, only where the policy is not sure of itself (confident), or never (policy).
    :param audit: Share of the states in which the policy is sure and a plan is made all the same, to measure the gap.
    :param follow: Steps for which a plan is followed while what it leads to stays in the predicted set.
    :param learner: What RL updates are made: always, where the critics' gate is open (gated), or as controls a constant
        number a step or bursts at random.
    :param opening: Environment steps in which the learner is always on, whatever it is.
    :param budget: What a gated learner spends.
    :param update_ratio: RL updates a step of the learners constant and random.
    :param refit_on_alarm: Refit the world model after an alarm for one of its heads, besides every model_every steps.
    :param pooled: One detector for all parts instead of one each.
    :param centred: Count as the critics' error only what differs from their residual everywhere.
    :param recentre: Give the critics at every fit the constant that recent outcomes say they lack.
    :param distil: Teach the policy the plans while they promise more than it by a difference that matters.
    """

    policy_aliases = {"MlpPolicy": PlanFirstPolicy}
    policy: PlanFirstPolicy
    allowance: Allowance

    def __init__(
        self,
        policy: str | type[PlanFirstPolicy] = "MlpPolicy",
        env: GymEnv | str | None = None,
        horizon: int = 5,
        candidates: int = 128,
        policy_plans: int = 24,
        elites: int = 16,
        iterations: int = 3,
        temperature: float = 0.5,
        pessimism: float = 0.5,
        terminal_value: bool = True,
        acting: Acting = "plan",
        audit: float = 0.1,
        follow: int = 1,
        learner: Kind = "always",
        opening: int = 500,
        budget: Budget = Budget(rate=0.3, capacity=300.0, burst=4.0, floor=0.05),  # noqa: B008 - frozen
        update_ratio: float = 0.2,
        refit_on_alarm: bool = False,
        pooled: bool = False,
        centred: bool = True,
        recentre: bool = False,
        distil: bool = False,
        **dhmbpo: Any,
    ) -> None:
        self.horizon, self.candidates, self.policy_plans = horizon, candidates, policy_plans
        self.elites, self.iterations, self.pessimism = elites, iterations, pessimism
        self.temperature = temperature
        self.terminal_value, self.acting, self.audit, self.follow = terminal_value, acting, audit, follow
        self.learner, self.opening, self.budget, self.update_ratio = learner, opening, budget, update_ratio
        self.refit_on_alarm, self.pooled, self.centred, self.distil = refit_on_alarm, pooled, centred, distil
        self.recentre = recentre
        self.always_on = 0  # updates that a learner that is always on would have made
        self.refits_on_alarm, self._refit_asked = 0, False
        self._check(policy)
        super().__init__(policy, env, **dhmbpo)

    # actor

    @torch.no_grad()
    def react(self, obs: Tensor, noise: Tensor | None = None) -> Tensor:
        """Mode-1: the policy's most likely action, or with noise [B, A] a draw: [B, S] -> [B, A] in [-1, 1]."""
        mean, log_std, _ = self.actor.get_action_dist_params(obs)
        return torch.tanh(mean if noise is None else mean + log_std.exp() * noise)

    @torch.no_grad()
    def plan(self, obs: Tensor, warm: Tensor, rng: torch.Generator) -> Plan:
        """Mode-2: plans from observations [B, S], begun with [B, H, A] and with what the policy would do."""
        model = PlanModel(self.world_model)

        def policy(obs: Tensor) -> Tensor:
            noise = torch.randn(len(obs), warm.shape[-1], generator=rng, device=obs.device)
            noise[:: self.policy_plans] = 0.0  # the first of them is what it is most likely to do
            return self.react(obs, noise)

        value = self.value if self.terminal_value else None
        return mppi(
            mean_propagation(model, obs, gamma=self.gamma, pessimism=self.pessimism, value=value),
            warm,
            torch.full_like(warm, START_STD),
            n=self.candidates - self.policy_plans,
            elites=self.elites,
            iterations=self.iterations,
            temperature=self.temperature,
            seeds=policy_plans(model, obs, policy, self.policy_plans, self.horizon),
            rng=rng,
        )

    @torch.no_grad()
    def is_confident(self, obs: Tensor) -> Tensor:
        """Where Mode-1 may act alone, bool [B]: members and critics agree, and plans promise no more than it."""
        if self.acting != "confident":
            return torch.full((len(obs),), self.acting == "policy", device=obs.device)
        action, tau = self.react(obs), self.thresholds.tau
        agreed = disagreement(self.world_model, obs, action) <= self.thresholds.disagreement
        return agreed & (self.critic.values(obs, action).std(0) <= tau) & (self.thresholds.gap <= tau)

    # cost

    @torch.no_grad()
    def value(self, obs: Tensor) -> Tensor:
        """What the policy is worth, by each critic: observations [B, S] -> [C, B]."""
        return self.critic.values(obs, self.react(obs))

    # configurator

    def correct(self, verdict: Verdict) -> None:
        """Log an outcome; an alarm opens the critics' gate, or asks for a refit of the world model."""
        if CRITIC in verdict.alarms:
            self.allowance.gate.open(CRITIC)
        self._refit_asked |= self.refit_on_alarm and any(name in HEADS for name in verdict.alarms)
        for name, value in metrics_of(verdict).items():
            self.logger.record_mean(f"planfirst/{name}", value)

    def is_fit_due(self, every: int) -> bool:
        """As DHMBPO's, and after an alarm for a head of the model."""
        return super().is_fit_due(every) or (self._refit_asked and super().is_fit_due(self.horizon))

    def fit_world_model(self) -> None:
        """As DHMBPO does, and count the fits that an alarm asked for."""
        self.refits_on_alarm += self._refit_asked
        self._refit_asked = False
        super().fit_world_model()

    def train(self, gradient_steps: int, batch_size: int = 125) -> None:
        """Refit where it is due, then learn as DHMBPO does, as far as the allowance goes."""
        first = self.world_model.version == 0
        if self.is_fit_due(self.model_every):
            self.fit_world_model()
            self._set_units()
            self._recentre()
            self.freeze()
        if self._fitted_at is None:
            return
        always = max(gradient_steps, self.num_timesteps) if first else gradient_steps
        granted = always if first else self.allowance.grant(self.num_timesteps, always, self.rng)
        self.always_on += always
        if granted:
            super().train(granted, batch_size)
        if self.distil and self.thresholds.gap > self.thresholds.tau and self.plans.size >= DISTILLED:
            self._distil()
        if self.num_timesteps % CHECK_EVERY < self.n_envs:
            self.allowance.gate.check(self.configurator.residual(), float(self.thresholds.tau))
        for name, value in {**self.configurator.metrics(), **self.totals()}.items():
            self.logger.record(f"planfirst/{name}", value)

    def _recentre(self) -> None:
        """Give the critics at once the constant that they lack, which thousands of updates would bring."""
        offset = self.configurator.offset(RECENT) if self.recentre else 0.0
        for critic in (self.critic, self.critic_target):
            critic.centre += offset
        self.logger.record("planfirst/offset", offset)

    def totals(self) -> dict[str, float]:
        """What was decided so far: shares of steps and of gradients, and whether the critics' gate is open."""
        gradients = {name: count for name, count in self.updates.items() if name != "plans"}
        rl, steps = gradients["critic"] + gradients["actor"], max(sum(self.decided.values()), 1)
        return {
            **{f"steps_{name}": count / steps for name, count in self.decided.items()},
            "rl_share": rl / max(sum(gradients.values()), 1),
            "rl_of_always_on": gradients["critic"] / max(self.always_on, 1),
            "refits_on_alarm": self.refits_on_alarm,
            "gate": float(self.allowance.gate.is_open(self.num_timesteps)),
        }

    def ledger(self) -> dict[str, Any]:
        """Totals of the run, and the sentence that says them."""
        totals = self.totals()
        planned, spent = (f"{100 * totals[name]:.0f} %" for name in ("steps_planned", "rl_of_always_on"))
        refits = f"{self.refits_on_alarm} model refit{'s' * (self.refits_on_alarm != 1)} on alarm"
        words = f"planned {planned} of steps, {spent} of always-on's RL updates, {refits}"
        return {"in_words": words, **totals, **self.configurator.metrics()}

    def _starts(self, rows: int) -> Tensor:
        """As DHMBPO's; while an alarm is answered, half of them are states whose outcome was a surprise."""
        starts = super()._starts(rows)
        if self.learner == "gated" and self.allowance.gate.alarmed and self.configurator.outcomes.size:
            starts = torch.cat([self.configurator.surprising(rows // 2, self.rng), starts[rows // 2 :]])
            starts = starts[torch.randperm(rows, generator=self.rng, device=starts.device)]  # members take equal parts
        return starts

    def _distil(self) -> None:
        """One step of the policy towards plans it has seen: KL(pi || plan), weighed as its entropy is."""
        plans = self.plans.sample(DISTILLED, rng=self.rng)
        action, log_prob = self._sample(plans["obs"])
        squared = ((action - plans["mean"]) / plans["std"]).square()
        divergence = log_prob + (0.5 * squared + plans["std"].log()).sum(1)
        actor_critic.step(self.actor.optimizer, self._alpha() * divergence.mean())
        self.updates["distil"] += 1

    # the seam with SB3

    def _setup_model(self) -> None:
        super()._setup_model()
        self.allowance = allowance(self.learner, opening=self.opening, budget=self.budget, ratio=self.update_ratio)

    def extra_state(self) -> dict[str, Any]:
        """As the planner's, with what may be spent."""
        return {**super().extra_state(), "allowance": self.allowance.state_dict()}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what `extra_state` returned."""
        super().load_extra_state(state)
        self.allowance.load_state_dict(state["allowance"])

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "allowance"]

    def _check(self, policy: Any) -> None:
        """Raise UserError for settings that no plan can be made with."""
        if isinstance(policy, type) and not issubclass(policy, PlanFirstPolicy):
            raise UserError(f"policy must be MlpPolicy or a PlanFirstPolicy, got {policy.__name__}")
        ones = dict.fromkeys(("horizon", "policy_plans", "iterations", "follow"), 1)
        for name, least in {**ones, "opening": 0, "update_ratio": 0}.items():
            if not least <= getattr(self, name) < math.inf:
                raise UserError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.follow > self.horizon:
            raise UserError(f"follow must be at most horizon ({self.horizon}), got {self.follow}")
        if not math.isfinite(self.pessimism):
            raise UserError(f"pessimism must be a finite number, got {self.pessimism}")
        for name, words in (("learner", get_args(Kind)), ("acting", get_args(Acting))):
            if getattr(self, name) not in words:
                raise UserError(f"{name} must be {', '.join(words[:-1])} or {words[-1]}, got {getattr(self, name)!r}")
        own = self.candidates - self.policy_plans
        if not 1 <= self.elites <= own:
            raise UserError(
                f"elites must be between 1 and {own}, the candidates that are no policy_plans, got {self.elites}"
            )
        if not 0.0 < self.temperature < math.inf:
            raise UserError(f"temperature must be finite and above 0, got {self.temperature}")
        if not 0.0 <= self.audit <= 1.0:
            raise UserError(f"audit must be in [0, 1], got {self.audit}")
