"""Learning that can be limited to what broken promises must correct: the part of PlanFirst that all its learners share.

A Dyna method learns in the background, as much as an allowance grants: by default always. Alarms open the gate of that
allowance, and a look at what learning has changed in imagination closes it again. Alarms about the world model may
bring a refit, and a ledger tells what was planned, learnt and refitted.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, ClassVar, get_args

import torch
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv
from torch import Tensor, nn

from dyna import forgetting, limits
from dyna.allowances import Allowance, Kind, allowance
from dyna.budgets import Budget
from dyna.calibration import HEADS, disagreement
from dyna.changes import Changes
from dyna.configurator import Verdict, metrics_of
from dyna.errors import UserError
from dyna.improvement import Gain, Improvement
from dyna.plan_model import PlanModel
from dyna.plan_scores import mean_propagation
from dyna.planning import Acting, PlanningMixin
from dyna.plans import Score

ALONE = 20  # steps of a plan at least that no critic helps
LOOK_EVERY = 100  # steps at least whose updates, as made by an always-on learner, are worth a look at what they changed
LOOKED_FROM = 256  # states
WHOLE_WINDOWS = 2  # of each environment between two fits, at least

log = logging.getLogger("dyna")


class CorrectionMixin(PlanningMixin):
    """Put before a Dyna method, it acts by plans and learns always, or as far as their outcomes ask for it.

    The subclass writes `mode_1` and `most_likely`, and what `PlanningMixin` asks for, except `is_confident`
    and `correct`.

    :param horizon: Steps of a plan, and of the window after which its outcome is judged; between two fits at least two
        such windows pass in each environment.
    :param candidates: Plans that an iteration looks at, those of the policy among them.
    :param policy_plans: How many of them the policy makes.
    :param elites: Best candidates, from which the next iteration draws.
    :param iterations: Iterations of a plan.
    :param pessimism: Standard deviations over members and critics by which a plan's value is lowered; below 0 explores.
    :param terminal_value: Let the critics say what follows the last step of a plan, where it is looked for; what it
        promises and what comes of it hold their value in any case.
    :param acting: Who acts: plan, a plan at every step; confident, a plan only where the policy is not sure of itself;
        audited, both in turns, of which the better plays; or policy, which never plans.
    :param audit: With audited, share of the turns of at most 100 steps that are compared, five of each before plans or
        policy are believed to be better; with confident, share of the states in which the policy is sure and a plan is
        made all the same, to measure the gap.
    :param follow: Steps for which a plan is followed while what it leads to stays in the predicted set.
    :param learner: What RL updates are made: always all, as far as a gate is open (gated), or as controls a constant
        share of them or bursts at random.
    :param opening: Environment steps in which the learner is always on, whatever it is.
    :param budget: What a gated learner spends.
    :param update_ratio: Share of an always-on learner's updates that the learners constant and random make.
    :param refit_on_alarm: Refit the world model after an alarm for one of its heads, besides those that are due anyway,
        and let that head forget what it learnt before, if it then clearly tells new steps better.
    :param pooled: One detector for all parts instead of one each.
    :param centred: Count as the critics' error only what differs from their residual everywhere.
    """

    plays_by: ClassVar[tuple[str, ...]] = (
        *("horizon", "candidates", "policy_plans", "elites", "iterations", "pessimism", "terminal_value", "acting"),
        *("gamma", "reward_fn", "termination_fn"),
    )
    """Hyperparameters that what it does depends on when it has learned."""
    lives_by_model = True
    stateful = (*PlanningMixin.stateful, "allowance", "changes", "improvement")
    of_the_moment = (*PlanningMixin.of_the_moment, "allowance", "improvement")  # a loaded agent knows of changes
    model_every: int
    allowance: Allowance
    improvement: Improvement

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None,
        horizon: int = 5,
        candidates: int = 64,
        policy_plans: int = 12,
        elites: int = 8,
        iterations: int = 2,
        pessimism: float = 0.5,
        terminal_value: bool = True,
        acting: Acting = "plan",
        audit: float = 0.2,
        follow: int = 1,
        learner: Kind = "always",
        opening: int = 500,
        budget: Budget = Budget(),  # noqa: B008 - frozen
        update_ratio: float = 0.2,
        refit_on_alarm: bool = False,
        pooled: bool = False,
        centred: bool = True,
        **background: Any,
    ) -> None:
        self.horizon, self.candidates, self.policy_plans = horizon, candidates, policy_plans
        self.elites, self.iterations, self.pessimism = elites, iterations, pessimism
        self.terminal_value, self.acting, self.audit, self.follow = terminal_value, acting, audit, follow
        self.learner, self.opening, self.budget, self.update_ratio = learner, opening, budget, update_ratio
        self.refit_on_alarm, self.pooled, self.centred = refit_on_alarm, pooled, centred
        self.decided = {"planned": 0, "followed": 0, "reacted": 0}
        self.always_on = 0  # updates that a learner that is always on would have made
        self.unseen = 0.0  # steps whose updates, as such a learner makes them, came after the last look
        self.looked_at = 0  # update after which that was
        self.taught_at = 0  # step at which it last was asked to learn
        self.refits_on_alarm, self.forgot = 0, 0
        self.changes = Changes()
        self._check()
        super().__init__(policy, env, **background)  # type: ignore[arg-type]  # None while SB3 loads

    @classmethod
    def for_another_reward(cls, trained: Mapping[str, Any]) -> dict[str, Any]:
        """How it plays for a reward that policy and critics do not know, by the hyperparameters of its training."""
        horizon = max(trained.get("horizon", 0), ALONE)
        return {"acting": "plan", "terminal_value": False, "horizon": horizon, "follow": 1}

    @property
    def mode_1(self) -> nn.Module:
        """The network by which the policy plays."""
        raise NotImplementedError

    @property
    def turnover(self) -> float:
        """Updates after which that network has become another."""
        return 0.0

    def most_likely(self, network: nn.Module, obs: Tensor) -> Tensor:
        """What it does, asked of such a network: [B, S] -> [B, A] in [-1, 1]."""
        raise NotImplementedError

    # what plans are judged by

    def score(self, model: PlanModel, obs: Tensor, *, in_play: bool = False) -> Score:
        """What plans from observations [B, S] are worth, by members and critics."""
        asked = self.value_in_play if in_play else self.value
        value = asked if self.terminal_value else None
        return mean_propagation(model, obs, gamma=self.gamma, pessimism=self.pessimism, value=value)

    @torch.no_grad()
    def is_confident(self, obs: Tensor) -> Tensor:
        """Where Mode-1 may act alone, bool [B]: members and critics agree, and plans promise no more than it.

        Where plans and policy are audited, that is everywhere or nowhere.
        """
        if self.acting == "audited":
            return (self.thresholds.lead < 0.5).expand(len(obs))
        if self.acting != "confident":
            return torch.full((len(obs),), self.acting == "policy", device=obs.device)
        tau, values = self.thresholds.tau, self.value(obs)
        agreed = disagreement(self.world_model, obs, self.react(obs)) <= self.thresholds.disagreement
        spread = values.std(0) if len(values) > 1 else torch.zeros_like(values[0])  # one critic agrees with itself
        return agreed & (spread <= tau) & (self.thresholds.gap <= tau)

    # what outcomes lead to

    def correct(self, verdict: Verdict) -> None:
        """Log an outcome; an alarm opens the gate, and for a head of the world model it may ask for a refit."""
        for name in verdict.alarms:
            self.allowance.gate.alarm(name)
        if self.refit_on_alarm:
            for name in (head for head in HEADS if head in verdict.alarms):
                self.changes.suspect(name, self.num_timesteps - self.horizon * self.configurator.detectors.age(name))
        for name, value in metrics_of(verdict).items():
            self.logger.record_mean(f"planfirst/{name}", value)

    @property
    def answers_alarm(self) -> bool:
        """Whether updates are made because of an alarm, so that they should begin where outcomes were surprising."""
        return self.learner == "gated" and bool(self.allowance.gate.alarmed) and self.configurator.outcomes.size > 0

    def fit_interval(self) -> int:
        """As ever, but so long that windows come to their end, for a fit cuts those under way."""
        return max(super().fit_interval(), WHOLE_WINDOWS * self.window)

    def is_fit_due(self) -> bool:
        """As ever, after an alarm for a head of the model, and while what is known of a changed world grows fast."""
        asked = self.changes.wants_refit(self.num_timesteps, self._fitted_at)
        return super().is_fit_due() or (asked and self.may_fit(self.window))

    def lessons(self, rows: int) -> Tensor | None:
        """Of a head that has forgotten, the steps since then."""
        lessons = self.changes.lessons(rows, self.num_timesteps)
        return None if lessons is None else lessons.to(self.device)

    @property
    def unchanged_steps(self) -> int | None:
        """Those since the last change that is proven."""
        return self.changes.age(self.num_timesteps)

    def fit_world_model(self) -> None:
        """As ever; after an alarm, a head forgets what was before where it then tells new steps better."""
        if self.changes.can_be_judged(self.num_timesteps):
            self.configurator.detectors.restart(self.changes.suspected)
            self.refits_on_alarm += 1
            if changed := self.changes.judge(self._outdated()):
                self.forgot += 1
                self.configurator.forget()
                self.imagined.clear()
                self.audits.forget()
                self.thresholds.lead.fill_(self.audits.lead())
                log.info("%s: the world changed about step %d", " and ".join(changed), next(iter(changed.values())))
        super().fit_world_model()

    def _outdated(self) -> list[str]:
        """The heads that clearly tell new steps better without what was before the change that is suspected."""
        data = self.replay_buffer.all_transitions()
        lessons = self.changes.lessons(len(data.obs), self.num_timesteps, suspected=True)
        if lessons is None:
            return []
        wrong, updates = forgetting.outdated(
            self.world_model,
            data,
            lessons.to(self.device),
            familiar=self.thresholds.disagreement,
            rng=self.rng,
            n_envs=self.n_envs,
        )
        self.updates["model"] += updates
        return [head for head, forgets in zip(HEADS, wrong, strict=True) if forgets]

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """Refit where it is due, then learn as far as the allowance goes."""
        first = self.world_model.version == 0
        steps = 1 if first else max(self.num_timesteps - self.taught_at, 1)
        self.taught_at = self.num_timesteps
        if self.is_fit_due():
            self.refit()
            self.freeze()
        if self._fitted_at is None:
            return
        # random steps had no updates yet
        always = max(gradient_steps, self.num_timesteps) if first else self.paced(gradient_steps)
        granted = always if first else self.allowance.grant(self.num_timesteps, always, steps, self.rng)
        self.always_on += always
        self.teach(granted, batch_size)
        self.unseen += steps * granted / max(gradient_steps, 1)
        if self.unseen >= LOOK_EVERY and self._n_updates - self.looked_at >= self.turnover:
            self._look()
        for name, value in {**self.configurator.metrics(), **self.totals()}.items():
            self.logger.record(f"planfirst/{name}", value)

    def _look(self) -> None:
        """What the newest updates changed in imagination says whether the gate stays open."""
        obs = self.replay_buffer.sample_obs(LOOKED_FROM)
        gain = self.improvement.look(self.plan_model(), obs, self.gamma)
        self.allowance.gate.look(self.num_timesteps, moves=gain.matters)
        self.unseen, self.looked_at = 0.0, self._n_updates
        for name, value in zip(Gain._fields, gain, strict=True):
            self.logger.record(f"planfirst/gain_{name}", value)

    def teach(self, updates: int, batch_size: int) -> None:
        """Make so many updates of the background learner."""
        if updates:
            super().teach(updates, batch_size)

    def totals(self) -> dict[str, float]:
        """What was decided so far: shares of steps and of gradients, and how far the gate is open."""
        gradients = {name: count for name, count in self.updates.items() if name != "plans"}
        rl, steps = gradients["critic"] + gradients["actor"], max(sum(self.decided.values()), 1)
        return {
            **{f"steps_{name}": count / steps for name, count in self.decided.items()},
            "rl_share": rl / max(sum(gradients.values()), 1),
            "rl_of_always_on": gradients["critic"] / max(self.always_on, 1),
            "refits_on_alarm": self.refits_on_alarm,
            "forgot": self.forgot,
            "gate": self.allowance.gate.share,
            **({} if self.thresholds.lead.isnan() else {"lead": float(self.thresholds.lead)}),
        }

    def ledger(self) -> dict[str, Any]:
        """Totals of the run, and the sentence that says them."""
        totals = self.totals()
        planned, spent = (f"{100 * totals[name]:.0f} %" for name in ("steps_planned", "rl_of_always_on"))
        refits = f"{self.refits_on_alarm} model refit{'s' * (self.refits_on_alarm != 1)} on alarm"
        steps = f"the {sum(self.decided.values()):,} steps after the random ones"
        words = f"planned {planned} of {steps}, {spent} of always-on's RL updates, {refits}"
        if self.learner == "gated":
            words += f", its gate is {100 * totals['gate']:.0f} % open: {self.allowance.gate.reason}"
        if self.acting == "audited":
            words += f", plays by {self.audits.in_words(float(self.thresholds.lead))}"
        if self.world_model.version == 0:
            words = f"nothing was planned or learned: the first learning_starts={self.learning_starts} steps are random"
        return {"in_words": words, **totals, **self.configurator.metrics()}

    # the seam with SB3

    def _setup_model(self) -> None:
        super()._setup_model()
        self.allowance = allowance(self.learner, opening=self.opening, budget=self.budget, ratio=self.update_ratio)
        self.improvement = Improvement(self.mode_1, self.most_likely)

    def count_anew(self, back: int) -> None:
        """As ever; the world changed so many steps lower, too."""
        super().count_anew(back)
        self.taught_at = self.learning_starts  # nobody learns before
        self.changes.count_anew(back)

    def set_parameters(self, *args: Any, **kwargs: Any) -> None:
        """SB3's; what was gained is measured from the weights that are set."""
        super().set_parameters(*args, **kwargs)
        self.improvement.begin()

    def _check(self) -> None:
        """Raise UserError for settings that no plan can be made with."""
        limits.steps("horizon", self.horizon)
        limits.check(vars(self))
        if self.follow > self.horizon:
            raise UserError(f"follow must be at most horizon ({self.horizon}), got {self.follow}")
        limits.word("learner", self.learner, get_args(Kind))
        limits.word("acting", self.acting, get_args(Acting))
        if self.acting == "audited" and not self.audit:
            raise UserError("audit must be above 0 where acting=audited, or nobody is audited, got 0")
        own = self.candidates - self.policy_plans
        if own < 1:
            raise UserError(f"candidates must be more than policy_plans ({self.policy_plans}), got {self.candidates}")
        if not 1 <= self.elites <= own:
            raise UserError(
                f"elites must be between 1 and {own}, the candidates that are no policy_plans, got {self.elites}"
            )
