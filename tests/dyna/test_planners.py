"""Planners find what is known to be best, within the bounds, in time, and for each start state on its own."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dyna import plans
from dyna.errors import Diverged, UserError
from dyna.planners import categorical_cem, cem, gradient, icem, mppi, random_shooting
from dyna.plans import Plan, Score, coloured_noise, shifted

B, H, A = 3, 6, 2
Planner = Callable[..., Plan]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shoot(score: Score, mean: Tensor, std: Tensor, **how: Any) -> Plan:
    return random_shooting(score, mean, **how)


def climb(score: Score, mean: Tensor, std: Tensor, *, rng: torch.Generator, n: int = 4, **how: Any) -> Plan:
    starts = mean.unsqueeze(1) + 0.3 * torch.randn(len(mean), n, *mean.shape[1:], generator=rng)
    return gradient(score, starts, **how)


CONTINUOUS: dict[str, Planner] = {"shooting": shoot, "cem": cem, "icem": icem, "mppi": mppi, "gradient": climb}
SAMPLING = {name: planner for name, planner in CONTINUOUS.items() if name != "gradient"}


def blank(batch: int = B, horizon: int = H, actions: int = A, std: float = 0.5) -> tuple[Tensor, Tensor]:
    return torch.zeros(batch, horizon, actions), torch.full((batch, horizon, actions), std)


class Quadratic:
    """x' = F x + G u, cost x'Qx + u'Ru a step and x'Qx at the end; start states [B, 2]."""

    dynamics = torch.tensor([[1.0, 0.2], [0.0, 1.0]])
    control = torch.tensor([[0.0], [0.2]])
    state_cost, action_cost, horizon = torch.diag(torch.tensor([1.0, 0.1])), 0.1, 8

    def __init__(self, start: Tensor) -> None:
        self.start = start

    def cost(self, actions: Tensor) -> Tensor:
        """[B, N, H, 1] -> [B, N]."""
        x = self.start.unsqueeze(1).expand(-1, actions.shape[1], -1)
        total = torch.zeros(actions.shape[:2])
        for u in actions.unbind(2):
            total = total + torch.einsum("bni,ij,bnj->bn", x, self.state_cost, x) + self.action_cost * u[..., 0] ** 2
            x = x @ self.dynamics.T + u @ self.control.T
        return total + torch.einsum("bni,ij,bnj->bn", x, self.state_cost, x)

    def score(self, actions: Tensor) -> Tensor:
        return -self.cost(actions)

    def least_cost(self) -> Tensor:
        """[B], by the Riccati recursion."""
        f, g, p = self.dynamics, self.control, self.state_cost
        for _ in range(self.horizon):
            gain = torch.linalg.solve(g.T @ p @ g + self.action_cost, g.T @ p @ f)
            p = self.state_cost + f.T @ p @ (f - g @ gain)
        return torch.einsum("bi,ij,bj->b", self.start, p, self.start)


PROBLEM = Quadratic(torch.tensor([[0.3, -0.2], [-0.2, 0.1], [0.1, 0.4]]))
BUDGETS: dict[str, tuple[Planner, dict[str, Any]]] = {
    "cem": (cem, {"n": 300, "elites": 30, "iterations": 15}),
    "icem": (icem, {"n": 300, "elites": 20, "iterations": 20, "beta": 0.5, "decay": 1.0}),
    "mppi": (mppi, {"n": 300, "elites": 32, "iterations": 20, "temperature": 20.0, "min_std": 0.01}),
    "gradient": (climb, {"n": 2, "iterations": 150, "learning_rate": 0.03}),
}


@pytest.mark.parametrize("name", BUDGETS)
def test_a_linear_quadratic_problem_is_solved_to_within_one_percent_of_riccati(name: str) -> None:
    planner, budget = BUDGETS[name]
    mean, std = blank(B, Quadratic.horizon, 1)
    plan = planner(PROBLEM.score, mean, std, low=-2.0, high=2.0, rng=seeded(), **budget)
    least = PROBLEM.least_cost()
    assert plan.actions.abs().max() < 1.9  # no bound is in the way, which Riccati does not know
    assert (PROBLEM.cost(plan.actions.unsqueeze(1))[:, 0] <= 1.01 * least).all()
    torch.testing.assert_close(plan.score, -PROBLEM.cost(plan.actions.unsqueeze(1))[:, 0])


def test_the_plan_is_the_same_where_nobody_asks_what_it_is_worth() -> None:
    asked: list[int] = []

    def score(plans: Tensor) -> Tensor:
        asked.append(plans.shape[1])
        return PROBLEM.score(plans)

    mean, std = blank(B, Quadratic.horizon, 1)
    with_score, without = (
        mppi(score, mean, std, n=20, elites=5, rng=seeded(), scored=scored) for scored in (True, False)
    )
    assert asked == [20] * 4 + [1] + [20] * 4
    assert torch.equal(with_score.actions, without.actions) and without.score.isnan().all()


def hilly(target: Tensor) -> Score:
    """A score with many hills, the highest at the target [B, H, A]."""

    def score(actions: Tensor) -> Tensor:
        apart = actions - target.unsqueeze(1)
        return (torch.cos(6 * apart) - 2 * apart.square()).sum((2, 3))

    return score


TARGET = torch.rand(B, H, A, generator=seeded(1)) - 0.5


@pytest.mark.parametrize("name", CONTINUOUS)
@pytest.mark.parametrize("more", [{"iterations": 6}, {"n": 60}])
def test_more_budget_is_not_worse_in_expectation(name: str, more: dict[str, int]) -> None:
    """On 20 seeds and 3 start states; the gain is far above the standard error."""
    small = {"n": 20, "iterations": 2, **({"elites": 5} if name in ("cem", "icem", "mppi") else {})}
    scores = [
        torch.cat(
            [CONTINUOUS[name](hilly(TARGET), *blank(), rng=seeded(seed), **budget).score for seed in range(20)]
        ).mean()
        for budget in (small, {**small, **more})
    ]
    assert scores[1] > scores[0]


@pytest.mark.parametrize("name", CONTINUOUS)
def test_start_states_do_not_influence_each_other(name: str) -> None:
    other = TARGET.clone()
    other[1:] *= -1
    first, second = (CONTINUOUS[name](hilly(target), *blank(), rng=seeded()) for target in (TARGET, other))
    for a, b in zip(first[:-1], second[:-1], strict=True):
        assert torch.equal(a[0], b[0])
    assert not torch.equal(first.actions[1], second.actions[1])


@pytest.mark.parametrize("name", SAMPLING)
def test_the_order_of_candidates_changes_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = SAMPLING[name](hilly(TARGET), *blank(), rng=seeded())
    rank, order = plans.best, seeded(9)

    def shuffled(candidates: Tensor, scores: Tensor, k: int) -> plans.Ranked:
        move = torch.randperm(candidates.shape[1], generator=order)
        return rank(candidates[:, move], scores[:, move], k)

    monkeypatch.setattr("dyna.planners.best", shuffled)
    mixed = SAMPLING[name](hilly(TARGET), *blank(), rng=seeded())
    for a, b in zip(plain[:-1], mixed[:-1], strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_bounds_hold_for_every_candidate_and_for_the_plan(name: str) -> None:
    low, high = torch.tensor([-0.5, 0.2]), torch.tensor([-0.1, 0.3])
    seen: list[Tensor] = []

    def beyond(actions: Tensor) -> Tensor:
        seen.append(actions.detach().clone())
        return actions.sum((2, 3))

    plan = CONTINUOUS[name](beyond, *blank(std=2.0), low=low, high=high, rng=seeded())
    everything = torch.cat([*seen, plan.actions.unsqueeze(1), plan.elites], dim=1)
    assert (everything >= low).all() and (everything <= high).all()
    if name != "shooting":
        assert ((high - plan.actions).mean((1, 2)) < 0.05).all()


@pytest.mark.parametrize("name", CONTINUOUS)
def test_a_warm_start_is_worth_iterations(name: str) -> None:
    """From the optimum of one step before, a single iteration is better than from nothing."""

    def returns(mean: Tensor) -> Tensor:
        planner = CONTINUOUS[name]
        few = [planner(hilly(TARGET), mean, blank(std=0.2)[1], iterations=1, rng=seeded(i)).score for i in range(5)]
        return torch.stack(few).mean(0)

    before = torch.cat([torch.zeros(B, 1, A), TARGET[:, :-1]], dim=1)
    assert (returns(shifted(before)) > returns(torch.zeros(B, H, A)) + 0.5).all()


def test_shifted_drops_the_actions_that_were_done() -> None:
    plan = torch.arange(6.0).view(1, 3, 2)
    assert shifted(plan).tolist() == [[[2, 3], [4, 5], [0, 0]]]
    assert shifted(plan[:, None]).tolist() == [[[[2, 3], [4, 5], [0, 0]]]]


@pytest.mark.parametrize("planner", [icem, mppi])
def test_seeds_compete(planner: Planner) -> None:
    seeds = TARGET.unsqueeze(1)
    plan = planner(hilly(TARGET), *blank(), n=20, elites=5, iterations=1, seeds=seeds, rng=seeded())
    assert torch.equal(plan.elites[:, 0], TARGET)
    plan = planner(hilly(TARGET), *blank(), n=20, elites=5, iterations=3, seeds=seeds, rng=seeded())
    assert torch.equal(plan.elites[:, 0], TARGET)


def test_mppi_scores_its_seeds_once() -> None:
    asked: list[int] = []

    def score(actions: Tensor) -> Tensor:
        asked.append(actions.shape[1])
        return hilly(TARGET)(actions)

    mppi(score, *blank(), n=20, elites=5, iterations=3, seeds=TARGET.unsqueeze(1), rng=seeded())
    assert asked == [21, 20, 20, 1]  # the last is the plan


@pytest.mark.parametrize("name", CONTINUOUS)
@pytest.mark.parametrize(("deadline_ms", "made"), [(None, 5), (1.0, 1), (25.0, 2), (45.0, 4), (1e6, 5)])
def test_iterations_end_before_the_deadline(
    name: str, deadline_ms: float | None, made: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock by which every iteration takes 10 ms; one is always made."""
    times = itertools.count(start=5.0, step=0.01)
    monkeypatch.setattr("dyna.plans.time.perf_counter", lambda: next(times))
    plan = CONTINUOUS[name](hilly(TARGET), *blank(), iterations=5, deadline_ms=deadline_ms, rng=seeded())
    assert abs(plan.iterations - made) <= (0 if made in (1, 5) else 1)
    assert plan.iterations <= max(1, (deadline_ms or math.inf) / 10)
    assert plan.actions.shape == (B, H, A) and plan.score.shape == (B,)


CODE = torch.tensor([[2, 0, 1, 1], [0, 0, 2, 1]])  # [B, H]


def locked(actions: Tensor) -> Tensor:
    """What one-hot actions [B, N, 4, 3] open: the pairs of neighbouring steps that agree with the code."""
    right = (actions.argmax(3) == CODE.unsqueeze(1)).float()
    return (right[:, :, 1:] * right[:, :, :-1]).sum(2) + 0.1 * right[:, :, 0]


def test_discrete_plans_find_the_best_of_all() -> None:
    every = torch.eye(3)[torch.cartesian_prod(*[torch.arange(3)] * 4)].expand(2, -1, -1, -1)
    best = locked(every).max(1)
    for seed in range(5):
        budget: dict[str, Any] = {"n": 60, "elites": 15, "iterations": 10, "smoothing": 0.3}
        plan = categorical_cem(locked, torch.full((2, 4, 3), 1 / 3), **budget, rng=seeded(seed))
        assert torch.equal(plan.score, best.values)
        assert torch.equal(plan.actions, every[torch.arange(2), best.indices])
        torch.testing.assert_close(plan.mean.sum(2), torch.ones(2, 4))


def test_actions_without_probability_are_never_tried() -> None:
    probs = torch.tensor([0.5, 0.5, 0.0]).expand(2, 4, 3)
    plan = categorical_cem(locked, probs, n=30, elites=5, iterations=4, rng=seeded())
    assert not plan.elites[..., 2].any() and not plan.mean[..., 2].any()


@pytest.mark.parametrize("horizon", [1, 2, 7, 12])
@pytest.mark.parametrize("beta", [0.0, 2.0, 4.0])
def test_coloured_noise_has_unit_variance_and_lasts_the_longer_the_redder(horizon: int, beta: float) -> None:
    noise = coloured_noise(torch.zeros(1, horizon, 2), 20_000, beta, seeded())
    assert noise.shape == (1, 20_000, horizon, 2)
    torch.testing.assert_close(noise.var(1), torch.ones(1, horizon, 2), atol=0.05, rtol=0.0)
    if horizon > 2:
        lasting = [coloured_noise(torch.zeros(1, horizon, 2), 20_000, each, seeded()) for each in (beta, beta + 1)]
        first, second = ((each[:, :, 1:] * each[:, :, :-1]).mean() for each in lasting)
        assert second > first + 0.005
    if beta == 0.0 and horizon > 1:
        assert abs(float((noise[:, :, 1:] * noise[:, :, :-1]).mean())) < 0.02


@pytest.mark.parametrize("name", CONTINUOUS)
def test_a_score_that_is_no_number_is_the_worst(name: str) -> None:
    def score(actions: Tensor) -> Tensor:
        return torch.where(actions[:, :, 0, 0] > 0.05, math.nan, hilly(TARGET)(actions))

    plan = CONTINUOUS[name](score, *blank(), rng=seeded())
    assert plan.elite_scores[:, 0].isfinite().all()
    assert (plan.elites[:, 0, 0, 0] <= 0.05).all()
    with pytest.raises(Diverged, match="it scores no candidate plan by a finite number"):
        CONTINUOUS[name](lambda actions: actions.sum((2, 3)) * math.nan, *blank(), rng=seeded())


@pytest.mark.parametrize("planner", [cem, icem, mppi])
def test_what_no_search_can_be_made_with_is_refused(planner: Planner) -> None:
    with pytest.raises(UserError, match="elites must be between 1 and the 5 candidates, got 6"):
        planner(hilly(TARGET), *blank(), n=5, elites=6, rng=seeded())
    with pytest.raises(UserError, match="iterations must be at least 1, got 0"):
        planner(hilly(TARGET), *blank(), iterations=0, rng=seeded())


def test_where_all_plans_are_equal_nothing_moves() -> None:
    mean = TARGET.clone()
    plan = icem(lambda actions: torch.ones(actions.shape[:2]), mean, blank()[1], iterations=1, rng=seeded())
    assert torch.equal(plan.actions, mean)
