"""PlanFirst for discrete actions: its plans are found by categorical CEM, and what they end in is worth max_a Q.

The search is the cross-entropy method for a product of categorical distributions (de Boer et al. 2005, section 3), the
learner in the background double DQN on imagined rollouts. What decides what is learnt is PlanFirst's: `planfirst.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from stable_baselines3.common.type_aliases import GymEnv
from torch import Tensor, nn

from dyna.algorithms.mbdqn import MBDQN, QPolicy
from dyna.base import with_actions
from dyna.correction import CorrectionMixin
from dyna.foresight import ForesightMixin
from dyna.imagination import imagine
from dyna.plan_seeds import noisy_plans
from dyna.planners import categorical_cem
from dyna.plans import Plan
from dyna.truncation import KeepAll
from dyna.types import Transitions

UNSURE = 0.5  # share of uniform actions that a plan's first iteration adds to the last plan


class DiscretePlanFirstPolicy(ForesightMixin, QPolicy):
    """Mode-1 is the greedy policy of Q; Mode-2 plans, and is what `predict` does."""

    reward_unit: Tensor  # [] environment units in one of Q's

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register_buffer("reward_unit", torch.ones((), device=self.device))

    def unscale_action(self, scaled_action: np.ndarray) -> np.ndarray:
        """The environment's numbers [B] of one-hot actions [B, A]."""
        numbers: np.ndarray = scaled_action.argmax(axis=1) + self.action_space.start
        return numbers


class Background(MBDQN):
    """MBDQN, whose `horizon` has another name here, since a plan has one too.

    :param rollout_horizon: Steps of an imagined rollout at most: a number, or [from, to, first step, last step].
    """

    def __init__(self, policy: Any, env: Any, rollout_horizon: int | Sequence[int] = 20, **more: Any) -> None:
        super().__init__(policy, env, horizon=rollout_horizon, **more)


class DiscretePlanFirst(CorrectionMixin, Background):
    """PlanFirst for discrete actions: categorical CEM acts, double DQN on imagined rollouts learns in the background.

    Its modules are PlanFirst's. There is one critic, the Q-network, so that pessimism is about members alone, and no
    policy beside it that could be distilled. It takes MBDQN's arguments too.

    :param policy_plans: How many of the candidates the policy makes.
    :param imagined_epsilon: Probability of a random action in imagination and in the policy's plans but the first.
    """

    plays_by = (*CorrectionMixin.plays_by, "imagined_epsilon")
    policy_aliases = {"MlpPolicy": DiscretePlanFirstPolicy}
    policy: DiscretePlanFirstPolicy

    def __init__(
        self,
        policy: str | type[DiscretePlanFirstPolicy] = "MlpPolicy",
        env: GymEnv | str | None = None,
        batch_size: int = 64,
        model_every: int = 100,
        horizon: int = 10,
        policy_plans: int = 8,
        opening: int = 1_000,
        **more: Any,
    ) -> None:
        env = with_actions(env, spaces.Discrete, "PlanFirst takes a Box")
        super().__init__(
            policy,
            env,
            batch_size=batch_size,
            model_every=model_every,
            horizon=horizon,
            policy_plans=policy_plans,
            opening=opening,
            **more,
        )

    # actor

    @property
    def mode_1(self) -> nn.Module:
        """The Q-network."""
        return self.q_net

    def most_likely(self, network: nn.Module, obs: Tensor) -> Tensor:
        """The greedy action of such a network, one-hot: [B, S] -> [B, A]."""
        values: Tensor = network(obs)
        return F.one_hot(values.argmax(dim=1), values.shape[1]).to(values.dtype)

    @torch.no_grad()
    def react(self, obs: Tensor, noise: Tensor | None = None) -> Tensor:
        """Mode-1: the greedy action, by normal noise [B, A] a random one as often as DQN explores: [B, S] -> [B, A]."""
        greedy = self.most_likely(self.q_net, obs)
        return greedy if noise is None else categorical(greedy, noise, self.exploration_rate)

    @torch.no_grad()
    def plan(self, obs: Tensor, warm: Tensor, rng: torch.Generator, *, in_play: bool = False) -> Plan:
        """Mode-2: plans from observations [B, S], begun near [B, H, A] and with what the policy would do."""
        model = self.plan_model()
        known = warm.sum(-1, keepdim=True)  # 0 where there is no action yet
        uniform = 1.0 / warm.shape[-1]
        return categorical_cem(
            self.score(model, obs, in_play=in_play),
            torch.lerp(warm + (1.0 - known) * uniform, torch.full_like(warm, uniform), UNSURE),
            n=self.candidates - self.policy_plans,
            elites=self.elites,
            iterations=self.iterations,
            seeds=noisy_plans(model, obs, self._tried, self.policy_plans, self.horizon, rng=rng),
            rng=rng,
        )

    def draw(self, plan: Plan, noise: Tensor) -> Tensor:
        """First actions [B, A] of plans by the probabilities that their search ended with, and as often as DQN
        explores any."""
        return categorical(plan.mean[:, 0], noise, self.exploration_rate)

    def predict(
        self,
        observation: Any,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """As PlanFirst's; DQN's own way to explore is left to the time before the first fit."""
        if self.world_model.version == 0:
            return super().predict(observation, state, episode_start, deterministic)
        return self.policy.predict(observation, state, episode_start, deterministic)

    def _tried(self, obs: Tensor, noise: Tensor) -> Tensor:
        return categorical(self.most_likely(self.q_net, obs), noise, self.imagined_epsilon)

    # cost

    @torch.no_grad()
    def value(self, obs: Tensor) -> Tensor:
        """What the greedy policy is worth to the Q-network, env units: observations [B, S] -> [1, B]."""
        values: Tensor = self.q_net(obs)
        return self.policy.reward_unit * values.amax(dim=1).unsqueeze(0)

    # configurator

    def sample(self, batch_size: int) -> Transitions:
        """As MBDQN's; while an alarm is answered, half of the rows are imagined where outcomes were a surprise."""
        batch = super().sample(batch_size)
        if not self.answers_alarm:
            return batch
        start = self.configurator.surprises(-(-batch_size // 2), self.rng)["obs"]  # a batch may be of one row
        rows = imagine(self.world_model, self.imagination_policy, start, 1, KeepAll(), rng=self.rng)
        new = Transitions(rows.obs, rows.action, rows.reward / self.reward_unit, rows.next_obs, rows.terminated)
        kept = batch.at(slice(batch_size - len(start)))  # real rows come first
        return Transitions(*(torch.cat(parts) for parts in zip(kept, new, strict=True)))

    def _choose_units(self) -> None:
        super()._choose_units()
        self.policy.reward_unit.fill_(self.reward_unit)  # plans need it where weights alone are loaded


def categorical(probs: Tensor, noise: Tensor, epsilon: float) -> Tensor:
    """One-hot draws by probabilities [B, A], with a chance of epsilon by equal ones, from normal noise [B, A].

    Gumbel's trick (Maddison et al. 2014, 1411.0030): the greatest of log p + G has the probabilities p.
    """
    mixed = (1.0 - epsilon) * probs + epsilon / probs.shape[1]
    gumbel = -(-torch.special.log_ndtr(noise)).log()
    return F.one_hot((mixed.log() + gumbel).argmax(dim=1), probs.shape[1]).to(probs.dtype)
