"""Branched rollouts: the loop of MBPO (Janner et al. 2019, 1906.08253, algorithm 2) around any off-policy learner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv

from dyna import limits, units
from dyna.base import DynaMixin
from dyna.errors import UserError
from dyna.imagination import MBPOSchedule
from dyna.truncation import Truncation
from dyna.types import Transitions
from dyna.world_model import EnsembleSettings, KnownReward, KnownTermination


class BranchedDyna(DynaMixin):
    """Put before an SB3 off-policy class, it branches short imagined rollouts off real states and mixes the two.

    The subclass writes `imagination_policy` and `teach`, which learns from `sample`.

    :param real_share: Share of real transitions in every batch; with 1, nothing is imagined.
    :param model_every: Environment steps between two fits of the world model.
    :param rollouts: Imagined rollouts an environment step (M in the paper).
    :param horizon: Steps of a rollout at most: a number, or [from, to, first step, last step] to grow it (section 5).
    :param truncate: Rule that ends rollouts early: infoprop, keep_all (the paper), macura, m2ac, or a mapping.
    :param model_lifetime: Fits of the model after which imagined transitions are dropped.
    :param world_model: Size and training rule of the ensemble.
    :param reward_fn: Exact reward (obs, action in [-1, 1], next_obs) -> reward [B]; without one it is learned.
    :param termination_fn: Exact end (obs, action in [-1, 1], next_obs) -> bool [B]; without one it is learned.
    """

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None,
        real_share: float = 0.05,
        model_every: int = 250,
        rollouts: int = 50,
        horizon: int | Sequence[int] = 2,
        truncate: str | Mapping[str, Any] | Truncation = "infoprop",
        model_lifetime: int = 2,
        world_model: EnsembleSettings = EnsembleSettings(),  # noqa: B008 - frozen
        reward_fn: KnownReward | None = None,
        termination_fn: KnownTermination | None = None,
        **learner: Any,
    ) -> None:
        limits.check({"model_every": model_every, "rollouts": rollouts, "model_lifetime": model_lifetime})
        lengths = (horizon, horizon, 0, 0) if isinstance(horizon, int) else horizon
        if not (isinstance(lengths, Sequence) and [type(each) for each in lengths] == [int] * 4):
            raise UserError(f"horizon must be a number or [from, to, first step, last step], got {horizon!r:.80}")
        self.schedule = MBPOSchedule(*lengths)
        self.model_every, self.rollouts, self.model_lifetime = model_every, rollouts, model_lifetime
        self.reward_unit = 1.0  # environment units in one of the learner's
        self.settle(
            world_model=world_model,
            truncate=truncate,
            real_share=real_share,
            imagined_capacity=rollouts * model_every * self.schedule.longest * model_lifetime,
            reward_fn=reward_fn,
            termination_fn=termination_fn,
        )
        if world_model.leave_out:
            raise UserError("world_model.leave_out must be false, got true: the policy sees more than its model would")
        super().__init__(policy, env, **learner)  # type: ignore[arg-type]  # None while SB3 loads

    def train(self, gradient_steps: int, batch_size: int = 256) -> None:
        """Refit and imagine where it is due, then learn for the environment steps just made."""
        if self.is_fit_due():
            self.refit()
        self.teach(gradient_steps, batch_size)

    def refit(self) -> None:
        """Refit the world model and imagine anew from states of all real transitions."""
        self.fit_world_model()  # line 3
        if self.world_model.version == 1:
            self._choose_units()
        horizon = self.schedule.horizon(self.num_timesteps)
        self.dream(self.rollouts * self.model_every, horizon, self.model_lifetime)  # lines 6-8

    def sample(self, batch_size: int) -> Transitions:
        """[batch_size, .] real and imagined rows of the world as it is, rewards in the learner's unit."""
        batch = self.replay.sample_transitions(batch_size, self.unchanged_steps)
        return batch._replace(reward=batch.reward / self.reward_unit)

    def _choose_units(self) -> None:
        """After the first fit, before imagined rows teach anything: what lies far from 1 is learnt in other units."""
        size = self.world_model.obs_size
        units.standardise_far(self.policy, self.world_model.x_mean[:size], self.world_model.x_std[:size])
        self.reward_unit = units.reward_unit(self.replay_buffer.all_transitions().reward)
