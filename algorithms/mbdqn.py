"""Dyna (Sutton 1991) with a deep Q-network (Mnih et al. 2015): DQN on short imagined rollouts from real states.

Many updates a step make plain DQN overestimate. Double Q-learning (van Hasselt et al. 2016, 1509.06461) and networks
with layer normalisation keep it from that.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from torch import Tensor, nn

from dyna.base import with_actions
from dyna.branched import BranchedDyna
from dyna.errors import UserError
from dyna.types import Transitions
from dyna.units import Standardised


class QPolicy(DQNPolicy):
    """SB3's DQN policy with a fused optimiser, and with actions that are counted from the space's `start`.

    :param layer_norm: Normalise the hidden layers (Ba et al. 2016, 1607.06450).
    """

    action_space: spaces.Discrete

    def __init__(self, *args: Any, layer_norm: bool = True, **kwargs: Any) -> None:
        self.layer_norm = layer_norm
        if kwargs.get("optimizer_class", torch.optim.Adam) in (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD):
            kwargs["optimizer_kwargs"] = {"fused": True, **(kwargs.get("optimizer_kwargs") or {})}
        super().__init__(*args, **{"features_extractor_class": Standardised} | kwargs)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "layer_norm": self.layer_norm}

    def make_q_net(self) -> QNetwork:
        network = super().make_q_net()
        if self.layer_norm:
            network.q_net = normalised(network.q_net).to(self.device)
        return network

    def _predict(self, obs: Any, deterministic: bool = True) -> Tensor:
        return super()._predict(obs, deterministic) + int(self.action_space.start)


def normalised(layers: Iterable[nn.Module]) -> nn.Sequential:
    """The layers, with a layer normalisation after every linear one but the last."""
    *hidden, last = layers
    pairs = ([each, nn.LayerNorm(each.out_features)] if isinstance(each, nn.Linear) else [each] for each in hidden)
    return nn.Sequential(*itertools.chain(*pairs), last)


class MBDQN(BranchedDyna, DQN):
    """Deep Q-learning mostly from short rollouts imagined by a learned ensemble, for discrete actions.

    MBPO's loop (Janner et al. 2019, algorithm 2) with the update rule of SB3's DQN; reward and termination are learned
    too. It takes the arguments of `BranchedDyna`, among them `real_share`, and those of SB3's DQN.

    :param policy: Policy class or its alias.
    :param env: Environment, or its Gymnasium id.
    :param learning_rate: Step size; a number or a schedule.
    :param learning_starts: Random steps before learning begins.
    :param train_freq: Environment steps between two times of learning, or [n, episode].
    :param gradient_steps: Updates each time of learning; -1 makes one for each step made since.
    :param target_update_interval: Environment steps between two updates of the target network.
    :param double_q: Let the network choose the next action that its target judges; without, the target does both.
    :param imagined_epsilon: Probability of a random action in imagination, where the greedy one is taken else.
    """

    policy_aliases = {"MlpPolicy": QPolicy}
    policy: QPolicy
    action_space: spaces.Discrete

    def __init__(
        self,
        policy: str | type[QPolicy] = "MlpPolicy",
        env: GymEnv | str | None = None,
        learning_rate: float | Schedule = 1e-3,
        learning_starts: int = 500,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = 10,
        target_update_interval: int = 10,
        double_q: bool = True,
        imagined_epsilon: float = 0.1,
        **more: Any,
    ) -> None:
        if not 0.0 <= imagined_epsilon <= 1.0:
            raise UserError(f"imagined_epsilon must be in [0, 1], got {imagined_epsilon}")
        self.double_q, self.imagined_epsilon = double_q, imagined_epsilon
        super().__init__(
            policy,
            with_actions(env, spaces.Discrete, "MBPO takes a Box"),
            learning_rate=learning_rate,
            learning_starts=learning_starts,
            train_freq=train_freq,
            gradient_steps=gradient_steps,
            target_update_interval=target_update_interval,
            **more,
        )

    def teach(self, updates: int, batch_size: int) -> None:
        """Make so many updates of the Q-network, from real and imagined steps; SB3 moves the target network."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        losses = [self._update(self.sample(batch_size)) for _ in range(updates)]
        self._n_updates += updates
        self.updates["critic"] += updates
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/loss", torch.stack(losses).mean().item())

    def imagination_policy(self, obs: Tensor) -> Tensor:
        """Epsilon-greedy: obs [B, S] -> one-hot actions [B, A]."""
        n = int(self.action_space.n)
        chance, random = torch.rand(2, len(obs), generator=self.rng, device=obs.device)
        with torch.no_grad():
            greedy = self.q_net(obs).argmax(dim=1)
        action = torch.where(chance < self.imagined_epsilon, (n * random).long(), greedy)
        return F.one_hot(action, n).to(obs.dtype)

    def _update(self, batch: Transitions) -> Tensor:
        with torch.no_grad():
            judged = self.q_net_target(batch.next_obs)
            chosen = (self.q_net(batch.next_obs) if self.double_q else judged).argmax(dim=1, keepdim=True)
            next_value = judged.gather(1, chosen).squeeze(1)
            target = batch.reward + (1 - batch.terminated) * self.gamma * next_value
        value = (self.q_net(batch.obs) * batch.action).sum(dim=1)
        loss = F.smooth_l1_loss(value, target)
        weights = self.policy.optimizer.param_groups[0]["params"]
        for weight, grad in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            weight.grad = grad
        torch.nn.utils.clip_grad_norm_(weights, self.max_grad_norm)
        self.policy.optimizer.step()
        return loss.detach()
