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
from dyna.segments import dealt
from dyna.types import Act

STEPS = 100
"""Of an imagined episode."""
SURE = 2.0
"""Standard errors by which a gain or a loss may be larger than it looks."""
OF_SPREAD, OF_SIZE = 0.05, 0.02
"""Shares of the spread of returns, over states and members, and of their size, up to which a change is a trifle."""


class Gain(NamedTuple):
    """Of imagined return, over B start states."""

    mean: float
    error: float  # standard error of the mean
    spread: float  # interquartile range of the new policy's returns
    size: float  # their median, without its sign

    @property
    def matters(self) -> bool:
        """Whether it may be more than a trifle, for all that is known: what is not a number may be.

        That a change cannot be told from chance does not show that it is small: a gate that closes for it closes where
        returns differ most, which is where policies are bad. So smallness must be shown (a test of equivalence:
        Schuirmann 1987). A loss matters as a gain does: where updates still move what a policy earns, learning is not
        over.
        """
        return not abs(self.mean) + SURE * self.error <= max(OF_SPREAD * self.spread, OF_SIZE * self.size)


class Improvement:
    """Remembers a policy's network as it was, and asks what it has gained.

    :param network: The network, which goes on learning.
    :param act: What it does: (network, observations [B, S]) -> actions [B, A] in [-1, 1].
    """

    def __init__(self, network: nn.Module, act: Callable[[nn.Module, Tensor], Tensor]) -> None:
        self.network, self.act = network, act
        self.before = copy.deepcopy(network)

    def begin(self) -> None:
        """What is gained is measured from here."""
        self.before.load_state_dict(self.network.state_dict())

    def look(self, model: PlanModel, obs: Tensor, gamma: float) -> Gain:
        """What was gained since the last look in states [B, S]; the next is measured from here."""
        policies = [lambda state, net=net: self.act(net, state) for net in (self.network, self.before)]
        new, old = imagined_returns(model, obs, policies, steps=STEPS, gamma=gamma)
        self.begin()
        gain = new - old
        low, middle, high = new.quantile(torch.tensor([0.25, 0.5, 0.75]).to(new)).tolist()
        return Gain(float(gain.mean()), float(gain.std() / len(gain) ** 0.5), high - low, abs(middle))

    def state_dict(self) -> dict[str, Any]:
        """The network as it was at the last look."""
        return self.before.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.before.load_state_dict(state)


@torch.no_grad()
def imagined_returns(model: PlanModel, obs: Tensor, policies: Sequence[Act], *, steps: int, gamma: float) -> Tensor:
    """Returns [P, B] of P policies from start states [B, S].

    The states are dealt to the members, each of which follows its own mean: one state's returns are one member's.
    """
    members, many, rows = model.members, len(policies), len(obs)
    turns = torch.arange(rows + -rows % members, device=obs.device) % rows  # some twice, so that all have as many
    state = dealt(obs[turns], members).unsqueeze(1).expand(-1, many, -1, -1)  # [K, P, B/K, S]
    rewards, ends = [], []
    for _ in range(steps):
        acts = [act(part.flatten(0, 1)) for act, part in zip(policies, state.unbind(1), strict=True)]
        action = torch.stack([each.view(members, -1, each.shape[1]) for each in acts], dim=1)
        step = state.flatten(1, 2), action.flatten(1, 2)
        arrived = model.next_mean(*step)
        reward, end = model.outcome(*step, arrived)
        rewards.append(reward)
        ends.append(end)
        state = arrived.view_as(state)
    returns = discounted_return(torch.stack(rewards), torch.stack(ends), 0.0, gamma)  # [K, P B/K]
    return returns.view(members, many, -1).transpose(0, 1).flatten(1)[:, :rows]
