"""Laws of imagined rollouts, of the horizon's schedule and of the error by depth."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dyna.errors import UserError
from dyna.imagination import MBPOSchedule, horizon_error, imagine
from dyna.truncation import M2AC, Infoprop, KeepAll, Macura, RejectAll, Truncation
from dyna.types import ImaginedTransitions, Transitions
from tests.probes import WalkModel

RULES = [KeepAll, Infoprop, Macura, M2AC]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def act(obs: Tensor) -> Tensor:
    """A policy whose action shows the observation that it saw."""
    return torch.tanh(obs.sum(1, keepdim=True))


def walk(std: float = 1e-4, version: int = 0) -> WalkModel:
    """Three members over two observations; they disagree more the farther the walk has come."""
    offset = 0.1 * torch.tensor([[-1.0, 0.5, 1.0], [0.5, 0.5, -0.5], [0.5, -1.0, -0.5]])
    return WalkModel(offset, torch.full((3, 3), std), doubt=lambda obs: 0.01 + obs[:, 0].abs(), version=version)


def calibrated(rule: Truncation, model: WalkModel) -> Truncation:
    obs = 3.0 * torch.rand(200, 2, generator=rng())
    action = act(obs)
    data = Transitions(obs, action, action[:, 0], obs + 1.0, torch.zeros(200))
    rule.calibrate(model, data, act, rng=rng())
    return rule


@given(starts=st.integers(0, 6), horizon=st.integers(1, 5))
def test_keep_all_makes_horizon_rows_a_start(starts: int, horizon: int) -> None:
    rows = imagine(walk(), act, torch.zeros(starts, 2), horizon, KeepAll(), rng=rng())
    assert rows.depth.tolist() == [depth for depth in range(horizon) for _ in range(starts)]
    assert [column.shape for column in rows] == [
        (starts * horizon, *size) for size in [(2,), (1,), (), (2,), (), (), (), ()]
    ]


@pytest.mark.parametrize("kind", [KeepAll, Infoprop, Macura])
def test_a_row_begins_where_its_rollout_stood_and_the_policy_chose_its_action(kind: type) -> None:
    model = walk()
    start = torch.tensor([[0.0, 5.0], [0.25, 7.0], [0.5, 9.0]])
    rows = imagine(model, act, start, 4, calibrated(kind(), model), rng=rng())
    assert rows.depth.max().item() >= 2
    torch.testing.assert_close(rows.action, act(rows.obs))
    reached = {0: start.tolist()} | {d + 1: rows.next_obs[rows.depth == d].tolist() for d in range(4)}
    assert all(obs in reached[depth] for obs, depth in zip(rows.obs.tolist(), rows.depth.tolist(), strict=True))


@pytest.mark.parametrize("kind", RULES)
def test_no_rollout_is_deeper_than_the_horizon(kind: type) -> None:
    model = walk()
    rows = imagine(model, act, torch.zeros(8, 2), 3, calibrated(kind(), model), rng=rng())
    assert rows.depth.max().item() == 2


@pytest.mark.parametrize("kind", RULES)
def test_the_end_of_the_task_is_kept_and_ends_the_rollout(kind: type) -> None:
    model = walk()
    model.doubt = lambda obs: torch.full((len(obs),), 0.1)
    model.ends = lambda obs: (obs[:, 0] > 1.5).float()  # the third step from 0
    rule = calibrated(kind(), model)
    rows = imagine(model, act, torch.zeros(40, 2), 10, rule, rng=rng())
    assert torch.equal(rows.terminated == 1, rows.depth == 2)
    assert rows.depth.max().item() == 2


def test_a_task_that_ends_at_once_makes_one_row_a_start() -> None:
    model = walk()
    model.ends = lambda obs: torch.ones(len(obs))
    rows = imagine(model, act, torch.zeros(5, 2), 10, KeepAll(), rng=rng())
    assert rows.depth.tolist() == [0] * 5 and rows.terminated.tolist() == [1.0] * 5


def test_reject_all_gives_no_rows_of_the_right_kind_and_never_asks_the_model() -> None:
    class Untouchable(WalkModel):
        def predict(self, obs: Tensor, action: Tensor):  # type: ignore[no-untyped-def]
            raise AssertionError("the model was asked")

        sample_step = predict  # type: ignore[assignment]

    model = Untouchable(torch.zeros(1, 3), torch.ones(1, 3))
    rows = imagine(model, act, torch.zeros(7, 2), 5, RejectAll(), rng=rng())
    full = imagine(walk(), act, torch.zeros(7, 2), 5, KeepAll(), rng=rng())
    for name, nothing, something in zip(ImaginedTransitions._fields, rows, full, strict=True):
        assert nothing.shape == (0, *something.shape[1:]), name
        assert nothing.dtype == something.dtype, name


@pytest.mark.parametrize(
    "rule", [KeepAll(), Infoprop(step_quantile=0.8), Macura(xi=0.9)], ids=lambda rule: type(rule).__name__
)
def test_rollouts_do_not_depend_on_their_batch(rule: Truncation) -> None:
    model = walk(std=1e-5)
    model.offset = model.offset * 1e-4  # next to nothing random is left, and doubt still decides
    calibrated(rule, model)
    start = torch.tensor([[0.0, 1.0], [1.1, 0.0], [2.2, 0.0], [5.0, 0.0]])
    together = imagine(model, act, start, 6, rule, rng=rng())
    alone = [imagine(model, act, start[i : i + 1], 6, rule, rng=rng(i)) for i in range(4)]
    lengths = {len(rows.obs) for rows in alone}
    assert lengths == {6} if isinstance(rule, KeepAll) else len(lengths) > 2
    joined = [torch.cat(column) for column in zip(*alone, strict=True)]
    order = joined[ImaginedTransitions._fields.index("depth")].argsort(stable=True)
    for name, ours, theirs in zip(ImaginedTransitions._fields, together, joined, strict=True):
        torch.testing.assert_close(ours, theirs[order], atol=0.05, rtol=1e-3, msg=name)


@pytest.mark.parametrize("kind", RULES)
def test_one_seed_gives_one_set_of_rows(kind: type) -> None:
    model = walk(std=0.1)
    rule = calibrated(kind(), model)
    once, again, other = (imagine(model, act, torch.zeros(6, 2), 4, rule, rng=rng(seed)) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    assert once.next_obs.shape != other.next_obs.shape or not torch.equal(once.next_obs, other.next_obs)


def test_rows_carry_the_version_of_the_model() -> None:
    rows = imagine(walk(version=7), act, torch.zeros(3, 2), 2, KeepAll(), rng=rng())
    assert rows.version.tolist() == [7] * 6 and rows.version.dtype == torch.int64


def test_imagination_leaves_no_gradient() -> None:
    layer = torch.nn.Linear(2, 1)
    rows = imagine(walk(), layer, torch.zeros(3, 2, requires_grad=True), 2, KeepAll(), rng=rng())
    assert not any(column.requires_grad for column in rows)
    (layer(rows.obs) ** 2).sum().backward()  # and the rows can still be learned from
    assert layer.weight.grad is not None


@pytest.mark.parametrize("kind", RULES)
def test_an_exact_reward_replaces_the_learned_one(kind: type) -> None:
    model = walk(std=0.1)
    model.exact_reward = lambda next_obs: 10.0 * next_obs[:, 0]
    rows = imagine(model, act, torch.zeros(8, 2), 3, calibrated(kind(), model), rng=rng())
    assert len(rows.obs) > 0
    torch.testing.assert_close(rows.reward, 10.0 * rows.next_obs[:, 0])


def test_a_horizon_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="got 0"):
        imagine(walk(), act, torch.zeros(3, 2), 0, KeepAll(), rng=rng())


# MBPOSchedule


def test_the_schedule_of_hopper_is_the_papers() -> None:
    schedule = MBPOSchedule(1, 15, 20_000, 100_000)  # Janner et al. 2019, table 2
    assert [schedule.horizon(step) for step in (0, 20_000, 60_000, 100_000, 1_000_000)] == [1, 1, 8, 15, 15]


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 3000))
def test_a_schedule_moves_one_way_and_stays_within_its_lengths(a: int, b: int, start: int, span: int, at: int) -> None:
    schedule = MBPOSchedule(a, b, start, start + span)
    here, next_step = schedule.horizon(at), schedule.horizon(at + 1)
    assert min(a, b) <= here <= max(a, b)
    assert (next_step - here) * (b - a) >= 0
    assert schedule.horizon(start + span) == b
    assert start == 0 or schedule.horizon(start - 1) == a


@pytest.mark.parametrize(("arguments", "message"), [((0, 5, 0, 10), "at least 1, got 0"), ((1, 5, 10, 0), "10 and 0")])
def test_a_schedule_that_makes_no_sense_is_refused(arguments: tuple[int, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MBPOSchedule(*arguments)


# horizon_error


def windows(count: int, length: int, std: float) -> Transitions:
    """Real windows of a noisy walk, whose action is its reward."""
    noise = std * torch.randn(count, length, 3, generator=rng())
    steps = 1.0 + noise[..., :2]
    obs = torch.cat([torch.zeros(count, 1, 2), steps.cumsum(1)[:, :-1]], 1)
    action = torch.rand(count, length, 1, generator=rng(1))
    return Transitions(obs, action, action[..., 0] + noise[..., 2], obs + steps, torch.zeros(count, length))


def test_a_model_that_is_right_is_calibrated_and_errs_by_the_noise_alone() -> None:
    std, length = 0.5, 4
    model = WalkModel(torch.zeros(3, 3), torch.full((3, 3), std))
    real = windows(20_000, length, std)
    error = horizon_error(model, real)
    assert error.coverage[0].item() == pytest.approx(0.9, abs=0.01)
    spread = real.next_obs.reshape(-1, 2).std(0)
    expected = [(std * math.sqrt(depth) / spread).square().mean().sqrt().item() for depth in range(1, length + 1)]
    torch.testing.assert_close(error.state, torch.tensor(expected), rtol=0.03, atol=0)
    torch.testing.assert_close(error.reward, (std / real.reward.std()).expand(length), rtol=0.03, atol=0)
    assert (error.coverage.diff() < 0).all()  # a one-step interval cannot hold the noise of many steps


def test_a_biased_model_errs_in_proportion_to_depth() -> None:
    model = WalkModel(torch.tensor([[0.2, 0.2, 0.0]]).expand(3, 3), torch.full((3, 3), 1e-3))
    error = horizon_error(model, windows(100, 5, 1e-4))
    torch.testing.assert_close(error.state, error.state[0] * torch.arange(1.0, 6.0), rtol=1e-2, atol=0)
    torch.testing.assert_close(error.coverage, torch.full((5,), 1 / 3))  # the reward alone, one of three, is right


def test_disagreement_widens_the_interval() -> None:
    wide = WalkModel(0.5 * torch.tensor([[1.0] * 3, [-1.0] * 3]), torch.full((2, 3), 1e-6))
    assert horizon_error(wide, windows(5_000, 1, 0.5)).coverage[0].item() == pytest.approx(0.9, abs=0.01)


def test_metrics_name_every_depth() -> None:
    error = horizon_error(WalkModel(torch.zeros(3, 3), torch.full((3, 3), 0.5)), windows(10, 2, 0.5))
    names = [f"world_model/{kind}_depth_{depth}" for kind in ("error", "reward_error", "coverage") for depth in (1, 2)]
    assert list(error.metrics()) == names
    assert error.metrics()["world_model/error_depth_2"] == error.state[1].item()


def test_a_reward_that_is_known_is_the_one_that_is_scored() -> None:
    real, wrong = windows(100, 3, 1e-4), torch.tensor([[0.0, 0.0, 9.0]])
    exact = real._replace(reward=real.next_obs[..., 0])
    told = WalkModel(wrong, torch.full((1, 3), 1e-3), exact_reward=lambda next_obs: next_obs[:, 0])
    learned = WalkModel(wrong, told.std)
    assert horizon_error(told, exact).coverage[0] == horizon_error(learned, exact).coverage[0] == 2 / 3
    assert horizon_error(told, exact).reward.max() < 0.01 < 1.0 < horizon_error(learned, exact).reward.min()
