"""A soft actor-critic policy whose values know their range, for critics that are trained on what a model imagines."""

from __future__ import annotations

from typing import Any, cast

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.sac.policies import Actor
from torch import Tensor, nn

from dyna.actor_critic import StackedCritic, StackedSACPolicy
from dyna.errors import UserError
from dyna.units import Standardised, usual_rewards


class BoundedCritic(StackedCritic):
    """Stacked critics whose output is `centre + scale * network`, with a last layer that begins at zero."""

    low: Tensor  # [] below which no return lies
    high: Tensor  # [] above which no return lies
    centre: Tensor  # []
    scale: Tensor  # []

    def __init__(
        self, plain: ContinuousCritic, net_arch: list[int], activation_fn: type[nn.Module], layer_norm: bool = False
    ) -> None:
        super().__init__(plain, net_arch, activation_fn, layer_norm)
        for name, value in {"low": -torch.inf, "high": torch.inf, "centre": 0.0, "scale": 1.0}.items():
            self.register_buffer(name, torch.tensor(value))
        for parameter in list(self.q_networks.layers)[-1].parameters():
            nn.init.zeros_(parameter)

    def values(self, obs: Tensor, actions: Tensor) -> Tensor:
        """Q of every network: obs [B, S], actions [B, A] -> [n_critics, B], in units of return."""
        return self.centre + self.scale * super().values(obs, actions)

    @torch.no_grad()
    def set_range(self, low: float, high: float, *, centre: float, scale: float) -> None:
        """Bound the values; what the networks say stays the same (Pop-Art: van Hasselt et al. 2016, 1602.07714)."""
        last = list(self.q_networks.layers)[-1]
        if torch.isfinite(self.low):
            last.weight.mul_(self.scale / scale)
            last.bias.mul_(self.scale).add_(self.centre - centre).div_(scale)
        for buffer, value in ((self.low, low), (self.high, high), (self.centre, centre), (self.scale, scale)):
            buffer.fill_(value)


def value_range(reward: Tensor, gamma: float, *, entropy: float, novelty: float) -> dict[str, float]:
    """Where returns can lie, and where critics begin: rewards [B], what entropy adds to each, and novelty in spreads.

    They begin in the middle of what usual rewards would bring for ever. With lower values an agent falls forward for a
    quick reward, with higher ones it only keeps alive. They never begin below 0, what an end is worth: it would be a
    relief from the start.
    """
    (centre, spread), horizon = usual_rewards(reward), 1 / (1 - gamma)
    return {
        "low": min(0.0, float(reward.min()) - entropy) * horizon,
        "high": max(0.0, float(reward.max()) + entropy + novelty * spread) * horizon,
        "centre": max(centre, 0.0) * horizon,
        "scale": spread * horizon,
    }


WINDOW, MOST_AVERAGED = 8, 2_000  # the average is over about the last ninth of all updates, and so many at most


class BoundedSACPolicy(StackedSACPolicy):
    """Bounded critics with normalised hidden layers, five of them, and standardised observations.

    Once a learner calls `average`, a deterministic prediction is that of `averaged`, an actor with the running average
    of the weights: a policy that is moved by every update falls now and then where its average does not (Polyak &
    Juditsky 1992). Unless given: `net_arch` [96, 96], SiLU activations. Raises UserError where the actor has no hidden
    layer.
    """

    averaged: Actor
    averaging: Tensor  # [] whether it has begun
    critic: BoundedCritic
    critic_target: BoundedCritic
    critic_class = BoundedCritic

    def __init__(
        self, observation_space: spaces.Space[Any], action_space: spaces.Box, lr_schedule: Schedule, **kwargs: Any
    ) -> None:
        defaults: dict[str, Any] = {
            "net_arch": [96, 96],
            "activation_fn": nn.SiLU,
            "n_critics": 5,
            "layer_norm": True,
            "features_extractor_class": Standardised,
        }
        seen = (defaults | kwargs)["features_extractor_class"]
        if not issubclass(seen, Standardised):
            raise UserError(
                f"features_extractor_class must be a Standardised, which sees in the units of the world model, got "
                f"{seen.__name__}: leave it out"
            )
        super().__init__(observation_space, action_space, lr_schedule, **(defaults | kwargs))
        if not len(self.actor.latent_pi):
            raise UserError(f"net_arch must have a hidden layer of the actor, got {self.net_arch}: try [96, 96]")
        with torch.random.fork_rng():  # its first weights are the actor's
            self.averaged = self.make_actor().requires_grad_(False)
        self.averaged.load_state_dict(self.actor.state_dict())
        self.register_buffer("averaging", torch.tensor(False, device=self.device))

    @property
    def player(self) -> Actor:
        """The actor that plays: the average, once there is one."""
        return self.averaged if self.averaging else self.actor

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        return cast(Tensor, (self.player if deterministic else self.actor)(observation, deterministic))

    @torch.no_grad()
    def average(self, update: int) -> None:
        """Take the actor's weights into the average after the update of that number, from 1.

        Its share falls as (w + 1) / (update + w), which is polynomial-decay averaging (Shamir & Zhang 2013, 1212.1824,
        section 4), and then no further.
        """
        self.averaging.fill_(True)
        share = 1 / self.averaged_over(update)
        torch._foreach_lerp_(list(self.averaged.parameters()), list(self.actor.parameters()), share)

    @staticmethod
    def averaged_over(update: int) -> float:
        """About how many updates the average is of, after the update of that number, from 1."""
        return min((update + WINDOW) / (WINDOW + 1), MOST_AVERAGED)

    @torch.no_grad()
    def standardise(self, mean: Tensor, std: Tensor) -> None:
        """See observations in these units from now on, mean [S] and std [S]; of an infinite std, nothing is seen.

        But for the first time, and for what is seen anew or no more, what the networks answer stays the same: their
        first layers take up the change.
        """
        eyes = []
        for owner, weight, bias in (
            *((actor, *_first_linear(actor)) for actor in (self.actor, self.averaged)),
            *((critic, *_first(critic)) for critic in (self.critic, self.critic_target)),
        ):
            seen = cast(Standardised, owner.features_extractor)
            eyes.append(seen)
            if seen.known:
                kept, both = weight[:, : len(mean)], std.isfinite() & seen.std.isfinite()  # [E, S, out]
                bias += torch.where(both, (mean - seen.mean) / seen.std, 0.0)[None] @ kept
                kept *= torch.where(both, std / seen.std, 1.0)[:, None]
        for seen in eyes:  # when all have taken it up: two may share theirs
            seen.mean.copy_(mean)
            seen.std.copy_(std)
            seen.known.fill_(True)


def _first(critic: BoundedCritic) -> tuple[Tensor, Tensor]:
    """Weight [E, S+A, out] and bias [E, 1, out] of a critic's first layer."""
    layer = next(iter(critic.q_networks.layers))
    return layer.weight, layer.bias


def _first_linear(actor: Actor) -> tuple[Tensor, Tensor]:
    """Weight [1, S, out] and bias [1, 1, out] of an actor's first layer."""
    layer = cast(nn.Linear, actor.latent_pi[0])
    return layer.weight.mT[None], layer.bias[None, None]
