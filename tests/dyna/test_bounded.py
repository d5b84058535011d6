"""Laws of the critics that know their range."""

import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from dyna.bounded import BoundedSACPolicy, value_range
from dyna.units import Standardised


@pytest.fixture
def policy() -> BoundedSACPolicy:
    torch.manual_seed(0)
    space = spaces.Box(-1.0, 1.0, (3,))
    return BoundedSACPolicy(space, spaces.Box(-1.0, 1.0, (2,)), lambda _: 1e-3, net_arch=[8, 8])


def test_values_begin_at_the_centre(policy: BoundedSACPolicy) -> None:
    policy.critic.set_range(-50.0, 100.0, centre=7.0, scale=90.0)
    values = policy.critic.values(torch.randn(4, 3), torch.randn(4, 2))
    torch.testing.assert_close(values, torch.full((5, 4), 7.0))


def test_a_new_range_does_not_change_what_the_networks_say(policy: BoundedSACPolicy) -> None:
    critic, obs, action = policy.critic, torch.randn(4, 3), torch.randn(4, 2)
    critic.set_range(-50.0, 100.0, centre=7.0, scale=90.0)
    for parameter in critic.parameters():
        torch.nn.init.normal_(parameter)
    before = critic.values(obs, action)
    critic.set_range(-500.0, 20.0, centre=-3.0, scale=497.0)
    torch.testing.assert_close(critic.values(obs, action), before, rtol=1e-4, atol=1e-3)
    assert float(critic.scale) == pytest.approx(497.0)
    assert (float(critic.low), float(critic.high)) == (-500.0, 20.0)


def test_every_network_sees_in_the_same_units(policy: BoundedSACPolicy) -> None:
    obs = torch.tensor([[10.0, 20.0, 30.0]])
    policy.standardise(torch.tensor([10.0, 10.0, 10.0]), torch.tensor([1.0, 2.0, 4.0]))
    seen = [module(obs) for module in policy.modules() if isinstance(module, Standardised)]
    assert len(seen) == 4  # actor, its average, critic and its target
    for each in seen:
        torch.testing.assert_close(each, torch.tensor([[0.0, 5.0, 5.0]]))


def test_the_units_travel_with_the_weights(policy: BoundedSACPolicy) -> None:
    policy.standardise(torch.ones(3), 2 * torch.ones(3))
    policy.critic.set_range(-5.0, 5.0, centre=1.0, scale=4.0)
    other = BoundedSACPolicy(policy.observation_space, policy.action_space, lambda _: 1e-3, net_arch=[8, 8])
    other.load_state_dict(policy.state_dict())
    obs = torch.randn(3, 3)
    torch.testing.assert_close(other.actor(obs, deterministic=True), policy.actor(obs, deterministic=True))
    assert float(other.critic.scale) == float(policy.critic.scale)


@pytest.mark.parametrize("shared", [False, True])
def test_new_units_do_not_change_what_the_networks_say(policy: BoundedSACPolicy, shared: bool) -> None:
    spaces_ = policy.observation_space, policy.action_space
    policy = BoundedSACPolicy(*spaces_, lambda _: 1e-3, net_arch=[8, 8], share_features_extractor=shared)
    obs, action = torch.randn(4, 3), torch.randn(4, 2)
    policy.standardise(torch.tensor([0.5, 0.0, -1.0]), torch.tensor([1.0, 2.0, 0.5]))
    for parameter in policy.critic.parameters():
        torch.nn.init.normal_(parameter)
    before = policy.actor.get_action_dist_params(obs)[:2], policy.critic.values(obs, action)
    policy.standardise(torch.tensor([5.0, 1.0, 1.0]), torch.tensor([3.0, 0.1, 2.0]))
    after = policy.actor.get_action_dist_params(obs)[:2], policy.critic.values(obs, action)
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shared", [False, True])
def test_the_critics_have_a_slope_by_the_state(shared: bool) -> None:
    spaces_ = spaces.Box(-1.0, 1.0, (3,)), spaces.Box(-1.0, 1.0, (2,))
    policy = BoundedSACPolicy(*spaces_, lambda _: 1e-3, net_arch=[8, 8], share_features_extractor=shared)
    for parameter in policy.critic.parameters():
        torch.nn.init.normal_(parameter)
    obs = torch.randn(4, 3, requires_grad=True)
    (slope,) = torch.autograd.grad(policy.critic.values(obs, torch.randn(4, 2)).sum(), obs)
    assert (slope != 0).all()


def test_what_is_left_out_is_not_seen_and_what_returns_is_seen_as_before(policy: BoundedSACPolicy) -> None:
    obs, action = torch.randn(4, 3), torch.randn(4, 2)
    for parameter in policy.critic.parameters():
        torch.nn.init.normal_(parameter)
    mean, std = torch.tensor([0.5, 0.0, -1.0]), torch.tensor([1.0, 2.0, 0.5])

    def said(obs: Tensor) -> tuple[Tensor, ...]:
        return *policy.actor.get_action_dist_params(obs)[:2], policy.critic.values(obs, action)

    policy.standardise(mean, std)
    before = said(obs)
    policy.standardise(mean, torch.tensor([1.0, torch.inf, 0.5]))
    other = obs.clone()
    other[:, 1] = 1e3
    torch.testing.assert_close(said(other), said(obs), rtol=0.0, atol=0.0)
    policy.standardise(mean + 1.0, torch.tensor([3.0, torch.inf, 1.0]))
    policy.standardise(mean, std)
    torch.testing.assert_close(said(obs), before, rtol=1e-3, atol=1e-4)


def test_a_deterministic_prediction_is_that_of_the_average(policy: BoundedSACPolicy) -> None:
    obs = torch.randn(3, 3)

    def move() -> None:
        with torch.no_grad():
            for parameter in policy.actor.parameters():
                parameter.normal_()

    move()  # by a learner that keeps no average
    assert torch.equal(policy._predict(obs, deterministic=True), policy.actor(obs, deterministic=True))
    policy.average(1)  # the first counts alone
    torch.testing.assert_close(policy._predict(obs, deterministic=True), policy.actor(obs, deterministic=True))
    before = policy._predict(obs, deterministic=True)
    move()
    assert torch.equal(policy._predict(obs, deterministic=True), before)
    torch.manual_seed(1)
    drawn = policy._predict(obs)
    torch.manual_seed(1)
    assert torch.equal(drawn, policy.actor(obs))


def test_the_average_is_over_the_last_ninth_of_the_updates(policy: BoundedSACPolicy) -> None:
    weight, average = policy.actor.mu.bias, policy.averaged.mu.bias  # type: ignore[union-attr]
    for update in range(1, 901):
        with torch.no_grad():
            weight.fill_(float(update > 800))  # a step in the weights, 100 updates ago
        policy.average(update)
    assert 0.6 < float(average.mean()) < 0.7  # 1 - (8 / 9)^9
    for update in range(10**6, 10**6 + 4_000):
        policy.average(update)
    assert 0.94 < float(average.mean()) < 0.97, "2,000 updates at most"  # 1 - 0.35 exp(-2)


def test_new_units_do_not_change_what_the_average_says(policy: BoundedSACPolicy) -> None:
    obs = torch.randn(4, 3)
    policy.standardise(torch.tensor([0.5, 0.0, -1.0]), torch.tensor([1.0, 2.0, 0.5]))
    with torch.no_grad():
        for parameter in policy.averaged.parameters():
            parameter.normal_()
    before = policy._predict(obs, deterministic=True)
    policy.standardise(torch.tensor([-0.5, 1.0, 0.0]), torch.tensor([2.0, 1.0, 3.0]))
    torch.testing.assert_close(policy._predict(obs, deterministic=True), before, rtol=1e-4, atol=1e-5)


def test_values_may_hold_all_that_novelty_can_pay() -> None:
    reward = torch.linspace(1.0, 3.0, 101)
    plain, curious = (value_range(reward, 0.995, entropy=0.1, novelty=novelty) for novelty in (0.0, 3.0))
    assert curious["high"] - plain["high"] == pytest.approx(3.0 * curious["scale"])
    assert {**curious, "high": 0.0} == {**plain, "high": 0.0}


@pytest.mark.parametrize(("least", "begin"), [(-10.0, 0.0), (-1.0, 100.0)])
def test_critics_begin_in_the_middle_of_usual_rewards_and_never_below_what_an_end_is_worth(
    least: float, begin: float
) -> None:
    told = value_range(torch.linspace(least, 2.0, 1001), 0.995, entropy=0.1, novelty=2.0)
    assert told["centre"] == pytest.approx(begin, abs=1e-3)
