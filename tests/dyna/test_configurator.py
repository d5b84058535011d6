"""The configurator notices what has changed, says which part it is, and is quiet about the others."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from dyna import holdout
from dyna.calibration import Thresholds
from dyna.configurator import CRITIC, Configurator, metrics_of
from dyna.packed import PackedReplayBuffer
from dyna.plan_model import PlanModel
from dyna.types import Transitions
from dyna.world_model import EnsembleSettings, GaussianEnsemble

H, GAMMA, PUSH = 3, 0.9, 0.3
State = tuple[np.ndarray, float, bool]  # next observation, reward, end
World = Callable[[np.ndarray, float, np.random.Generator], State]


def world(obs: np.ndarray, action: float, rng: np.random.Generator, *, push: float = PUSH, bonus: float = 0.0) -> State:
    """A point that is pushed about and drawn to the middle; the reward is where it is, it ends beyond 1.2."""
    next_obs = (0.9 * obs + push * action + 0.05 * rng.normal(size=1)).astype(np.float32)
    return next_obs, float(next_obs[0]) + 0.05 * rng.normal() + bonus, bool(next_obs[0] > 1.2)


def value(obs: Tensor) -> Tensor:
    """Two critics that know the middle has no worth, and that nothing else is known to last [2, B]."""
    return torch.stack([2.0 * obs[:, 0], 3.0 * obs[:, 0]])


def live(replay: PackedReplayBuffer, steps: int, what: World, seed: int) -> list[bool]:
    """Random actions for some steps, into the replay; returns where episodes ended."""
    rng, obs, ends = np.random.default_rng(seed), np.zeros(1, np.float32), []
    for _ in range(steps):
        action = rng.uniform(-1, 1)
        next_obs, reward, end = what(obs, action, rng)
        replay.add(obs[None], next_obs[None], np.array([[action]]), np.array([reward]), np.array([end]), [{}])
        ends.append(end)
        obs = np.zeros(1, np.float32) if end else next_obs
    return ends


def empty() -> PackedReplayBuffer:
    return PackedReplayBuffer(5_000, spaces.Box(-9, 9, (1,)), spaces.Box(-1, 1, (1,)), "cpu")


@pytest.fixture(scope="module")
def known() -> tuple[GaussianEnsemble, Transitions]:
    """A model that was fitted to the world, and what to."""
    replay = empty()
    live(replay, 2_000, world, seed=0)
    data = replay.all_transitions()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        settings = EnsembleSettings(members=3, elites=3, width=32, depth=1, max_updates=300, target="delta")
        model = GaussianEnsemble(1, 1, settings)
    model.fit(data, rng=torch.Generator().manual_seed(0))
    return model, data


def watched(known: tuple[GaussianEnsemble, Transitions], what: World, steps: int, **how: bool) -> Configurator:
    """What a configurator has heard after some steps of a world."""
    (model, data), replay = known, empty()
    configurator = Configurator(1, H, 1, 1, gamma=GAMMA, value=value, thresholds=Thresholds(), **how)
    configurator.freeze(model, data)
    configurator.thresholds.tau.fill_(0.5)
    rng, planner = torch.Generator().manual_seed(1), PlanModel(model)
    obs = np.zeros(1, np.float32)
    draw = np.random.default_rng(2)
    for _ in range(steps):
        envs, plans = configurator.windows.waiting(), torch.zeros(1, H, 1)
        if len(envs):
            configurator.promise(planner, envs, torch.as_tensor(obs)[None], plans, plans + 0.1)
        action = draw.uniform(-1, 1)
        next_obs, reward, end = what(obs, action, draw)
        replay.add(obs[None], next_obs[None], np.array([[action]]), np.array([reward]), np.array([end]), [{}])
        for closed in configurator.windows.advance(torch.tensor([end])):
            verdict = configurator.judge(PlanModel(model), replay, closed, rng)
            account = verdict.account
            torch.testing.assert_close(account.broken, account.model + account.replan)
            assert account.policy_gap < 0  # the policy pushes up, where more is earned
            assert all(np.isfinite(value) for value in metrics_of(verdict).values())
        obs = np.zeros(1, np.float32) if end else next_obs
    return configurator


def alarms(configurator: Configurator) -> dict[str, int]:
    heard = configurator.detectors
    return {name: count for name, count in zip(heard.names, heard.alarms.tolist(), strict=True) if count}


def test_a_changed_world_is_measured_on_rows_that_were_held_out_too(
    known: tuple[GaussianEnsemble, Transitions], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = known
    monkeypatch.setattr(holdout, "HOLDOUT_ROWS", len(data.obs) // 50)
    held, today = holdout.held_out(data, model.settings.holdout), torch.arange(len(data.obs)) >= len(data.obs) // 2
    configurator = Configurator(1, H, 1, 1, gamma=GAMMA, value=value, thresholds=Thresholds())
    seen: list[Transitions] = []
    monkeypatch.setattr(configurator.thresholds, "freeze", lambda model, rows, *rest: seen.append(rows))
    configurator.freeze(model, data, today)
    assert held.float().mean() < 0.04 and torch.equal(seen[0].obs, data.obs[held & today])


def test_nothing_is_noticed_where_nothing_has_changed(known: tuple[GaussianEnsemble, Transitions]) -> None:
    configurator = watched(known, world, 600)
    told = configurator.metrics()
    assert not {"dynamics", "reward", "termination"} & set(alarms(configurator))
    for head in ("dynamics", "reward", "termination"):
        assert told[f"coverage_{head}"] > 0.82 and told[f"misses_{head}"] < 0.2


@pytest.mark.parametrize(
    ("changed", "head"),
    [
        (lambda obs, action, rng: world(obs, action, rng, bonus=1.0), "reward"),
        (lambda obs, action, rng: world(obs, action, rng, push=1.5 * PUSH), "dynamics"),
        (lambda obs, action, rng: (*world(obs, action, rng)[:2], action > 0.5), "termination"),
    ],
)
def test_the_head_that_no_longer_fits_is_named(
    known: tuple[GaussianEnsemble, Transitions], changed: World, head: str
) -> None:
    raised = alarms(watched(known, changed, 300))
    raised.pop(CRITIC, None)
    assert set(raised) == {head}


def test_one_outcome_that_misses_by_a_whole_return_is_an_alarm(known: tuple[GaussianEnsemble, Transitions]) -> None:
    (model, data), plans = known, torch.zeros(1, H, 1)
    for fall, raised in ((1.0, []), (-100.0, [CRITIC])):
        replay, configurator = empty(), Configurator(1, H, 1, 1, gamma=GAMMA, value=value, thresholds=Thresholds())
        configurator.freeze(model, data)
        configurator.promise(PlanModel(model), torch.tensor([0]), torch.zeros(1, 1), plans, plans + 0.1)
        live(replay, H, lambda obs, action, rng, fall=fall: (obs, fall, True), seed=0)
        (closed,) = configurator.windows.advance(torch.tensor([True]))
        verdict = configurator.judge(PlanModel(model), replay, closed, torch.Generator().manual_seed(0))
        assert verdict.alarms == raised and configurator.shocks == len(raised)


def test_pooled_detectors_name_them_all(known: tuple[GaussianEnsemble, Transitions]) -> None:
    raised = watched(known, lambda obs, action, rng: world(obs, action, rng, bonus=1.0), 100, pooled=True)
    assert set(alarms(raised)) == {"dynamics", "reward", "termination", CRITIC}


def test_it_goes_on_as_it_was(known: tuple[GaussianEnsemble, Transitions]) -> None:
    ours = watched(known, world, 50)
    others = Configurator(1, H, 1, 1, gamma=GAMMA, value=value, thresholds=ours.thresholds)
    others.load_state_dict(ours.state_dict())
    assert others.metrics() == ours.metrics() and torch.equal(others.windows.age, ours.windows.age)


def test_where_the_policy_acts_there_is_no_gap_to_be_seen(known: tuple[GaussianEnsemble, Transitions]) -> None:
    (model, data), replay, plans = known, empty(), torch.zeros(1, H, 1)
    configurator = Configurator(1, H, 1, 1, gamma=GAMMA, value=value, thresholds=Thresholds())
    configurator.freeze(model, data)
    none = torch.full_like(plans, torch.nan)
    configurator.promise(PlanModel(model), torch.tensor([0]), torch.zeros(1, 1), none, plans)
    for end in live(replay, H, world, seed=9):
        closed = configurator.windows.advance(torch.tensor([end]))
    verdict = configurator.judge(PlanModel(model), replay, closed[0], torch.Generator().manual_seed(0))
    assert "policy_gap" not in metrics_of(verdict) and float(configurator.thresholds.gap) == float("inf")


def test_a_residual_that_is_the_same_everywhere_is_no_surprise(known: tuple[GaussianEnsemble, Transitions]) -> None:
    def shifted(obs: Tensor) -> Tensor:
        return value(obs) + 100.0

    (model, data), told = known, {}
    for centred in (True, False):
        configurator = Configurator(1, H, 1, 1, gamma=GAMMA, value=shifted, thresholds=Thresholds(), centred=centred)
        configurator.freeze(model, data)
        told[centred] = float(configurator.thresholds.bias)
    assert told[True] == pytest.approx((GAMMA**H - 1) * 100, abs=1.0) and told[False] == 0


def test_outcomes_are_drawn_by_how_surprising_they_are(known: tuple[GaussianEnsemble, Transitions]) -> None:
    configurator = watched(known, world, 90)
    configurator.outcomes.columns["earned"][3] += 1e6
    drawn = configurator.surprises(50, torch.Generator().manual_seed(0))
    everything = configurator.outcomes.all()
    assert {float(row) for row in drawn["obs"]} <= {float(row) for row in everything["obs"]}
    assert sum(float(row) > 1e5 for row in drawn["earned"]) > 40
    configurator.forget()
    assert configurator.outcomes.size == 0


def test_the_constant_that_critics_lack_is_found(known: tuple[GaussianEnsemble, Transitions]) -> None:
    configurator = watched(known, world, 90)
    assert configurator.offset(0) == 0.0
    lacking = configurator.offset(20)
    configurator.value = lambda obs: value(obs) + 7.0
    assert configurator.offset(20) == pytest.approx(lacking - 7.0, abs=1e-3)
    configurator.value = lambda obs: value(obs) + lacking
    assert configurator.offset(20) == pytest.approx(0.0, abs=1e-3)
