"""The soft actor-critic update, made for CPUs: stacked critics, gradients only where needed, no host copies.

Haarnoja et al. 2018 (1812.05905), in the form of Stable-Baselines3, whose policy and optimisers it works on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.policies import BaseModel, ContinuousCritic
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.sac.policies import Actor, SACPolicy
from torch import Tensor, nn

from dyna.errors import Diverged
from dyna.networks import EnsembleMLP
from dyna.types import Transitions
from dyna.units import NEAR_SPREAD, Standardised

LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


class StackedCritic(BaseModel):
    """SB3's `ContinuousCritic` with its Q networks computed as one batched product a layer; same initial weights."""

    def __init__(
        self, plain: ContinuousCritic, net_arch: list[int], activation_fn: type[nn.Module], layer_norm: bool = False
    ) -> None:
        super().__init__(plain.observation_space, plain.action_space, features_extractor=plain.features_extractor)
        weights = plain.features_extractor.parameters()
        # such features are the actor's to learn: as in SB3, values have no slope by the state then
        self.looks_through_the_actor = plain.share_features_extractor and any(True for _ in weights)
        self.n_critics = plain.n_critics
        layers = [[module for module in net if isinstance(module, nn.Linear)] for net in plain.q_networks]  # type: ignore[attr-defined]
        inputs = layers[0][0].in_features
        self.q_networks = EnsembleMLP(self.n_critics, inputs, net_arch, 1, activation_fn(), layer_norm)
        with torch.no_grad():
            for stacked, *members in zip(self.q_networks.layers, *layers, strict=True):
                stacked.weight.copy_(torch.stack([member.weight.T for member in members]))
                stacked.bias.copy_(torch.stack([member.bias[None] for member in members]))

    def forward(self, obs: Tensor, actions: Tensor) -> tuple[Tensor, ...]:
        """As SB3's: a tuple of n_critics tensors [B, 1]."""
        return self.values(obs, actions).unsqueeze(-1).unbind(0)

    def values(self, obs: Tensor, actions: Tensor) -> Tensor:
        """Q of every network: obs [B, S], actions [B, A] -> [n_critics, B], in units of return."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.looks_through_the_actor):
            features = self.extract_features(obs, self.features_extractor)  # type: ignore[arg-type]
        q: Tensor = self.q_networks(torch.cat([features, actions], dim=1))
        return q.squeeze(-1)


class StackedSACPolicy(SACPolicy):
    """SB3's SAC policy with stacked critics and fused optimisers; SB3's own `SAC.train` runs on it unchanged.

    Unless `net_arch` is given, two hidden layers of 128 units: an update costs half of one with SB3's 256.

    :param layer_norm: Normalise the hidden layers of the critics, which keeps many updates a step from
        overestimating (Hiraoka et al. 2022, 2110.02034).
    """

    critic: StackedCritic  # type: ignore[assignment]
    critic_target: StackedCritic  # type: ignore[assignment]
    critic_class: ClassVar[type[StackedCritic]] = StackedCritic

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        lr_schedule: Schedule,
        layer_norm: bool = False,
        **kwargs: Any,
    ) -> None:
        self.layer_norm = layer_norm
        if kwargs.get("net_arch") is None:
            kwargs["net_arch"] = [128, 128]
        if kwargs.get("optimizer_class", torch.optim.Adam) in (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD):
            kwargs["optimizer_kwargs"] = {"fused": True, **(kwargs.get("optimizer_kwargs") or {})}
        super().__init__(
            observation_space, action_space, lr_schedule, **{"features_extractor_class": Standardised} | kwargs
        )

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "layer_norm": self.layer_norm}

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> StackedCritic:  # type: ignore[override]
        plain = super().make_critic(features_extractor)
        arguments: dict[str, Any] = self.critic_kwargs
        return self.critic_class(plain, arguments["net_arch"], arguments["activation_fn"], self.layer_norm).to(
            self.device
        )


def entropy_weight(agent: SAC) -> Tensor:
    """What an agent's entropy is paid now [], whether it is learned or not."""
    return agent.ent_coef_tensor if agent.log_ent_coef is None else agent.log_ent_coef.detach().exp()


def weigh_entropy(agent: SAC, spread: float, before: float) -> None:
    """Where the spread of usual rewards is far from 1, or was `before`, move the entropy's weight as far as it moved.

    By learning the weight moves by its step size, a thousandth an update: among rewards of thousandths entropy would be
    all that counts for as long as most runs last, and nothing where the rewards came later.
    """
    if agent.log_ent_coef is not None:
        with torch.no_grad():
            agent.log_ent_coef += math.log(_far(spread) / _far(before))


def _far(spread: float) -> float:
    """How many times a spread is beyond the near ones; 1 where it is one of them."""
    return spread / min(max(spread, NEAR_SPREAD[0]), NEAR_SPREAD[1])


def sample_action(actor: Actor, obs: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """A reparameterised action [B, A] in [-1, 1] of the squashed Gaussian and its log-density [B]."""
    mean, log_std, _ = actor.get_action_dist_params(obs)
    if noise is None:
        noise = torch.randn_like(mean)
    action = torch.tanh(mean + log_std.exp() * noise)
    gaussian = -0.5 * noise.square() - log_std - LOG_SQRT_2PI
    return action, (gaussian - torch.log(1 - action.square() + 1e-6)).sum(dim=1)


class Losses(NamedTuple):
    """Of one update, on the device: `read` brings those of several to the host at once."""

    critic: Tensor
    actor: Tensor
    entropy: Tensor  # of the policy, nats
    alpha: Tensor  # the temperature that it was weighed with


def read(losses: Sequence[Losses]) -> dict[str, float]:
    """The losses of the last of some updates, in one copy from the device.

    Raises Diverged where those of any update are not finite, naming the part that was the first to be so.
    """
    rows = torch.stack([torch.stack(each) for each in losses]).tolist()
    for i, values in enumerate(rows):
        told = dict(zip(Losses._fields, values, strict=True))
        wrong = [name for name, value in told.items() if not math.isfinite(value)]
        if wrong:
            # entropy asks the actor alone; the critic's loss asks actor and temperature besides the critic
            part = "actor" if "entropy" in wrong else "temperature" if "alpha" in wrong else "critic"
            raise Diverged(part, f"in update {i + 1} of {len(rows)}, {wrong[0]} is {told[wrong[0]]}")
    return told


def tell(agent: SAC, losses: Sequence[Losses], updates: dict[str, int]) -> None:
    """Count in `updates`, and log the losses of the last, if any, under SB3's names; raises Diverged as `read` does."""
    if not losses:
        return
    for part in ("critic", "actor"):
        updates[part] += len(losses)
    agent.logger.record("train/n_updates", agent._n_updates, exclude="tensorboard")
    told = read(losses)
    for name, value in zip(("critic_loss", "actor_loss", "entropy", "ent_coef"), told.values(), strict=True):
        agent.logger.record(f"train/{name}", value)


def update(
    policy: StackedSACPolicy,
    batch: Transitions,
    *,
    alpha: Tensor,
    gamma: float,
) -> Losses:
    """One gradient step of critic and actor on a batch [B, .]; `alpha` [] weighs the entropy."""
    actor, critic = policy.actor, policy.critic
    action, log_prob = sample_action(actor, batch.obs)
    with torch.no_grad():
        next_action, next_log_prob = sample_action(actor, batch.next_obs)
        next_value = policy.critic_target.values(batch.next_obs, next_action).amin(dim=0) - alpha * next_log_prob
        target = batch.reward + (1 - batch.terminated) * gamma * next_value
    error = critic.values(batch.obs, batch.action) - target
    critic_loss = 0.5 * error.square().mean(dim=1).sum()
    step(critic.optimizer, critic_loss)
    actor_loss = (alpha * log_prob - critic.values(batch.obs, action).amin(dim=0)).mean()
    step(actor.optimizer, actor_loss)
    return Losses(critic_loss.detach(), actor_loss.detach(), -log_prob.detach().mean(), alpha.reshape(()))


def update_temperature(agent: SAC, entropy: Tensor) -> None:
    """Where it is learned, move log alpha against how far the policy's entropy [] is above its target (section 5)."""
    if agent.log_ent_coef is not None and agent.ent_coef_optimizer is not None:
        agent.log_ent_coef.grad = (entropy - float(agent.target_entropy)).reshape(agent.log_ent_coef.shape)
        agent.ent_coef_optimizer.step()


def update_target(critic: nn.Module, target: nn.Module, tau: float) -> None:
    """target <- (1 - tau) target + tau critic, all tensors in one call."""
    with torch.no_grad():
        torch._foreach_lerp_(list(target.parameters()), list(critic.parameters()), tau)


def step(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step down the gradient of `loss` [] by the optimiser's own parameters, and no others."""
    parameters = optimiser.param_groups[0]["params"]
    for parameter, grad in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        parameter.grad = grad
    optimiser.step()
