"""Double Horizon Model-Based Policy Optimization (Kubo et al. 2025, TMLR), with gradients through the model.

Three things are not the paper's. Critics learn the lambda-returns of long rollouts (Dreamer: Hafner et al. 2020,
1912.01603). These pay for what members disagree about (Plan2Explore: Sekar et al. 2020, 2005.05960), lest an agent stay
with what its model knows. And rollouts are led along real steps, lest a policy live off model errors (`dyna.segments`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, get_args

import torch
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from torch import Tensor

from dyna import actor_critic, limits
from dyna.base import DynaMixin, with_actions
from dyna.bounded import BoundedCritic, BoundedSACPolicy, value_range
from dyna.errors import UserError
from dyna.segments import NEWEST, Segments, Trail, draw_ages
from dyna.truncation import KeepAll, Truncation
from dyna.units import usual_rewards
from dyna.unrolled import can_unroll, unroll
from dyna.value_expansion import Expansion, Mask, Noise, Valued, expand
from dyna.world_model import EnsembleSettings, KnownReward, KnownTermination

STARTS_PER_NUMBER, MOST_STARTS = 75, 5_000  # random steps: the more a world model sees, the more examples it needs
LESSONS = 2  # steps that critics learn from in an update, for each state that the actor's rollouts begin from
FEWEST_STEPS = 8  # that are valued for each of these states before critics begin to learn from them
LEARNED_FROM = {"valued": Valued, "trail": Trail}
MOST_NOVEL = 1.0  # disagreement, in spreads of what is usual, above which a step pays no more


class DHMBPO(DynaMixin, SAC):
    """Soft actor-critic in the model: its actor climbs imagined returns, its critics learn from imagined rollouts.

    Reward and termination are learned too. It takes SB3's SAC's arguments too.

    :param policy: Policy class or its alias.
    :param env: Environment, or its Gymnasium id.
    :param learning_rate: Step size of actor, critic and entropy coefficient; a number or a schedule.
    :param learning_starts: Random steps before learning begins, as many updates follow them at once; None makes 75 for
        each number of an observation and an action, and 5,000 at most.
    :param batch_size: Imagined states that an actor's update begins from, rounded down to a multiple of the members; a
        critics' update sees twice as many steps.
    :param gamma: Discount.
    :param tau: Share of the critic that its target takes over in an update.
    :param ent_coef: Weight of the entropy, or auto_INITIAL to learn it.
    :param gradient_steps: Updates of actor and critic each time of learning; -1 makes one for each step made since.
    :param late_updates: Share of the updates that is made, evenly, after the first 2,000.
    :param model_every: Environment steps between two fits of the world model, at most.
    :param model_growth: By which share of themselves the steps of a fit must grow until the next, where that is sooner;
        with 0 only `model_every` counts. Steps of the first minutes tell the most.
    :param dream_every: Updates between two of the rollouts that critics learn from, and between distribution rollouts.
    :param distribution_horizon: Steps of a rollout that critics learn from, if training rollouts are no longer, and of
        a distribution rollout at most, which is made where noise is drawn; with 0 none is.
    :param training_horizon: Steps of a training rollout, through which gradients flow; with 0 the actor climbs the
        critics alone.
    :param return_lambda: How far the steps of the critics' rollouts count before values do: lambda of their returns.
    :param curiosity: What the critics' rollouts pay besides, in spreads of usual rewards, where members disagree about
        the next state by as much as steps usually change it, or about the reward by as much as rewards differ.
    :param mask: How an imagined end stops training rollouts and the critics': soft, by its probability; hard, from one
        half on; or differentiable, by its probability and with its slope, which makes standing still a trap.
    :param noise: Noise of imagined next states: drawn; or inferred from real steps, once 2,000 are stored or the buffer
        is full. Then the critics' rollouts are led along these, and the actor's on from there; after the last, none.
    :param truncate: Rule that ends distribution rollouts: keep_all; for drawn noise infoprop, macura, m2ac, a mapping.
    :param world_model: Size and training rule of the ensemble.
    :param reward_fn: Exact reward (obs, action in [-1, 1], next_obs) -> reward [B]; without one it is learned.
    :param termination_fn: Exact end (obs, action in [-1, 1], next_obs) -> bool [B]; without one it is learned.
    """

    lives_by_model = True
    not_to_be_set = {**DynaMixin.not_to_be_set, "target_update_interval": (1, "moves its targets at every update")}
    policy_aliases = {"MlpPolicy": BoundedSACPolicy}
    policy: BoundedSACPolicy
    critic: BoundedCritic  # type: ignore[assignment]
    critic_target: BoundedCritic  # type: ignore[assignment]

    def __init__(
        self,
        policy: str | type[BoundedSACPolicy] = "MlpPolicy",
        env: GymEnv | str | None = None,
        learning_rate: float | Schedule = 1e-3,
        learning_starts: int | None = None,
        batch_size: int = 125,
        gamma: float = 0.995,
        tau: float = 0.01,
        ent_coef: str | float = "auto_0.1",
        gradient_steps: int = 1,
        late_updates: float = 1.0,
        model_every: int = 250,
        model_growth: float = 0.1,
        dream_every: int = 20,
        distribution_horizon: int = 20,
        training_horizon: int = 5,
        return_lambda: float = 0.95,
        curiosity: float = 2.0,
        mask: Mask = "soft",
        noise: Noise = "inferred",
        truncate: str | Mapping[str, Any] | Truncation = "keep_all",
        world_model: EnsembleSettings = EnsembleSettings(max_updates=200, beta=0.5),  # noqa: B008 - frozen
        reward_fn: KnownReward | None = None,
        termination_fn: KnownTermination | None = None,
        **sac: Any,
    ) -> None:
        limits.check({"batch_size": batch_size, "model_every": model_every, "dream_every": dream_every})
        limits.check({"distribution_horizon": distribution_horizon, "training_horizon": training_horizon})
        limits.word("mask", mask, get_args(Mask))
        limits.word("noise", noise, get_args(Noise))
        self.model_every, self.model_growth, self.dream_every = model_every, model_growth, dream_every
        self.distribution_horizon, self.training_horizon = distribution_horizon, training_horizon
        self.return_lambda, self.curiosity, self.late_updates = return_lambda, curiosity, late_updates
        self.mask, self.noise, self._derives_starts = mask, noise, learning_starts is None
        self._valued: Valued | None = None  # what critics learn from until the next dreams or the next fit
        self._trail: Trail | None = None  # where the actor's rollouts begin until then
        generations = -(-model_every // dream_every) + 1
        self.settle(
            world_model=world_model,
            truncate=truncate,
            real_share=0.0,
            imagined_capacity=generations * batch_size * max(distribution_horizon, 1),
            reward_fn=reward_fn,
            termination_fn=termination_fn,
        )
        if batch_size < world_model.members:
            raise UserError(f"batch_size must be at least {world_model.members}, one for each member, got {batch_size}")
        super().__init__(
            policy,
            with_actions(env, spaces.Box, "MBDQN takes Discrete ones"),
            learning_rate,
            learning_starts=learning_starts or 0,
            batch_size=batch_size,
            gamma=gamma,
            tau=tau,
            ent_coef=ent_coef,
            gradient_steps=gradient_steps,
            **sac,
        )
        if noise == "inferred" and not isinstance(self.truncate, KeepAll):
            raise UserError(f"truncate={type(self.truncate).__name__} ends rollouts that are not led: set noise=drawn")

    def _setup_model(self) -> None:
        super()._setup_model()
        if self.gamma == 1.0:
            raise UserError("gamma must be below 1, for values are bounded by 1 / (1 - gamma), got 1.0: try 0.999")
        if self._derives_starts:
            numbers = self.world_model.obs_size + self.world_model.action_size
            self.learning_starts = min(STARTS_PER_NUMBER * numbers, MOST_STARTS)
            self._derives_starts = False  # what is loaded later may be told another number

    def train(self, gradient_steps: int, batch_size: int = 125) -> None:
        """Fit, dream and update for the environment steps just made."""
        first = self.world_model.version == 0
        if self.is_fit_due():
            self.refit()
        if self._fitted_at is not None:  # the random steps had no updates yet
            self.teach(max(gradient_steps, self.num_timesteps) if first else self.paced(gradient_steps), batch_size)

    def refit(self) -> None:
        """Fit the world model; the policy sees in its units, and critics know the range of returns."""
        self.fit_world_model()
        model, size = self.world_model, self.world_model.obs_size
        self.policy.standardise(model.x_mean[:size], model.x_std[:size])
        data, before = self.replay_buffer.all_transitions(), float(self._spread) if model.version > 1 else 1.0
        actor_critic.weigh_entropy(self, usual_rewards(data.reward)[1], before)
        entropy = float(actor_critic.entropy_weight(self)) * model.action_size
        scale = value_range(data.reward, self.gamma, entropy=entropy, novelty=self.curiosity * MOST_NOVEL)
        for critic in (self.critic, self.critic_target):
            critic.set_range(**scale)
        self._valued = self._trail = None  # what was said by another model

    def teach(self, updates: int, batch_size: int) -> None:
        """Dream where it is due, and make so many updates of critics and actor."""
        optimisers = [self.actor.optimizer, self.critic.optimizer, self.ent_coef_optimizer]
        self._update_learning_rate([optimiser for optimiser in optimisers if optimiser is not None])
        batch_size -= batch_size % self.world_model.settings.members
        losses = []
        for _ in range(updates):
            if self._n_updates % self.dream_every == 0 or self._valued is None:
                if self.leads:
                    self.imagined.clear()
                elif self.distribution_horizon:
                    self.dream(batch_size, self.distribution_horizon, keep_versions=1)
                self._valued = self._evaluate(batch_size)
            losses.append(self._update(batch_size, self._valued))
            self._n_updates += 1
        actor_critic.tell(self, losses, self.updates)

    def fit_interval(self) -> int:
        """`model_every`, or as many steps as make the data of the last fit grow by `model_growth`."""
        grown = math.ceil(self.model_growth * self.world_model_metrics.get("rows", 0))
        return min(self.model_every, max(grown, 1)) if self.model_growth else self.model_every

    def imagination_policy(self, obs: Tensor) -> Tensor:
        """The current policy's action, sampled: obs [B, S] -> [B, A] in [-1, 1]."""
        with torch.no_grad():
            return self._sample(obs)[0]

    def _sample(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        noise = torch.randn(len(obs), self.world_model.action_size, generator=self.rng, device=obs.device)
        return actor_critic.sample_action(self.actor, obs, noise)

    def _evaluate(self, batch_size: int) -> Valued:
        """Long rollouts of the policy, and what their steps are worth: lambda-returns, disagreement paid."""
        horizon = max(self.distribution_horizon, self.training_horizon, 1)
        rows, further = batch_size * -(-FEWEST_STEPS // horizon), max(self.training_horizon, 1)
        along = self._segments(rows, horizon + further - 1) if self.leads else None
        with torch.no_grad():
            rollout = self._rollout(along.start if along else self._starts(rows, real=True), horizon, along)
            self._trail = Trail.of(rollout.obs[:-1], rollout.alive[:-1], along) if along else None
            obs, action = (part.flatten(0, 1) for part in (rollout.obs, rollout.action))
            value = rollout._replace(reward=rollout.reward + self._bonus(rollout)).action_values(
                self._lower(obs, action).view_as(rollout.log_prob),
                alpha=actor_critic.entropy_weight(self),
                gamma=self.gamma,
                return_lambda=self.return_lambda,
            )
            return Valued.of(rollout, value[:-1].clamp(self.critic.low, self.critic.high))

    def _lower(self, obs: Tensor, action: Tensor) -> Tensor:
        """What actions are worth [B] by the lower of two targets, drawn anew each time: [B, S], [B, A]."""
        said = self.critic_target.values(obs, action)
        pair = torch.randperm(len(said), generator=self.rng, device=said.device)[:2]
        return said[pair].amin(dim=0)

    def _bonus(self, rollout: Expansion) -> Tensor:
        """What the steps of a rollout pay [H, B] for the members' disagreement about them."""
        if not self.curiosity:
            return torch.zeros_like(rollout.reward)
        novelty = self.world_model.novelty(*(part[:-1].flatten(0, 1) for part in (rollout.obs, rollout.action)))
        self.logger.record_mean("imagination/novelty", float(novelty[(rollout.alive[:-1] > 0.5).flatten()].median()))
        return self.curiosity * self._spread * novelty.clamp_max(MOST_NOVEL).view_as(rollout.reward)

    def _update(self, batch_size: int, valued: Valued) -> actor_critic.Losses:
        """One step of critics, on what was valued, and of actor and entropy coefficient, on one training rollout."""
        actor, critic, alpha = self.actor, self.critic, actor_critic.entropy_weight(self)
        horizon, trail = max(self.training_horizon, 1), self._trail
        start, along = trail.sample(batch_size, horizon, rng=self.rng) if trail else (self._starts(batch_size), None)
        rollout = self._rollout(start, horizon, along)
        ahead = rollout if self.training_horizon else rollout.at_once()
        value = ahead.first_value(lambda *of: critic.values(*of).mean(dim=0), alpha=alpha, gamma=self.gamma)
        actor_loss = (alpha * rollout.log_prob[0] - value).mean()
        lessons = valued.sample(LESSONS * batch_size, rng=self.rng)
        error = (critic.values(lessons.obs, lessons.action) - lessons.value) / critic.scale
        critic_loss = error.square().mean(dim=1).sum()
        actor_critic.step(actor.optimizer, actor_loss)
        self.policy.average(self._n_updates + 1)
        actor_critic.step(critic.optimizer, critic_loss)
        actor_critic.update_target(critic, self.critic_target, self.tau)
        entropy = -rollout.log_prob[0].detach().mean()
        actor_critic.update_temperature(self, entropy)
        return actor_critic.Losses(critic_loss.detach(), actor_loss.detach(), entropy, alpha.reshape(()))

    def _rollout(self, start: Tensor, horizon: int, along: Segments | None) -> Expansion:
        """A rollout of the policy, its gradient written by hand where that is possible."""
        model, noise = self.world_model, along.first(horizon).noise(self.world_model) if along else None
        if can_unroll(model, self.actor):
            return unroll(model, self.actor, start, horizon, mask=self.mask, noise=noise, rng=self.rng)
        return expand(model, self._sample, start, horizon, mask=self.mask, noise=noise, rng=self.rng)

    @property
    def leads(self) -> bool:
        """Whether rollouts are led along real steps: once so many are stored that the newest are the policy's."""
        room = self.replay_buffer.buffer_size * self.replay_buffer.n_envs
        return self.noise == "inferred" and self.known_steps >= min(NEWEST, room)

    def _segments(self, rows: int, horizon: int) -> Segments:
        """Real steps that rollouts are led along, all of the world as it is."""
        return self.replay_buffer.segments(draw_ages(rows, self.known_steps, self.rng), horizon)

    def _starts(self, rows: int, *, real: bool = False) -> Tensor:
        """The states [B, S] that rollouts begin from where they are not led: of the environment, or imagined ones."""
        if real or not self.imagined.size:  # a rule may keep none
            return self.replay_buffer.sample_obs(rows)
        return self.imagined.sample_transitions(rows).obs

    @property
    def _spread(self) -> Tensor:
        """How far usual rewards lie apart []."""
        return self.critic.scale * (1 - self.gamma)

    def extra_state(self) -> dict[str, Any]:
        """As every Dyna method's, with what critics and actor are learning from."""
        kept = {name: getattr(self, f"_{name}") for name in LEARNED_FROM}
        return {**super().extra_state(), **{name: each and dict(vars(each)) for name, each in kept.items()}}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what `extra_state` returned."""
        super().load_extra_state(state)
        for name, kind in LEARNED_FROM.items():
            told = state.get(name)  # there were no trails once
            setattr(self, f"_{name}", told and kind(**{part: value.to(self.device) for part, value in told.items()}))

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), *(f"_{name}" for name in LEARNED_FROM)]
