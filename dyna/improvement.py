"""What learning is worth: how much more a policy earns in imagination than it did some updates before.

The old policy and the new one begin in the same states and go through the same model without noise, so that the
difference of their returns is exact to what the model knows, and says within a second of work what returns in the
environment tell after many episodes. Neither critics nor the world are asked.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dyna.plan_model import PlanModel
from dyna.returns import discounted_return
from dyna.types import Act

STEPS = 100
"""Of an imagined episode."""
SURE = 2.0
"""Standard errors from zero at which a gain or a loss is believed."""
MATTERS = 0.02
"""Share of the spread of returns between start states from which a gain or a loss is no trifle."""


class Gain(NamedTuple):
    """Of imagined return, over B start states."""

    mean: float
    error: float  # standard error of the mean
    spread: float  # interquartile range of the new policy's returns

    @property
    def matters(self) -> bool:
        """Whether it is no chance and no trifle; a return that is not a number is none.

        A loss matters as a gain does: where updates still move what a policy earns, learning is not over.
        """
        return abs(self.mean) > max(SURE * self.error, MATTERS * self.spread)


class Improvement:
    """Remembers a policy's network as it was, and asks what it has gained.

    :param network: The network, which goes on learning.
    :param act: What it does: (network, observations [B, S]) -> actions [B, A] in [-1, 1].
    """

    def __init__(self, network: nn.Module, act: Callable[[nn.Module, Tensor], Tensor]) -> None:
        self.network, self.act = network, act
        self.before = copy.deepcopy(network)

    def look(self, model: PlanModel, obs: Tensor, gamma: float) -> Gain:
        """What was gained since the last look in states [B, S]; the next is measured from here."""
        policies = [lambda state, net=net: self.act(net, state) for net in (self.network, self.before)]
        new, old = imagined_returns(model, obs, policies, steps=STEPS, gamma=gamma)
        self.before.load_state_dict(self.network.state_dict())
        gain = new - old
        low, high = new.quantile(0.25), new.quantile(0.75)
        return Gain(float(gain.mean()), float(gain.std() / len(gain) ** 0.5), float(high - low))

    def state_dict(self) -> dict[str, Any]:
        """The network as it was at the last look."""
        return self.before.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.before.load_state_dict(state)


@torch.no_grad()
def imagined_returns(model: PlanModel, obs: Tensor, policies: Sequence[Act], *, steps: int, gamma: float) -> Tensor:
    """Returns [P, B] of P policies from start states [B, S]; mean of members, each of which follows its own mean."""
    members, many = model.members, len(policies)
    state = obs.repeat(many, 1).expand(members, -1, -1)  # [K, P B, S]
    rewards, ends = [], []
    for _ in range(steps):
        own = state.view(members, many, *obs.shape).unbind(1)
        acts = [act(part.flatten(0, 1)).view(members, len(obs), -1) for act, part in zip(policies, own, strict=True)]
        action = torch.cat(acts, dim=1)
        arrived = model.next_mean(state, action)
        reward, end = model.outcome(state, action, arrived)
        rewards.append(reward)
        ends.append(end)
        state = arrived
    returns = discounted_return(torch.stack(rewards), torch.stack(ends), 0.0, gamma).mean(0)
    return returns.view(many, -1)
