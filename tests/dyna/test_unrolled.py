"""Laws of rollouts whose gradient is written by hand: they are those of `expand`, which autograd differentiates."""

import math
from typing import Any

import pytest
import torch
from gymnasium import spaces
from stable_baselines3.sac.policies import Actor
from torch import Tensor, nn

from dyna import actor_critic
from dyna.bounded import BoundedSACPolicy
from dyna.units import Standardised
from dyna.unrolled import can_unroll, unroll
from dyna.value_expansion import Expansion, Mask, expand
from dyna.world_model import EnsembleSettings, GaussianEnsemble

OBS, ACTION, ROWS, HORIZON = 4, 2, 12, 4
CASES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "next states": {"target": "next_obs"},
    "a known reward": {"reward_fn": lambda obs, action, next_obs: (obs * next_obs).sum(1) - action.square().sum(1)},
    "a known end": {"termination_fn": lambda obs, action, next_obs: next_obs[:, 0] > 0.5},
    "one member, one layer": {"members": 1, "elites": 1, "depth": 1},
    "two numbers left out": {"out": 2},
    "a deep policy": {"net_arch": [7, 6, 5]},
    "a policy at its bounds": {"bold": True},
}


def world(
    target: str = "delta", members: int = 3, elites: int = 2, depth: int = 2, out: int = 0, **known: Any
) -> GaussianEnsemble:
    """An ensemble whose units are not 1, whose states are about at the edge of what was alive."""
    settings = EnsembleSettings(members=members, elites=elites, width=8, depth=depth, target=target)  # type: ignore[arg-type]
    model = GaussianEnsemble(OBS, ACTION, settings, **known)
    with torch.no_grad():
        for buffer in (model.x_mean, model.y_mean):
            buffer.normal_()
        for buffer in (model.x_std, model.y_std):
            buffer.uniform_(0.5, 2)
        model.y_std[:-1].mul_(0.3)
        model.alive_low.fill_(-1.0)
        model.alive_high[:3] = 1.0  # the last dimension has no edge
        model.edge_mean.normal_()
        model.log_oversampling.fill_(0.7)
    model.see(torch.arange(OBS) >= out)
    return model


def policy(net_arch: tuple[int, ...] = (8, 8), bold: bool = False, **kwargs: Any) -> Actor:
    space, actions = spaces.Box(-math.inf, math.inf, (OBS,)), spaces.Box(-1.0, 1.0, (ACTION,))
    made = BoundedSACPolicy(space, actions, lambda _: 1e-3, net_arch=list(net_arch), **kwargs)
    made.standardise(torch.randn(OBS), torch.rand(OBS) + 0.5)
    if bold:  # deviations beyond what is allowed on both sides, actions that are all but 1
        with torch.no_grad():
            made.actor.log_std.bias.copy_(torch.tensor([-25.0, 3.0]))  # type: ignore[operator]
            made.actor.mu.weight.mul_(20.0)  # type: ignore[operator]
    return made.actor


def both(model: GaussianEnsemble, actor: Actor, mask: Mask, led: bool = False) -> tuple[Expansion, Expansion]:
    start, noise = torch.randn(ROWS, OBS), torch.randn(HORIZON, ROWS, OBS) if led else None
    rngs = [torch.Generator().manual_seed(7) for _ in range(2)]

    def act(obs: Tensor) -> tuple[Tensor, Tensor]:
        return actor_critic.sample_action(actor, obs, torch.randn(ROWS, ACTION, generator=rngs[0]))

    found = expand(model, act, start, HORIZON, mask=mask, noise=noise, rng=rngs[0])
    written = unroll(model, actor, start, HORIZON, mask=mask, noise=noise, rng=rngs[1])
    assert torch.equal(rngs[0].get_state(), rngs[1].get_state())
    return found, written


@pytest.mark.parametrize("led", [False, True])
@pytest.mark.parametrize("mask", ["soft", "hard", "differentiable"])
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_autograd(case: str, mask: Mask, led: bool) -> None:
    torch.manual_seed(len(case))
    given = dict(CASES[case])
    actor = policy(**{key: given.pop(key) for key in ("net_arch", "bold") if key in given})
    expected, found = both(world(**given), actor, mask, led)
    for name, one, other in zip(expected._fields, expected, found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
    weights = [torch.randn_like(part) for part in expected]  # so that every part has a gradient of its own
    slopes = []
    for expansion in (expected, found):
        sums = [(part * weight).sum() for part, weight in zip(expansion, weights, strict=True) if part.requires_grad]
        parameters = [*actor.latent_pi.parameters(), *actor.mu.parameters(), *actor.log_std.parameters()]
        slopes.append(torch.cat([grad.flatten() for grad in torch.autograd.grad(torch.stack(sums).sum(), parameters)]))
    assert float(slopes[0].norm()) > 0
    assert float((slopes[1] - slopes[0]).norm()) < 1e-4 * float(slopes[0].norm())


@pytest.mark.parametrize("mask", ["soft", "hard", "differentiable"])
def test_only_a_differentiable_end_has_a_slope(mask: Mask) -> None:
    assert both(world(), policy(), mask)[1].end.requires_grad == (mask == "differentiable")


def test_neither_the_model_nor_the_start_is_moved() -> None:
    model, start = world(), torch.randn(ROWS, OBS, requires_grad=True)
    unroll(model, policy(), start, HORIZON, rng=torch.Generator()).obs.sum().backward()
    assert start.grad is None
    assert all(parameter.grad is None for parameter in model.parameters())


def test_rows_that_the_members_cannot_share_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of the 3 members, got 7"):
        unroll(world(), policy(), torch.zeros(7, OBS), 1, rng=torch.Generator())


def test_it_is_known_for_which_policies_the_gradient_is_written() -> None:
    model = world()
    assert can_unroll(model, policy())
    assert not can_unroll(model, policy(activation_fn=nn.ReLU))
    assert not can_unroll(model, policy(use_sde=True))


class Blind(Standardised):
    """Sees nothing."""

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(observations)


def test_a_policy_that_sees_in_its_own_way_is_not_unrolled_in_ours() -> None:
    assert not can_unroll(world(), policy(features_extractor_class=Blind))
    other = policy()
    other.__class__ = type("OtherActor", (type(other),), {})
    assert not can_unroll(world(), other)
