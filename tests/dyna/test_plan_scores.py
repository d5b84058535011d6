"""What the world model says of plans is what it says of their steps, one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dyna import training
from dyna.errors import UserError
from dyna.plan_model import PlanModel
from dyna.plan_scores import mean_propagation, trajectory_sampling
from dyna.plans import Score
from dyna.types import Transitions
from dyna.world_model import EnsembleSettings, GaussianEnsemble

S, A, H, N = 3, 2, 4, 6
SETTINGS = EnsembleSettings(members=4, elites=2, width=16, depth=2, target="delta")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ensemble(target: str = "delta", **known: Any) -> GaussianEnsemble:
    """Untrained, in the units of data that has ends."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = GaussianEnsemble(S, A, EnsembleSettings(**{**vars(SETTINGS), "target": target}), **known)
        obs, action = 2 * torch.randn(200, S) + 1, torch.rand(200, A) * 2 - 1
    ends = (obs[:, 0] > 2).float()
    data = Transitions(obs, action, obs[:, 1] * 3, obs + 0.5 * action.sum(1, keepdim=True), ends)
    training.set_units(model, data, data.reward)
    model.elites.copy_(torch.tensor([3, 1]))
    return model


def plans(batch: int, n: int = N) -> Tensor:
    return torch.rand(batch, n, H, A, generator=seeded(7)) * 2 - 1


def starts(batch: int) -> Tensor:
    return torch.randn(batch, S, generator=seeded(8)) + 1


def by_hand(
    model: GaussianEnsemble, start: Tensor, plan: Tensor, gamma: float, value: Callable[[Tensor], Tensor]
) -> Tensor:
    """The return [K] of one plan [H, A] from one state [S] in each elite, one step and one row at a time."""
    returns = []
    for k in range(len(model.elites)):
        obs, alive, total = start.unsqueeze(0), torch.ones(()), torch.zeros(())
        for step, action in enumerate(plan):
            prediction = model.predict_elites(obs, action.unsqueeze(0))
            total = total + gamma**step * alive * prediction.mean[k, 0, -1]
            alive = alive * (1 - prediction.p_terminated[k, 0])
            obs = prediction.mean[k, :, :-1]
        returns.append(total + gamma ** len(plan) * alive * value(obs)[0])
    return torch.stack(returns)


@pytest.mark.parametrize("target", ["delta", "next_obs"])
def test_mean_propagation_is_the_formula(target: str) -> None:
    model = ensemble(target)
    model.delta.fill_(target == "delta")
    obs, candidates = starts(3), plans(3)
    score = mean_propagation(PlanModel(model), obs, gamma=0.9, pessimism=0.5, value=lambda s: s.square().sum(1))
    scores = score(candidates)
    for b in range(3):
        for n in range(N):
            returns = by_hand(model, obs[b], candidates[b, n], 0.9, lambda s: s.square().sum(1))
            expected = returns.mean() - 0.5 * returns.std(correction=0)
            torch.testing.assert_close(scores[b, n], expected, rtol=1e-4, atol=1e-4)


def test_any_members_can_be_asked() -> None:
    model = ensemble()
    everyone = mean_propagation(PlanModel(model, torch.arange(4)), starts(1))(plans(1))
    each = [mean_propagation(PlanModel(model, torch.tensor([k])), starts(1))(plans(1)) for k in range(4)]
    torch.testing.assert_close(everyone, torch.stack(each).mean(0))


@pytest.mark.parametrize("redeal", [False, True])
def test_without_noise_every_particle_follows_its_members_mean(redeal: bool) -> None:
    model = ensemble()
    model.y_std[:-1] = 1e-9  # of the noise and the changes
    model.y_mean[:-1] = 0.5
    obs, candidates = starts(2), plans(2)
    sampled = trajectory_sampling(PlanModel(model), obs, particles=6, redeal=redeal, gamma=0.9, rng=seeded())
    expected = mean_propagation(PlanModel(model), obs, gamma=0.9)
    close = 0.5 if redeal else 1e-4  # members judge rewards unlike
    torch.testing.assert_close(sampled(candidates), expected(candidates), rtol=close, atol=close)


def one_dimension(redeal: bool, gap: float, noise: float) -> Tensor:
    """Last states [P] after 5 steps of two members, of which one goes up by `gap` a step and one down, with noise."""
    settings = EnsembleSettings(members=2, elites=2, width=4, depth=1, target="delta")
    seen: list[Tensor] = []
    model = GaussianEnsemble(
        1, 1, settings, reward_fn=lambda o, a, n: n[:, 0], termination_fn=lambda o, a, n: torch.zeros(len(o)).bool()
    )
    for layer in model.state_network.layers:
        layer.weight.data.zero_(), layer.bias.data.zero_()
    layer.bias.data[:, 0, 0] = torch.tensor([gap, -gap])
    layer.bias.data[:, 0, 1] = 2 * torch.tensor(max(noise, 1e-3)).log()

    def value(obs: Tensor) -> Tensor:
        seen.append(obs[:, 0])
        return obs[:, 0]

    score = trajectory_sampling(
        PlanModel(model), torch.zeros(1, 1), particles=4_000, redeal=redeal, value=value, rng=seeded()
    )
    score(torch.zeros(1, 1, 5, 1))
    return seen[0]


def test_ts_infinity_keeps_a_particle_in_its_member_and_ts1_does_not() -> None:
    kept, dealt = one_dimension(False, 1.0, 0.0), one_dimension(True, 1.0, 0.0)
    torch.testing.assert_close(kept.abs(), torch.full_like(kept, 5.0), atol=0.1, rtol=0.0)
    assert float(kept.mean()) == pytest.approx(0.0, abs=0.01)
    assert float(dealt.var()) == pytest.approx(5.0, rel=0.1)  # a random walk


@pytest.mark.parametrize("redeal", [False, True])
def test_the_noise_of_steps_adds_up(redeal: bool) -> None:
    assert float(one_dimension(redeal, 0.0, 0.3).var()) == pytest.approx(5 * 0.09, rel=0.1)


@pytest.mark.parametrize("redeal", [False, True])
def test_a_particles_rewards_and_ends_are_its_own(redeal: bool) -> None:
    """It ends for good where it is positive after a step: what it earns later, dealt to whomever, does not count."""

    def positive(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        return next_obs[:, 0] > 0

    settings = EnsembleSettings(members=2, elites=2, width=4, depth=1, target="delta")
    model = GaussianEnsemble(1, 1, settings, reward_fn=lambda o, a, n: (o[:, 0] > 0).float(), termination_fn=positive)
    for layer in model.state_network.layers:
        layer.weight.data.zero_(), layer.bias.data.zero_()
    score = trajectory_sampling(
        PlanModel(model), -torch.ones(1, 1), particles=400, redeal=redeal, value=positive_value, rng=seeded()
    )
    assert score(torch.zeros(1, 3, 6, 1)).tolist() == [[0.0, 0.0, 0.0]]


def positive_value(obs: Tensor) -> Tensor:
    return (obs[:, 0] > 0).float()


@pytest.mark.parametrize("redeal", [False, True])
def test_candidates_differ_by_their_actions_alone(redeal: bool) -> None:
    model, obs, candidates, order = PlanModel(ensemble()), starts(2), plans(2), torch.randperm(N, generator=seeded())
    first = trajectory_sampling(model, obs, particles=4, redeal=redeal, rng=seeded(5))(candidates)
    second = trajectory_sampling(model, obs, particles=4, redeal=redeal, rng=seeded(5))(candidates[:, order])
    torch.testing.assert_close(first[:, order], second)
    twins = trajectory_sampling(model, obs, particles=4, rng=seeded(5))(candidates[:, [0, 0, 0]])
    assert (twins == twins[:, :1]).all()


def test_start_states_do_not_influence_each_other() -> None:
    model, obs, candidates = PlanModel(ensemble()), starts(3), plans(3)
    kinds: list[Callable[[Tensor], Score]] = [
        lambda obs: mean_propagation(model, obs, pessimism=1.0),
        lambda obs: trajectory_sampling(model, obs, particles=4, rng=seeded(5)),
    ]
    for score in kinds:
        together = score(obs)(candidates)
        changed = obs.clone()
        changed[1:] = 9.0
        torch.testing.assert_close(score(changed)(candidates)[0], together[0])
        torch.testing.assert_close(score(obs[:1])(candidates[:1])[0], together[0])


def test_many_rows_give_what_few_give() -> None:
    model, obs = PlanModel(ensemble()), starts(1)
    many = torch.rand(1, 1_500, H, A, generator=seeded()) * 2 - 1
    scores = mean_propagation(model, obs)(many)
    with torch.no_grad():
        blocked = mean_propagation(model, obs)(many)
        few = mean_propagation(model, obs)(many[:, :5])
    torch.testing.assert_close(blocked, scores)
    torch.testing.assert_close(few, scores[:, :5])


def test_exact_functions_are_used_and_the_outcome_network_is_not_asked() -> None:
    model = ensemble(reward_fn=lambda o, a, n: a[:, 0], termination_fn=lambda o, a, n: a[:, 1] > 0)
    for parameter in model.outcome_network.parameters():
        parameter.data.fill_(float("nan"))
    candidates = plans(1)
    alive = torch.cat([torch.ones(1, N, 1), (candidates[..., :-1, 1] <= 0).float().cumprod(2)], 2)
    expected = (candidates[..., 0] * alive).sum(2)
    torch.testing.assert_close(mean_propagation(PlanModel(model), starts(1), gamma=1.0)(candidates), expected)
    sampled = trajectory_sampling(PlanModel(model), starts(1), particles=2, rng=seeded())
    torch.testing.assert_close(sampled(candidates), expected)


def test_the_score_can_be_climbed() -> None:
    candidates = plans(2).requires_grad_()
    score = mean_propagation(PlanModel(ensemble()), starts(2), pessimism=0.1)
    (grad,) = torch.autograd.grad(score(candidates).sum(), candidates)
    step = 1e-2 * grad / grad.norm()
    gain = (score(candidates.detach() + step) - score(candidates.detach() - step)).sum() / 2
    assert float(gain) == pytest.approx(float((grad * step).sum()), rel=0.05)


def test_bfloat16_ranks_plans_as_float32_does() -> None:
    model, obs, candidates = ensemble(), starts(1), plans(1, 200)
    exact = mean_propagation(PlanModel(model), obs)(candidates)[0]
    short = mean_propagation(PlanModel(model, dtype=torch.bfloat16), obs)(candidates)[0]
    assert short.dtype == torch.float32
    assert float(torch.corrcoef(torch.stack([exact, short]))[0, 1]) > 0.995


def test_particles_that_do_not_fit_the_members_are_refused() -> None:
    with pytest.raises(UserError, match="a multiple of the 2 members that plans believe, got 5"):
        trajectory_sampling(PlanModel(ensemble()), starts(1), particles=5, rng=seeded())


def test_a_plan_model_draws_nothing() -> None:
    before = torch.random.get_rng_state()
    PlanModel(ensemble())
    assert torch.equal(torch.random.get_rng_state(), before)
