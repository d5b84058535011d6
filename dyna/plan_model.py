"""A world model as planners ask it: means for many rows, fast, without what a plan does not need."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dyna.networks import EnsembleMLP, Layer
from dyna.types import Outcome
from dyna.world_model import GaussianEnsemble, bounded

LANES = 16
"""Outputs come in multiples of this: a float32 product takes four times as long with 11 columns as with 16 (MKL)."""


class PlanModel:
    """The members of an ensemble that plans believe, as they are now: make a new one after each fit.

    A row belongs to one member, in all arguments [K, R, .]. Numbers are those of `GaussianEnsemble.predict`. Reward and
    termination cost nothing where the model has exact functions for both.

    :param members: Indices [K]; the model's elites where none are given.
    :param dtype: Of weights and activations. With bfloat16, whose numbers have three digits, plans take about half the
        time on processors that multiply them (AVX512-BF16, AMX), and many times as long on others. Inputs, outputs and
        sums along a plan stay as they are.
    """

    def __init__(
        self, model: GaussianEnsemble, members: Tensor | None = None, dtype: torch.dtype = torch.float32
    ) -> None:
        chosen = model.elites if members is None else members
        self.model, self.members, self.dtype = model, len(chosen), dtype
        size = model.obs_size
        self._delta = bool(model.delta)  # asked once: on a GPU, each question waits
        columns = torch.arange(2 * size, device=chosen.device)
        self._means = _chosen(model.state_network, chosen, columns[:size], dtype)
        self._moments = _chosen(model.state_network, chosen, columns, dtype)
        self._outcome = _chosen(model.outcome_network, chosen, columns.new_tensor([0, 2]), dtype)

    @property
    def knows_outcome(self) -> bool:
        """Whether the model has exact functions for reward and end."""
        return self.model.reward_fn is not None and self.model.termination_fn is not None

    def next_mean(self, obs: Tensor, action: Tensor) -> Tensor:
        """Mean next observation: [K, R, S], [K, R, A] -> [K, R, S], env units."""
        x = self.model.normalise_input(obs, action)
        return self._arrived(obs, self._through(self.model.state_network, self._means, x, obs.shape[-1]))

    def next_moments(self, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the next observation: [K, R, S], [K, R, A] -> two of [K, R, S]."""
        x = self.model.normalise_input(obs, action)
        out = self._through(self.model.state_network, self._moments, x, 2 * obs.shape[-1])
        mean, log_var = out.chunk(2, dim=-1)
        return self._arrived(obs, mean), (0.5 * bounded(log_var)).exp() * self.model.y_std[:-1]

    def outcome(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> tuple[Tensor, Tensor]:
        """Reward and probability of the end, [K, R] each, of steps from [K, R, S] with [K, R, A] to [K, R, S]."""
        shape = obs.shape[:2]
        reward = ends = obs.new_zeros(shape)
        if not self.knows_outcome:
            reward, ends = self._learned(obs, action, next_obs)
        obs, action, next_obs = (part.flatten(0, 1) for part in (obs, action, next_obs))
        known = self.model.known(obs, action, Outcome(next_obs, reward.flatten(), ends.flatten()))
        return known.reward.view(shape), known.terminated.view(shape)

    def _learned(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> tuple[Tensor, Tensor]:
        """As `outcome`, from the outcome networks alone."""
        model = self.model
        features = model.outcome_input(model.normalise_input(obs, action), next_obs)
        mean, logit = self._through(model.outcome_network, self._outcome, features, 2).unbind(dim=-1)
        return mean * model.y_std[-1] + model.y_mean[-1], torch.sigmoid(logit - model.log_oversampling)

    def _arrived(self, obs: Tensor, mean: Tensor) -> Tensor:
        next_obs = torch.addcmul(self.model.y_mean[:-1], mean, self.model.y_std[:-1])
        return next_obs + obs if self._delta else torch.where(self.model.seen, next_obs, obs)

    def _through(self, network: EnsembleMLP, layers: list[Layer], x: Tensor, outputs: int) -> Tensor:
        out = network.through(layers, x.to(self.dtype))
        return out[..., :outputs].to(x.dtype)


def _chosen(network: EnsembleMLP, members: Tensor, columns: Tensor, dtype: torch.dtype) -> list[Layer]:
    """Layers of some members and some outputs of a network, filled up to LANES by zeros, without gradient."""
    layers = [(layer.bias.detach()[members], layer.weight.detach()[members]) for layer in network.layers]
    padding = (0, -len(columns) % LANES)
    bias, weight = layers[-1]
    layers[-1] = F.pad(bias[..., columns], padding), F.pad(weight[..., columns], padding)
    return [(bias.to(dtype), weight.to(dtype)) for bias, weight in layers]
