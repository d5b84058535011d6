"""A look at what learning gained is exact to the model and begins anew; what is not shown to be small counts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from dyna.improvement import STEPS, Gain, Improvement, imagined_returns
from dyna.plan_model import PlanModel
from dyna.types import Transitions
from dyna.world_model import EnsembleSettings, GaussianEnsemble

GAMMA = 0.95
REACH = sum(GAMMA**k for k in range(STEPS))


def paid(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return action[:, 0]


def never(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return torch.zeros(len(obs), dtype=torch.bool)


def late(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return torch.ones(len(obs), dtype=torch.bool)


def model(termination_fn: object = never) -> PlanModel:
    """Of a world that pays the first action."""
    small = EnsembleSettings(members=2, elites=2, width=8, depth=1, max_updates=5)
    made = GaussianEnsemble(2, 1, small, reward_fn=paid, termination_fn=termination_fn)  # type: ignore[arg-type]
    rng = torch.Generator().manual_seed(0)
    obs, action = torch.randn(60, 2, generator=rng), torch.rand(60, 1, generator=rng)
    ends = late(obs, action, obs).float() if termination_fn is late else torch.zeros(60)
    made.fit(Transitions(obs, action, action[:, 0], 0.9 * obs, ends), rng=rng)
    return PlanModel(made)


class Same(nn.Module):
    """Does the same everywhere."""

    def __init__(self, action: float) -> None:
        super().__init__()
        self.action = nn.Parameter(torch.tensor(action))


def act(network: nn.Module, obs: Tensor) -> Tensor:
    assert isinstance(network, Same)
    return network.action.expand(len(obs), 1)


def test_imagined_returns_are_those_of_the_world() -> None:
    obs = torch.randn(7, 2, generator=torch.Generator().manual_seed(1))
    policies = [lambda state, a=a: torch.full((len(state), 1), a) for a in (0.5, -0.25, 1.0)]
    returns = imagined_returns(model(), obs, policies, steps=STEPS, gamma=GAMMA)
    torch.testing.assert_close(returns, REACH * torch.tensor([[0.5], [-0.25], [1.0]]).expand(3, 7))
    once = imagined_returns(model(late), obs, policies, steps=STEPS, gamma=GAMMA)
    torch.testing.assert_close(once[:, 0], torch.tensor([0.5, -0.25, 1.0]))


@pytest.mark.parametrize("states", [1, 2, 7])  # two members have them in turns
def test_each_state_has_its_own_return(states: int) -> None:
    obs = torch.randn(states, 2, generator=torch.Generator().manual_seed(1))
    policies = [lambda state, column=column: state[:, column, None] for column in (0, 1)]
    returns = imagined_returns(model(late), obs, policies, steps=STEPS, gamma=GAMMA)
    torch.testing.assert_close(returns, obs.T)


def test_a_look_measures_from_the_last_one() -> None:
    network, obs = Same(0.1), torch.zeros(5, 2)
    improvement = Improvement(network, act)
    for action, gained in ((0.4, 0.3), (0.4, 0.0), (0.2, -0.2)):
        network.action.data.fill_(action)
        gain = improvement.look(model(), obs, GAMMA)
        assert gain.mean == pytest.approx(gained * REACH, abs=1e-4) and gain.matters == (gained != 0)


def test_it_goes_on_as_it_was() -> None:
    network = Same(0.1)
    ours, others = Improvement(network, act), Improvement(Same(0.9), act)
    others.load_state_dict(ours.state_dict())
    others.network = network
    network.action.data.fill_(0.3)
    assert ours.look(model(), torch.zeros(5, 2), GAMMA) == others.look(model(), torch.zeros(5, 2), GAMMA)


@pytest.mark.parametrize(
    ("mean", "error", "spread", "size", "matters"),
    [(1.0, 0.1, 10.0, 0.0, True), (1.0, 0.6, 10.0, 0.0, True), (0.1, 0.3, 10.0, 0.0, True)]  # the third may be chance
    + [(1.0, 0.1, 60.0, 0.0, False), (-1.0, 0.1, 60.0, 0.0, False), (-4.0, 0.1, 60.0, 0.0, True)]
    + [(-0.1, 0.04, 0.0, 10.0, False), (-0.1, 0.1, 0.0, 10.0, True), (0.0, 0.0, 0.0, 0.0, False)]
    + [
        (math.nan, 0.1, 1.0, 1.0, True),
        (0.0, math.nan, 1.0, 1.0, True),
        (math.inf, math.nan, math.nan, math.nan, True),
    ],
)
def test_what_is_not_shown_to_be_a_trifle_matters(
    mean: float, error: float, spread: float, size: float, matters: bool
) -> None:
    assert Gain(mean, error, spread, size).matters == matters
