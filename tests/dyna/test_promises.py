"""Promise and outcome: the identities hold for any numbers, and each part is zero where it is not to blame."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dyna.plan_model import PlanModel
from dyna.plan_scores import propagated_returns
from dyna.promises import Account, chance, interquartile_range, settle
from dyna.returns import discounted_return
from dyna.types import Transitions
from dyna.world_model import EnsembleSettings, GaussianEnsemble

GAMMA, STEP, EDGE = 0.9, 0.5, 3.0


def moving(gaps: list[float] | None = None, noise: float = 1e-3) -> PlanModel:
    """Members that go up by `gaps` a step, pay what they arrive at, and end beyond the edge, whatever is done."""
    gaps = gaps or [STEP, STEP]
    members = len(gaps)
    model = GaussianEnsemble(
        1,
        1,
        EnsembleSettings(members=members, elites=members, width=4, depth=1, target="delta"),
        reward_fn=lambda o, a, n: n[:, 0],
        termination_fn=lambda o, a, n: n[:, 0] > EDGE,
    )
    for layer in model.state_network.layers:
        layer.weight.data.zero_(), layer.bias.data.zero_()
    layer.bias.data[:, 0, 0] = torch.tensor(gaps)
    layer.bias.data[:, 0, 1] = 2 * torch.tensor(noise).log()
    return PlanModel(model)


def learned(seed: int = 0) -> PlanModel:
    """An untrained ensemble of three members with heads for everything."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return PlanModel(
            GaussianEnsemble(2, 1, EnsembleSettings(members=3, elites=3, width=16, depth=1, target="delta"))
        )


def critics(obs: Tensor) -> Tensor:
    """Two opinions [2, B]."""
    return torch.stack([obs.sum(1), 3 * obs.sum(1)])


def walk(start: Tensor, steps: int = 4, bonus: float = 0.0, slip: float = 0.0) -> Transitions:
    """What happens from [W] where everything is as `moving` believes, but for a bonus or a slip in every step."""
    path = start + (STEP + slip) * torch.arange(steps + 1.0)[:, None]
    obs, next_obs = path[:-1, :, None], path[1:, :, None]
    ends = (path[1:] > EDGE).float()
    return Transitions(obs, torch.zeros_like(obs), next_obs[..., 0] + bonus, next_obs, ends)


def account_of(model: PlanModel, steps: Transitions, plan: Tensor | None = None) -> Account:
    """With the promise of a plan [W, H, A], that of the executed actions where none is given."""
    plan = steps.action.transpose(0, 1) if plan is None else plan
    planned = propagated_returns(model, steps.obs[0], plan.unsqueeze(1), gamma=GAMMA, value=critics).mean(0)[:, 0]
    return settle(model, steps, planned=planned, policy=planned - 1.0, value=critics, gamma=GAMMA)


def random_steps(rng: torch.Generator, windows: int = 5, steps: int = 4) -> Transitions:
    path = torch.randn(steps + 1, windows, 2, generator=rng)
    ends = (torch.rand(steps, windows, generator=rng) < 0.2).float()
    action = torch.rand(steps, windows, 1, generator=rng) * 2 - 1
    return Transitions(path[:-1], action, torch.randn(steps, windows, generator=rng), path[1:], ends)


@given(seed=st.integers(0, 10_000))
def test_a_broken_promise_is_the_models_part_and_the_part_of_planning_again(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    steps = random_steps(rng)
    account = account_of(learned(), steps, plan=torch.rand(5, 4, 1, generator=rng) * 2 - 1)
    torch.testing.assert_close(account.broken, account.model + account.replan)
    torch.testing.assert_close(account.model, account.dynamics + account.reward + account.termination)
    torch.testing.assert_close(account.policy_gap, torch.ones(5))


def test_a_perfect_model_is_to_blame_for_nothing() -> None:
    account = account_of(moving(), walk(torch.tensor([-1.0, 0.25, 1.25])))
    for part in (account.model, account.dynamics, account.reward, account.termination):
        torch.testing.assert_close(part, torch.zeros(3))


def test_a_plan_that_is_executed_to_its_end_has_nothing_to_plan_again() -> None:
    account = account_of(learned(), random_steps(torch.Generator().manual_seed(3)))
    torch.testing.assert_close(account.replan, torch.zeros(5))
    assert account.model.abs().min() > 0


@pytest.mark.parametrize(
    ("changed", "blamed"),
    [({"bonus": 0.7}, "reward"), ({"slip": 0.2}, "dynamics")],
)
def test_only_the_head_that_is_wrong_is_blamed(changed: dict[str, float], blamed: str) -> None:
    account = account_of(moving(), walk(torch.tensor([-2.0, -1.5]), **changed))
    for head in ("dynamics", "reward", "termination"):
        assert bool((getattr(account, head).abs() > 0.1).all()) == (head == blamed), head


def test_an_end_that_nobody_foresaw_is_the_termination_heads() -> None:
    steps = walk(torch.tensor([-2.0]))
    ends = steps.terminated.clone()
    ends[-1] = 1.0
    account = account_of(moving(), steps._replace(terminated=ends))
    expected = -(GAMMA**4) * critics(steps.next_obs[-1]).mean(0)
    torch.testing.assert_close(account.termination, expected)
    torch.testing.assert_close(account.model, expected)


def test_an_end_leaves_no_value_and_a_time_limit_does() -> None:
    reward = torch.tensor([[1.0], [1.0]])
    went_on, ended = (discounted_return(reward, torch.tensor([[0.0], [end]]), 10.0, GAMMA) for end in (0.0, 1.0))
    torch.testing.assert_close(went_on, torch.tensor([1 + 0.9 + 0.81 * 10]))
    torch.testing.assert_close(ended, torch.tensor([1.9]))
    early = discounted_return(reward, torch.tensor([[1.0], [0.0]]), 10.0, GAMMA)
    torch.testing.assert_close(early, torch.tensor([1.0]))


def test_the_critics_residual_has_no_model_in_it() -> None:
    steps = walk(torch.tensor([-1.0, 0.0]))
    ours, others = account_of(moving(), steps), account_of(moving([0.1, 5.0]), steps)
    torch.testing.assert_close(ours.critic, others.critic)
    value = 2 * steps.obs[0, :, 0]
    expected = discounted_return(steps.reward, steps.terminated, 2 * steps.next_obs[-1, :, 0], GAMMA) - value
    torch.testing.assert_close(ours.critic, expected)


def test_chance_is_the_noise_within_members_and_not_what_they_disagree_about() -> None:
    steps, rng = walk(torch.tensor([-2.0])), torch.Generator().manual_seed(0)

    def spread(model: PlanModel) -> float:
        return float(chance(model, steps, value=critics, gamma=GAMMA, particles=4_000, rng=rng))

    assert spread(moving([0.1, 0.6])) < 0.01
    noisy = spread(moving(noise=0.1))
    # each step's noise moves all later rewards, and the value of the last state, which is twice the state
    weights = [sum(GAMMA**k for k in range(step, 4)) + 2 * GAMMA**4 for step in range(4)]
    assert noisy == pytest.approx(0.1 * sum(weight**2 for weight in weights) ** 0.5, rel=0.05)


def test_the_interquartile_range_is_that_of_the_middle_half() -> None:
    assert float(interquartile_range(torch.arange(101.0))) == 50.0
