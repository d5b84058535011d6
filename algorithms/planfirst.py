"""PlanFirst: a planner acts, and reinforcement learning is limited to where what it promised did not come.

The parts are others': policy-seeded MPPI with a terminal value (TD-MPC2: Hansen et al. 2024; LOOP: Sikchi et al. 2021),
value expansions through an ensemble (DHMBPO: Kubo et al. 2025), split-conformal sets, Shiryaev-Roberts e-detectors.
That the outcome of a plan is held against its promise, and decides what is learnt, is a hypothesis: docs/planfirst.md
tells what speaks for it and against it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.type_aliases import GymEnv
from torch import Tensor

from dyna import actor_critic
from dyna.algorithms.dhmbpo import DHMBPO
from dyna.bounded import BoundedSACPolicy
from dyna.calibration import Thresholds
from dyna.configurator import Configurator, metrics_of
from dyna.errors import UserError
from dyna.foresight import ForesightMixin
from dyna.plan_model import PlanModel
from dyna.plan_scores import mean_propagation
from dyna.plan_seeds import policy_plans
from dyna.planners import mppi
from dyna.plans import Plan, shifted
from dyna.restarts import DROPPED
from dyna.windows import Windows

START_STD = 0.5  # of a plan's first iteration


class PlanFirstPolicy(ForesightMixin, BoundedSACPolicy):
    """Mode-1 is the soft actor-critic policy; Mode-2 plans, and is what `predict` does."""


class PlanFirst(DHMBPO):
    """A planner acts; what its plans promise is held against what comes of them.

    Its modules, by the names of LeCun 2022 ("A path towards autonomous machine intelligence"):

    | module            | here                                                                                       |
    |-------------------|--------------------------------------------------------------------------------------------|
    | configurator      | `configurator`: promise against outcome, frozen thresholds, detectors                      |
    | perception        | observations in units of the data's spread (the policy's and the model's)                  |
    | world model       | `world_model`: a probabilistic ensemble with heads for next state, reward and termination  |
    | cost              | the reward head or `reward_fn`, and the trainable critics behind `value`                   |
    | actor             | Mode-1: `react`, the policy; Mode-2: `plan`                                                |
    | short-term memory | `replay_buffer`, and the configurator's windows with each plan's promise                   |

    It takes DHMBPO's arguments too, whose learner runs in the background.

    :param horizon: Steps of a plan, and of the window in which its outcome is awaited.
    :param candidates: Plans that an iteration looks at, those of the policy among them.
    :param policy_plans: How many of them the policy makes.
    :param elites: Best candidates, from which the next iteration draws.
    :param iterations: Iterations of a plan.
    :param pessimism: Standard deviations over members and critics by which a plan's value is lowered; below 0 explores.
    :param terminal_value: Let the critics say what follows the last step of a plan.
    """

    policy_aliases = {"MlpPolicy": PlanFirstPolicy}
    policy: PlanFirstPolicy
    warm_start: Tensor  # [n_envs, H, A] what the next plans start from

    def __init__(
        self,
        policy: str | type[PlanFirstPolicy] = "MlpPolicy",
        env: GymEnv | str | None = None,
        horizon: int = 5,
        candidates: int = 128,
        policy_plans: int = 24,
        elites: int = 16,
        iterations: int = 3,
        pessimism: float = 0.5,
        terminal_value: bool = True,
        **dhmbpo: Any,
    ) -> None:
        self.horizon, self.candidates, self.policy_plans = horizon, candidates, policy_plans
        self.elites, self.iterations, self.pessimism = elites, iterations, pessimism
        self.terminal_value = terminal_value
        self._check(policy)
        super().__init__(policy, env, **dhmbpo)

    # actor

    def react(self, obs: Tensor) -> Tensor:
        """Mode-1: the policy's most likely action, [B, S] -> [B, A] in [-1, 1]."""
        with torch.no_grad():
            mode: Tensor = torch.tanh(self.actor.get_action_dist_params(obs)[0])
            return mode

    @torch.no_grad()
    def plan(self, obs: Tensor, warm: Tensor, rng: torch.Generator) -> Plan:
        """Mode-2: plans from observations [B, S], begun with [B, H, A] and with what the policy would do."""
        model = PlanModel(self.world_model)

        def policy(obs: Tensor) -> Tensor:
            noise = torch.randn(len(obs), warm.shape[-1], generator=rng, device=obs.device)
            noise[:: self.policy_plans] = 0.0  # the first of them is what it is most likely to do
            return actor_critic.sample_action(self.actor, obs, noise)[0]

        value = self.value if self.terminal_value else None
        return mppi(
            mean_propagation(model, obs, gamma=self.gamma, pessimism=self.pessimism, value=value),
            warm,
            torch.full_like(warm, START_STD),
            n=self.candidates - self.policy_plans,
            elites=self.elites,
            iterations=self.iterations,
            seeds=policy_plans(model, obs, policy, self.policy_plans, self.horizon),
            rng=rng,
        )

    def respond(
        self, obs: Tensor, warm: Tensor, deterministic: bool, rng: torch.Generator
    ) -> tuple[Tensor, Tensor] | None:
        """Actions [B, A] for observations [B, S] and the next plans' starts [B, H, A]; None before the first fit."""
        if self.world_model.version == 0:
            return None
        plan = self.plan(obs, warm, rng)
        return (plan.actions[:, 0] if deterministic else drawn(plan, rng)), shifted(plan.mean)

    # cost

    @torch.no_grad()
    def value(self, obs: Tensor) -> Tensor:
        """What the policy is worth, by each critic: observations [B, S] -> [C, B]."""
        return self.critic.values(obs, self.react(obs))

    # configurator

    def fit_world_model(self) -> None:
        """As DHMBPO does; what counts as a surprise is then measured anew, and frozen until the next fit."""
        super().fit_world_model()
        self.configurator.freeze(self.world_model, self.replay_buffer.all_transitions())

    def train(self, gradient_steps: int, batch_size: int = 125) -> None:
        """Learn as DHMBPO does, and log what the configurator knows."""
        super().train(gradient_steps, batch_size)
        gradients = {name: count for name, count in self.updates.items() if name != "plans"}
        rl = gradients["critic"] + gradients["actor"]
        told = {**self.configurator.metrics(), "rl_share": rl / max(sum(gradients.values()), 1)}
        for name, value in {**told, "plans": self.updates["plans"]}.items():
            self.logger.record(f"planfirst/{name}", value)

    # the seam with SB3

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        if self.num_timesteps < learning_starts or self.world_model.version == 0:  # nothing to plan with yet
            return super()._sample_action(learning_starts, action_noise, n_envs)
        obs = torch.as_tensor(np.asarray(self._last_obs), dtype=torch.float32, device=self.device)
        plan = self.plan(obs, self.warm_start, self.rng)
        self.warm_start = shifted(plan.mean)
        self.updates["plans"] += n_envs
        if len(self.configurator.windows.waiting()):
            model = PlanModel(self.world_model)
            alone = policy_plans(model, obs, self.react, 1, self.horizon)[:, 0]
            self.configurator.promise(model, obs, plan.actions, alone)
        action = drawn(plan, self.rng).cpu().numpy()
        if action_noise is not None:
            action = np.clip(action + action_noise(), -1.0, 1.0)
        return self.policy.unscale_action(action), action

    def _store_transition(self, replay_buffer: Any, buffer_action: Any, new_obs: Any, *rest: Any) -> None:
        super()._store_transition(replay_buffer, buffer_action, new_obs, *rest)
        _, dones, infos = rest
        done, windows = torch.as_tensor(dones, dtype=torch.bool), self.configurator.windows
        self.warm_start[done.to(self.device)] = 0.0
        windows.drop(torch.tensor([DROPPED in info for info in infos]))  # such a step is replaced by another
        for closed in windows.advance(done):
            verdict = self.configurator.judge(self.world_model, self.replay_buffer, closed, self.rng)
            for name, value in metrics_of(verdict).items():
                self.logger.record_mean(f"planfirst/{name}", value)

    def _setup_model(self) -> None:
        super()._setup_model()
        self.thresholds = Thresholds().to(self.device)
        self.policy.blank = torch.zeros(1, self.horizon, self.world_model.action_size, device=self.device)
        self.policy.respond = self.respond
        self.warm_start = self.policy.blank.repeat(self.n_envs, 1, 1)
        self.configurator = Configurator(
            self.n_envs, self.horizon, gamma=self.gamma, value=self.value, thresholds=self.thresholds
        )

    def _setup_learn(self, *args: Any, **kwargs: Any) -> Any:
        going_on = self._last_obs is not None
        result = super()._setup_learn(*args, **kwargs)
        if not going_on or self.num_timesteps == 0 or len(self.warm_start) != self.n_envs:  # new episodes start
            self.warm_start = self.policy.blank.repeat(self.n_envs, 1, 1)
            self.configurator.windows = Windows(self.n_envs, self.horizon, self.device)
        return result

    def extra_state(self) -> dict[str, Any]:
        """As DHMBPO's, with what is promised and not yet known, and what the detectors heard."""
        return {**super().extra_state(), "configurator": self.configurator.state_dict()}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what `extra_state` returned."""
        super().load_extra_state(state)
        self.configurator.load_state_dict(state["configurator"])

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        names, tensors = super()._get_torch_save_params()
        return [*names, "thresholds"], tensors

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "thresholds", "configurator", "warm_start"]

    def _check(self, policy: Any) -> None:
        """Raise UserError for settings that no plan can be made with."""
        if isinstance(policy, type) and not issubclass(policy, PlanFirstPolicy):
            raise UserError(f"policy must be MlpPolicy or a PlanFirstPolicy, got {policy.__name__}")
        for name in ("horizon", "policy_plans", "iterations"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        own = self.candidates - self.policy_plans
        if not 1 <= self.elites <= own:
            raise UserError(
                f"elites must be between 1 and {own}, the candidates that are no policy_plans, got {self.elites}"
            )


def drawn(plan: Plan, rng: torch.Generator) -> Tensor:
    """First actions [B, A] of plans, with the width that their search ended with, as in TD-MPC2."""
    mean, std = plan.mean[:, 0], plan.std[:, 0]
    noise = torch.randn(mean.shape, generator=rng, device=mean.device)
    return (mean + std * noise).clamp(-1.0, 1.0)
