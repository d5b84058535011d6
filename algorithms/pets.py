"""PETS (Chua et al. 2018, 1805.12114): at every step a plan through a probabilistic ensemble, and no RL at all.

Algorithm 1 of the paper: fit the ensemble to all data, then act by model predictive control, again and again.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv
from torch import Tensor

from dyna import limits
from dyna.base import with_actions
from dyna.errors import UserError
from dyna.foresight import ForesightMixin
from dyna.plan_scores import trajectory_sampling
from dyna.planners import cem, icem
from dyna.plans import Plan, shifted
from dyna.receding import RecedingHorizonMixin
from dyna.world_model import EnsembleSettings, KnownReward, KnownTermination

START_STD = 0.5  # of the first iteration: the bounds -1 and 1 are two deviations from the middle (the authors' code)


class PlanningPolicy(ForesightMixin, BasePolicy):
    """Plans anew for each observation; all that it knows is in the world model of its algorithm."""

    action_space: spaces.Box

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Box, lr_schedule: Any = None) -> None:
        super().__init__(observation_space, action_space, squash_output=True)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {"observation_space": self.observation_space, "action_space": self.action_space}

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        """While there is nothing to plan with: the middle of the actions, or uniform ones."""
        shape = len(observation), *self.action_space.shape
        return torch.zeros(shape) if deterministic else 2.0 * torch.rand(shape) - 1.0


class PETS(RecedingHorizonMixin, OffPolicyAlgorithm):
    """Probabilistic ensembles with trajectory sampling: model predictive control with a learned model.

    Reward and termination are learned too, unless exact functions are given. Every step costs a plan, in evaluations as
    well, so plans are smaller than the paper's, which are planner=cem horizon=25 candidates=400 elites=40 iterations=5
    particles=20.

    :param policy: PlanningPolicy, or a subclass of it.
    :param env: Environment, or its Gymnasium id.
    :param learning_starts: Random steps before planning begins.
    :param buffer_size: Steps that are remembered.
    :param model_every: Environment steps between two fits of the world model.
    :param planner: icem (Pinneri et al. 2020, needs fewer candidates) or cem (the paper's).
    :param horizon: Steps of a plan.
    :param candidates: Plans that an iteration draws; with icem fewer in each after the first.
    :param elites: Best candidates, around which the next iteration draws.
    :param iterations: Iterations of a plan.
    :param particles: Random trajectories that a candidate is tried by; a multiple of world_model.elites.
    :param propagation: A particle stays in one member (ts_inf) or changes it at every step (ts1).
    :param bfloat16: Multiply in this format while planning: about twice as fast on processors that have it.
    :param world_model: Size and training rule of the ensemble.
    :param reward_fn: Exact reward (obs, action in [-1, 1], next_obs) -> reward [B]; without one it is learned.
    :param termination_fn: Exact end (obs, action in [-1, 1], next_obs) -> bool [B]; without one it is learned.
    :param stats_window_size: Episodes over which logged returns and lengths are averaged.
    """

    plays_by = (
        *("planner", "horizon", "candidates", "elites", "iterations", "particles", "propagation", "bfloat16"),
        *("reward_fn", "termination_fn"),
    )
    policy_aliases = {"MlpPolicy": PlanningPolicy}
    policy: PlanningPolicy

    def __init__(
        self,
        policy: str | type[PlanningPolicy] = "MlpPolicy",
        env: GymEnv | str | None = None,
        learning_starts: int = 200,
        buffer_size: int = 100_000,
        model_every: int = 100,
        planner: Literal["icem", "cem"] = "icem",
        horizon: int = 20,
        candidates: int = 60,
        elites: int = 8,
        iterations: int = 3,
        particles: int = 8,
        propagation: Literal["ts_inf", "ts1"] = "ts_inf",
        bfloat16: bool = False,
        world_model: EnsembleSettings = EnsembleSettings(),  # noqa: B008 - frozen
        reward_fn: KnownReward | None = None,
        termination_fn: KnownTermination | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        self.model_every, self.planner, self.propagation, self.bfloat16 = model_every, planner, propagation, bfloat16
        self.horizon, self.candidates, self.elites = horizon, candidates, elites
        self.iterations, self.particles = iterations, particles
        self.settle(
            world_model=world_model,
            truncate="keep_all",
            real_share=0.0,
            imagined_capacity=1,
            reward_fn=reward_fn,
            termination_fn=termination_fn,
        )
        self._check()
        super().__init__(
            policy,
            with_actions(env, spaces.Box, "MBDQN takes Discrete ones"),
            learning_rate=0.0,  # of nothing: the world model has its own
            buffer_size=buffer_size,
            learning_starts=learning_starts,
            train_freq=1,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            support_multi_env=True,
            seed=seed,
            sde_support=False,
            supported_action_spaces=(spaces.Box,),
        )
        if _init_setup_model:
            self._setup_model()

    @property
    def plan_dtype(self) -> torch.dtype:
        """Of what plans multiply."""
        return torch.bfloat16 if self.bfloat16 else torch.float32

    def blank(self) -> Tensor:
        """No action, as a mean and, for icem, as plans to keep: zeros [1, M, H, A]."""
        kept = max(1, round(0.3 * self.elites)) if self.planner == "icem" else 0
        return torch.zeros(1, 1 + kept, self.horizon, self.world_model.action_size, device=self.device)

    def plan(self, obs: Tensor, warm: Tensor, rng: torch.Generator) -> Plan:
        """Plans from observations [B, S], begun with [B, M, H, A]: where to look first, and for icem plans to try."""
        score = trajectory_sampling(
            self.plan_model(), obs, particles=self.particles, redeal=self.propagation == "ts1", rng=rng
        )
        mean = warm[:, 0]
        search: dict[str, Any] = {"n": self.candidates, "elites": self.elites, "iterations": self.iterations}
        if self.planner == "icem":
            return icem(score, mean, torch.full_like(mean, START_STD), seeds=warm[:, 1:], rng=rng, **search)
        return cem(score, mean, torch.full_like(mean, START_STD), rng=rng, **search)

    def respond(
        self, obs: Tensor, warm: Tensor, deterministic: bool, rng: torch.Generator
    ) -> tuple[Tensor, Tensor] | None:
        """First actions [B, A] of plans from [B, S], and what the next ones start from [B, M, H, A].

        None before the first fit.
        """
        if self.world_model.version == 0:
            return None
        plan = self.plan(obs, warm, rng)
        return plan.actions[:, 0], _next(plan, warm.shape[1])

    def train(self, gradient_steps: int, batch_size: int = 256) -> None:
        """Fit the world model where it is due; there is nothing else to learn."""
        if self.is_fit_due():
            self.refit()

    def imagination_policy(self, obs: Tensor) -> Tensor:
        """Nothing is imagined but plans; without one, uniform actions: obs [B, S] -> [B, A] in [-1, 1]."""
        drawn = torch.rand(len(obs), self.world_model.action_size, generator=self.rng, device=obs.device)
        return 2.0 * drawn - 1.0

    def _check(self) -> None:
        """Raise UserError for settings that no plan can be made with."""
        limits.steps("horizon", self.horizon)
        limits.check(vars(self))
        if not 1 <= self.elites <= self.candidates:
            raise UserError(f"elites must be between 1 and candidates ({self.candidates}), got {self.elites}")
        limits.word("planner", self.planner, ("icem", "cem"))
        limits.word("propagation", self.propagation, ("ts_inf", "ts1"))
        believed = self.world_model_settings.elites
        if self.particles % believed:
            raise UserError(f"particles must be a multiple of world_model.elites ({believed}), got {self.particles}")

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        obs = torch.as_tensor(np.asarray(self._last_obs), dtype=torch.float32, device=self.device)
        random = self.num_timesteps < learning_starts
        response = None if random else self.respond(obs, self.warm_start, False, self.rng)
        if response is None:
            return super()._sample_action(self.num_timesteps + 1, action_noise, n_envs)
        action, self.warm_start = response
        self.updates["plans"] += n_envs
        scaled = self.policy.shaped(action)
        return self.policy.unscale_action(scaled), scaled


def _next(plan: Plan, kept: int) -> Tensor:
    """What the next plan starts from [B, M, H, A]: the mean and the best elites, a step later."""
    return shifted(torch.cat([plan.mean.unsqueeze(1), plan.elites], dim=1)[:, :kept])
