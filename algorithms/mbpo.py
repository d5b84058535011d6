"""Model-Based Policy Optimization (Janner et al. 2019, 1906.08253): SAC on short imagined rollouts from real states."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from torch import Tensor

from dyna import actor_critic
from dyna.actor_critic import Losses, StackedSACPolicy
from dyna.base import with_actions
from dyna.branched import BranchedDyna
from dyna.types import Transitions


class MBPO(BranchedDyna, SAC):
    """Soft actor-critic that learns mostly from short rollouts imagined by a learned ensemble.

    Algorithm 2 of the paper; reward and termination are learned too. It takes the arguments of `BranchedDyna`, among
    them `real_share`, and those of SB3's SAC.

    :param policy: Policy class or its alias.
    :param env: Environment, or its Gymnasium id.
    :param learning_rate: Step size of actor, critic and entropy coefficient; a number or a schedule.
    :param learning_starts: Random steps before learning begins.
    :param gradient_steps: Updates of actor and critic each time of learning (G in the paper: 20 to 40); -1 makes one
        for each step made since.
    """

    policy_aliases = {"MlpPolicy": StackedSACPolicy}
    policy: StackedSACPolicy

    def __init__(
        self,
        policy: str | type[StackedSACPolicy] = "MlpPolicy",
        env: GymEnv | str | None = None,
        learning_rate: float | Schedule = 3e-4,
        learning_starts: int = 1_000,
        gradient_steps: int = 10,
        **more: Any,
    ) -> None:
        super().__init__(
            policy,
            with_actions(env, spaces.Box, "MBDQN takes Discrete ones"),
            learning_rate=learning_rate,
            learning_starts=learning_starts,
            gradient_steps=gradient_steps,
            **more,
        )

    def teach(self, updates: int, batch_size: int) -> None:
        """Algorithm 2, lines 9 and 10; `refit` makes lines 3 to 8 of it, where they are due."""
        self.policy.set_training_mode(True)
        optimisers = [self.actor.optimizer, self.critic.optimizer, self.ent_coef_optimizer]
        self._update_learning_rate([optimiser for optimiser in optimisers if optimiser is not None])
        losses = []
        for step in range(updates):
            losses.append(self._update(self.sample(batch_size)))
            if step % self.target_update_interval == 0:
                actor_critic.update_target(self.critic, self.critic_target, self.tau)
        self._n_updates += updates
        actor_critic.tell(self, losses, self.updates)

    def imagination_policy(self, obs: Tensor) -> Tensor:
        """The current policy's action, sampled: obs [B, S] -> [B, A] in [-1, 1]."""
        noise = torch.randn(len(obs), self.world_model.action_size, generator=self.rng, device=obs.device)
        with torch.no_grad():
            return actor_critic.sample_action(self.actor, obs, noise)[0]

    def _update(self, batch: Transitions) -> Losses:
        losses = actor_critic.update(self.policy, batch, alpha=actor_critic.entropy_weight(self), gamma=self.gamma)
        actor_critic.update_temperature(self, losses.entropy)
        return losses
