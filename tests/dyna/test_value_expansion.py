"""Laws of differentiable rollouts, on ensembles whose reward and end are known."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dyna.value_expansion import Expansion, Mask, Valued, expand
from dyna.world_model import EnsembleSettings, GaussianEnsemble

SMALL = EnsembleSettings(members=3, elites=2, width=8, depth=1, target="delta")


def ones(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return torch.ones(len(obs))


def model(reward: Callable[..., Tensor] | None = None, end: Callable[..., Tensor] | None = None) -> GaussianEnsemble:
    torch.manual_seed(0)
    return GaussianEnsemble(2, 1, SMALL, reward_fn=reward, termination_fn=end)


def still(obs: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros(len(obs), 1), torch.zeros(len(obs))


def rolled(world: GaussianEnsemble, horizon: int = 3) -> Expansion:
    return expand(world, still, torch.randn(6, 2), horizon, rng=torch.Generator().manual_seed(1))


def test_values_are_discounted_returns_that_end_in_the_last_value() -> None:
    expansion = rolled(model(ones, lambda *_: torch.zeros(6)))
    found = expansion.action_values(torch.full((4, 6), 10.0), alpha=torch.tensor(0.0), gamma=0.5, return_lambda=1.0)
    expected = torch.tensor([1 + 0.5 + 0.25 + 0.125 * 10, 1 + 0.5 + 0.25 * 10, 1 + 0.5 * 10, 10.0])
    torch.testing.assert_close(found, expected[:, None].expand(4, 6))


def test_nothing_counts_after_the_end() -> None:
    expansion = rolled(model(ones, ones))
    found = expansion.action_values(torch.full((4, 6), 10.0), alpha=torch.tensor(0.0), gamma=0.5, return_lambda=1.0)
    torch.testing.assert_close(found[:-1], torch.ones(3, 6))


def test_what_the_model_says_after_a_certain_end_is_not_heard() -> None:
    expansion = rolled(model(ones, ones))
    expansion.reward[1:] = torch.inf
    found = expansion.action_values(
        torch.full((4, 6), torch.nan), alpha=torch.tensor(0.0), gamma=0.5, return_lambda=0.9
    )
    torch.testing.assert_close(found[0], torch.ones(6))


def test_the_end_counts_by_its_probability() -> None:
    expansion = rolled(model(ones, lambda *_: torch.full((6,), 0.25)), horizon=2)
    torch.testing.assert_close(expansion.alive[:, 0], torch.tensor([1.0, 0.75, 0.5625]))


def test_a_hard_end_is_likely_or_none_at_all() -> None:
    p = torch.tensor([0.25, 0.75] * 3)
    world = model(ones, lambda *_: p)
    expansion = expand(world, still, torch.randn(6, 2), 2, mask="hard", rng=torch.Generator().manual_seed(1))
    torch.testing.assert_close(expansion.alive[:, :2], torch.tensor([[1.0, 1.0], [1.0, 0.0], [1.0, 0.0]]))


@pytest.mark.parametrize("mask", ["soft", "hard", "differentiable"])
def test_only_a_differentiable_end_has_a_slope(mask: Mask) -> None:
    world = model(ones)
    gain = torch.ones((), requires_grad=True)

    def act(obs: Tensor) -> tuple[Tensor, Tensor]:
        return torch.tanh(gain * obs[:, :1]), torch.zeros(len(obs))

    expansion = expand(world, act, torch.randn(6, 2), 2, mask=mask, rng=torch.Generator().manual_seed(1))
    assert expansion.end.requires_grad == (mask == "differentiable")
    assert expansion.obs.requires_grad


def test_without_its_steps_an_expansion_is_the_value_of_the_first_action() -> None:
    whole = rolled(model(ones, ones))
    found = whole.at_once().action_values(
        torch.arange(6.0)[None], alpha=torch.tensor(0.0), gamma=0.5, return_lambda=1.0
    )
    torch.testing.assert_close(found, torch.arange(6.0)[None])
    assert torch.equal(whole.at_once().obs[-1], whole.obs[0])


def test_the_value_of_the_first_action_is_the_first_of_all_values() -> None:
    expansion = rolled(model(ones, lambda *_: torch.full((6,), 0.25)))._replace(log_prob=torch.randn(4, 6))
    value, terms = torch.randn(4, 6), {"alpha": torch.tensor(0.3), "gamma": 0.9}
    found = expansion.action_values(value, **terms, return_lambda=1.0)[0]
    said = torch.cat([value[:-1].flatten(), value[-1]])  # every step may be the last
    torch.testing.assert_close(expansion.first_value(lambda obs, action: said, **terms), found)


@pytest.mark.parametrize("differentiable", [False, True])
@pytest.mark.parametrize("end", [0.0, 0.004, 0.5, 1.0])
def test_a_step_that_ends_the_task_has_the_slope_of_what_critics_say(end: float, differentiable: bool) -> None:
    """Nothing else says how to avoid the end, unless this is differentiable itself."""
    action = torch.zeros(3, 6, 1, requires_grad=True)
    ends = torch.tensor([[0.0], [end]]).expand(2, 6).clone().requires_grad_(differentiable)
    expansion = Expansion(torch.zeros(3, 6, 1), action, torch.zeros(3, 6), 5.0 * action[:2, :, 0], ends)
    value = expansion.first_value(lambda obs, action: 7.0 * action[:, 0] + 100.0, alpha=torch.tensor(0.0), gamma=0.5)
    torch.testing.assert_close(value, torch.full((6,), 0.25 * (1.0 - end) * 100.0))
    (slope,) = torch.autograd.grad(value.sum(), action)
    asked = end if end > 0.01 and not differentiable else 0.0
    expected = torch.tensor([5.0, 0.5 * (5.0 + asked * 2.0), 0.25 * (1.0 - end) * 7.0])
    torch.testing.assert_close(slope[:, 0, 0], expected)


def test_the_trace_weighs_returns_of_all_lengths() -> None:
    expansion = rolled(model(ones, lambda *_: torch.full((6,), 0.25)))._replace(log_prob=torch.randn(4, 6))
    value, terms = torch.randn(4, 6), {"alpha": torch.tensor(0.3), "gamma": 0.9}
    returns = [
        Expansion(*(part[: n + 1] for part in expansion[:3]), *(part[:n] for part in expansion[3:])) for n in (1, 2, 3)
    ]
    after = [part.action_values(value[: n + 1], **terms, return_lambda=1.0)[0] for n, part in enumerate(returns, 1)]
    found = expansion.action_values(value, **terms, return_lambda=0.6)[0]
    torch.testing.assert_close(found, 0.4 * after[0] + 0.6 * 0.4 * after[1] + 0.6**2 * after[2])


def test_what_is_unlikely_to_be_reached_teaches_no_critic() -> None:
    expansion = rolled(model(ones, lambda *_: torch.full((6,), 0.4)))
    valued = Valued.of(expansion, torch.arange(18.0).view(3, 6))
    assert valued.value.tolist() == list(range(12))  # alive at 1, 0.6 and 0.36
    assert torch.equal(valued.obs, expansion.obs[:2].flatten(0, 1))
    drawn = valued.sample(500, rng=torch.Generator().manual_seed(0))
    assert set(drawn.value.tolist()) == set(range(12))
    assert torch.equal(drawn.obs, valued.obs[drawn.value.long()])
    assert torch.equal(drawn.action, valued.action[drawn.value.long()])


def test_entropy_is_paid_for_every_action_to_come() -> None:
    expansion = rolled(model(ones, lambda *_: torch.zeros(6)), horizon=1)._replace(
        log_prob=torch.tensor([[-1.0], [-3.0]]).expand(2, 6)
    )
    found = expansion.action_values(torch.zeros(2, 6), alpha=torch.tensor(2.0), gamma=0.5, return_lambda=1.0)
    torch.testing.assert_close(found[0], torch.full((6,), 1 + 0.5 * 6.0))


def test_the_gradient_is_that_of_the_return() -> None:
    world = model(end=lambda *_: torch.zeros(6)).double()
    with torch.no_grad():
        list(world.state_network.layers)[-1].weight[..., 2:] = 0.0  # constant noise: its slope is left out
    start = torch.randn(6, 2, dtype=torch.double)

    def total(gain: Tensor) -> Tensor:
        def act(obs: Tensor) -> tuple[Tensor, Tensor]:
            return torch.tanh(gain * obs.sum(1, keepdim=True)), torch.zeros(len(obs), dtype=torch.double)

        rng = torch.Generator().manual_seed(1)
        expansion = expand(world, act, start, 3, rng=rng)
        terms = {"alpha": torch.zeros(()), "gamma": 0.9, "return_lambda": 1.0}
        return expansion.action_values(expansion.obs.sum(2), **terms)[0].sum()

    torch.set_default_dtype(torch.double)
    try:
        assert torch.autograd.gradcheck(total, (torch.tensor(0.3, dtype=torch.double, requires_grad=True),))
    finally:
        torch.set_default_dtype(torch.float32)


def test_each_member_rolls_rows_of_its_own() -> None:
    world = model(ones, lambda *_: torch.zeros(6))
    with torch.no_grad():
        for layer in world.state_network.layers:
            layer.weight.zero_()
            layer.bias.zero_()
        last = list(world.state_network.layers)[-1]
        last.bias[:, 0, :2] = torch.tensor([[0.0], [1.0], [2.0]])  # each adds its own number to the state
        last.bias[:, 0, 2:] = -1e3  # the least noise
    expansion = expand(world, still, torch.zeros(6, 2), 4, rng=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        expansion.obs[-1, :, 0], torch.tensor([0.0, 0.0, 4.0, 4.0, 8.0, 8.0]), atol=0.05, rtol=0.0
    )


def test_rows_that_the_members_cannot_share_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of the 3 members, got 7"):
        expand(model(), still, torch.zeros(7, 2), 1, rng=torch.Generator())
