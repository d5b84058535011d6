"""Rollouts with their gradient written by hand: the numbers of `value_expansion.expand` in half of the time.

A rollout through small networks is bound by the number of operations that are started. Here a step is the products and
activations of its networks and four compiled loops for all that lies between them, forwards as backwards, and the
gradients of the policy's weights are summed over all steps by one product a layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from stable_baselines3.sac.policies import Actor
from torch import Tensor, nn
from torch.nn import functional

from dyna.kernels import expansion as kernels
from dyna.networks import EnsembleLinear
from dyna.segments import collected, dealt
from dyna.types import Outcome
from dyna.units import Standardised
from dyna.value_expansion import Expansion, Mask, counted, shared
from dyna.world_model import EDGE, MAX_LOG_VAR, MIN_LOG_VAR, SPAN, GaussianEnsemble

silu_backward = torch.ops.aten.silu_backward


def can_unroll(model: GaussianEnsemble, actor: Actor) -> bool:
    """Whether the gradient is written for such networks, and none of another class: SiLU throughout, on a CPU."""
    hidden, kinds = list(actor.latent_pi), (nn.Linear, nn.SiLU)
    return (
        model.x_mean.device.type == "cpu"
        and type(actor) is Actor
        and type(actor.features_extractor) is Standardised
        and not actor.use_sde
        and all(isinstance(module, kinds[i % 2]) for i, module in enumerate(hidden))
    )


def unroll(
    model: GaussianEnsemble,
    actor: Actor,
    start: Tensor,
    horizon: int,
    *,
    mask: Mask = "soft",
    noise: Tensor | None = None,
    rng: torch.Generator,
) -> Expansion:
    """As `expand` with the policy of `actor`: the same draws, the same numbers, the same gradients."""
    by_action, by_state = [], []
    for t in range(horizon + 1):
        by_action.append(torch.randn(len(start), model.action_size, generator=rng))
        if noise is None and t < horizon:
            by_state.append(torch.randn(len(start), model.obs_size, generator=rng))
    drawn = torch.stack(by_action), torch.stack(by_state) if noise is None else noise
    obs, action, log_prob, reward, p_end = _Rollout.apply(
        model, actor.features_extractor, shared(start, model), noise is not None, *drawn, *actor.parameters()
    )  # type: ignore[no-untyped-call]
    if model.reward_fn is not None or model.termination_fn is not None:
        steps = (obs[:-1].flatten(0, 1), action[:-1].flatten(0, 1))
        outcome = model.known(*steps, Outcome(obs[1:].flatten(0, 1), reward.flatten(), p_end.flatten()))
        reward, p_end = outcome.reward.view_as(reward), outcome.terminated.view_as(p_end)
    return Expansion(obs, action, log_prob, reward, counted(p_end, mask))


class _Rollout(torch.autograd.Function):
    """Weights -> states [H+1, B, S], actions [H+1, B, A], log-densities [H+1, B], rewards and P(end) [H, B]."""

    @staticmethod
    def forward(
        ctx: Any,
        model: GaussianEnsemble,
        seen: Standardised,
        start: Tensor,
        led: bool,
        action_noise: Tensor,
        state_noise: Tensor,
        *weights: Tensor,
    ) -> tuple[Tensor, ...]:
        horizon, rows, size = state_noise.shape
        policy = _Policy(seen, weights, action_noise)
        obs = start.new_empty(horizon + 1, rows, size)
        obs[0] = start
        reward, end = (start.new_empty(horizon, rows) for _ in range(2))
        dream = _Dream(model, obs, policy.action, state_noise, reward, end, led)
        for t in range(horizon):
            policy.act(t, obs[t])
            dream.step(t)
        policy.act(horizon, obs[horizon])
        ctx.policy, ctx.dream = policy, dream
        # aliases: what autograd knows by its gradient must not be held by that gradient
        return tuple(part.detach() for part in (obs, policy.action, policy.log_prob, reward, end))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        by_obs, by_action, by_log_prob, by_reward, by_end = (grad.contiguous() for grad in grads)
        by_obs, by_action = by_obs.clone(), by_action.clone()
        horizon = len(by_reward)
        for t in range(horizon, -1, -1):
            if t < horizon:
                ctx.dream.back(t, by_obs, by_action, by_reward, by_end)
            ctx.policy.back(t, by_action, by_log_prob, by_obs)
        return None, None, None, None, None, None, *ctx.policy.gradients()


class _Policy:
    """The actor at every step, with what its gradient needs."""

    def __init__(self, seen: Standardised, weights: Sequence[Tensor], noise: Tensor) -> None:
        *hidden, mu, mu_bias, log_std, log_std_bias = (weight.detach() for weight in weights)
        self.seen, self.noise = seen, noise
        self.weights = [*hidden[::2], torch.cat([mu, log_std])]  # [out, in]
        self.biases = [*hidden[1::2], torch.cat([mu_bias, log_std_bias])]
        steps = noise.shape[:2]
        self.inputs = [noise.new_empty(*steps, weight.shape[1]) for weight in self.weights]
        self.outputs = [noise.new_empty(*steps, len(weight)) for weight in self.weights]  # before activation
        self.slopes = [torch.empty_like(output) for output in self.outputs]
        self.action, self.log_prob = torch.empty_like(noise), noise.new_empty(steps)
        self._arrays = self.outputs[-1].numpy(), noise.numpy(), self.action.numpy()

    def act(self, t: int, obs: Tensor) -> None:
        torch.sub(obs, self.seen.mean, out=self.inputs[0][t]).div_(self.seen.std)
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if layer:
                torch.ops.aten.silu.out(self.outputs[layer - 1][t], out=self.inputs[layer][t])
            torch.addmm(bias, self.inputs[layer][t], weight.mT, out=self.outputs[layer][t])
        kernels.draw_action(t, *self._arrays, self.log_prob.numpy())

    def back(self, t: int, by_action: Tensor, by_log_prob: Tensor, by_obs: Tensor) -> None:
        slope = self.slopes[-1]
        kernels.draw_action_back(t, *self._arrays, by_action.numpy(), by_log_prob.numpy(), slope.numpy())
        for layer in range(len(self.weights) - 1, 0, -1):
            by_input = torch.mm(self.slopes[layer][t], self.weights[layer])
            silu_backward.grad_input(by_input, self.outputs[layer - 1][t], grad_input=self.slopes[layer - 1][t])
        if t:
            by_obs[t].addcdiv_(torch.mm(self.slopes[0][t], self.weights[0]), self.seen.std)

    def gradients(self) -> list[Tensor]:
        """Of the weights and biases, in the order in which they came."""
        flat = [slope.flatten(0, 1) for slope in self.slopes]
        by_weight = [slope.mT @ x.flatten(0, 1) for slope, x in zip(flat, self.inputs, strict=True)]
        by_bias = [slope.sum(0) for slope in flat]
        pairs = [part for pair in zip(by_weight, by_bias, strict=True) for part in pair]
        heads = [part.chunk(2) for part in pairs[-2:]]
        return [*pairs[:-2], *(head[i] for i in range(2) for head in heads)]


class _Dream:
    """The world model at every step, with what its gradient needs: every member takes an equal part of the rows.

    Where rollouts are `led` along real steps, members take turns.
    """

    def __init__(
        self,
        model: GaussianEnsemble,
        obs: Tensor,
        action: Tensor,
        noise: Tensor,
        reward: Tensor,
        end: Tensor,
        led: bool,
    ) -> None:
        self.units, self.led = units_of(model), led
        self.members, rows = model.settings.members, obs.shape[1]
        self.state, self.outcome = _Layers(model.state_network.layers), _Layers(model.outcome_network.layers)
        self.x, self.by_mean = obs.new_empty(rows, model.obs_size + model.action_size), torch.empty_like(obs[0])
        self.z = obs.new_empty(rows, model.obs_size * 4 + model.action_size)
        self.state_kept: list[list[Tensor]] = []
        self.outcome_kept: list[list[Tensor]] = []
        self.by_head = obs.new_empty(rows, 3)
        self.obs, self.action, self.noise = obs.numpy(), action.numpy(), noise.numpy()
        self.reward, self.end = reward.numpy(), end.numpy()

    def step(self, t: int) -> None:
        kernels.enter(t, self.obs, self.action, self.units, self.x.numpy())
        head = self._forward(self.state, self.x, self.state_kept, t)
        kernels.arrive(t, head.numpy(), self.noise, self.x.numpy(), self.units, self.led, self.obs, self.z.numpy())
        head = self._forward(self.outcome, self.z, self.outcome_kept, t)
        kernels.conclude(t, head.numpy(), self.units, self.reward, self.end)

    def back(self, t: int, by_obs: Tensor, by_action: Tensor, by_reward: Tensor, by_end: Tensor) -> None:
        obs = by_obs.numpy()
        kernels.conclude_back(t, by_reward.numpy(), by_end.numpy(), self.end, self.units, self.by_head.numpy())
        by_z = self._back(self.outcome, self.by_head, self.outcome_kept[t], t).numpy()
        kernels.arrive_back(t, by_z, self.units, obs, self.by_mean.numpy())
        by_x = self._back(self.state, self.by_mean, self.state_kept[t], t).numpy()
        kernels.enter_back(t, by_x, by_z, self.units, obs, by_action.numpy())

    def _forward(self, layers: _Layers, rows: Tensor, kept: list[list[Tensor]], t: int) -> Tensor:
        turn = t if self.led else 0
        head, before = layers.forward(dealt(rows, self.members, turn))
        kept.append(before)
        return collected(head, turn)

    def _back(self, layers: _Layers, slope: Tensor, kept: list[Tensor], t: int) -> Tensor:
        turn = t if self.led else 0
        return collected(layers.back(dealt(slope, self.members, turn), kept), turn)


class _Layers:
    """Stacked layers with SiLU between them, and the gradient of their output by their input."""

    def __init__(self, layers: Iterable[EnsembleLinear]) -> None:
        self.layers = [(layer.bias.detach(), layer.weight.detach()) for layer in layers]

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """x [E, b, in] -> [E, b, out], and what was before each activation."""
        kept = []
        for bias, weight in self.layers[:-1]:
            kept.append(torch.baddbmm(bias, x, weight))
            x = functional.silu(kept[-1])
        bias, weight = self.layers[-1]
        return torch.baddbmm(bias, x, weight), kept

    def back(self, slope: Tensor, kept: list[Tensor]) -> Tensor:
        """The gradient [E, b, in] that belongs to the one [E, b, k] of the first k outputs."""
        weights = [weight for _, weight in self.layers]
        slope = torch.bmm(slope, weights[-1][..., : slope.shape[-1]].mT)
        for weight, before in zip(reversed(weights[:-1]), reversed(kept), strict=True):
            slope = torch.bmm(silu_backward(slope, before), weight.mT)
        return slope


def units_of(model: GaussianEnsemble) -> kernels.Units:
    """How the model scales what it sees and says."""
    return kernels.Units(
        x_mean=model.x_mean.numpy(),
        x_std=model.x_std.numpy(),
        y_mean=model.y_mean.numpy(),
        y_std=model.y_std.numpy(),
        low=model.alive_low.numpy(),
        high=model.alive_high.numpy(),
        edge=(EDGE * model.x_std[: model.obs_size]).numpy(),
        edge_mean=model.edge_mean.numpy(),
        span=np.float32(SPAN),
        least=np.float32(math.exp(MIN_LOG_VAR)),
        most=np.float32(math.exp(MAX_LOG_VAR)),
        surplus=np.float32(model.log_oversampling),
        carried=(model.delta | ~model.seen).numpy(),
    )
