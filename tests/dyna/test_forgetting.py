"""Heads learn from the rows that teach them, and forget the old world only where that clearly tells the new better."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dyna import forgetting, holdout
from dyna.lessons import normalised
from dyna.types import Transitions
from dyna.world_model import EnsembleSettings, GaussianEnsemble

OLD, NEW = 600, 80
SETTINGS = EnsembleSettings(members=2, elites=2, width=32, depth=1, max_updates=400, target="delta", learning_rate=1e-2)


def rows(count: int, *, push: float = 1.0, pay: float = 1.0, seed: int = 0) -> Transitions:
    """Of a world in which the action pushes, and the state where it leads to is paid."""
    rng = torch.Generator().manual_seed(seed)
    obs, action = torch.randn(count, 2, generator=rng), 2 * torch.rand(count, 1, generator=rng) - 1
    next_obs = 0.9 * obs + push * action
    return Transitions(obs, action, pay * next_obs[:, 0], next_obs, (next_obs[:, 1] > 2.0).float())


def joined(*parts: Transitions) -> Transitions:
    return Transitions(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def taught_by(heads: tuple[float, float, float]) -> Tensor:
    """Lessons of OLD rows, in which some heads are 0, and of NEW rows."""
    return torch.cat([torch.tensor(heads).expand(OLD, 3), torch.ones(NEW, 3)])


def fitted(data: Transitions, lessons: Tensor | None = None) -> GaussianEnsemble:
    torch.manual_seed(0)
    model = GaussianEnsemble(2, 1, SETTINGS)
    model.fit(data, rng=torch.Generator().manual_seed(0), lessons=lessons)
    return model


def errors(model: GaussianEnsemble, world: Transitions) -> list[float]:
    found: list[float] = forgetting.misfit(model, world, model.y_std).tolist()
    return found


PUSHED, PAID = {"push": 2.0}, {"pay": -1.0}


@pytest.mark.parametrize(("changed", "head"), [(PUSHED, 0), (PAID, 1)])
def test_a_head_that_forgets_learns_the_new_world(changed: dict[str, float], head: int) -> None:
    data, fresh = joined(rows(OLD), rows(NEW, **changed, seed=1)), rows(500, **changed, seed=2)
    lessons = taught_by(tuple(float(i != head) for i in range(3)))  # type: ignore[arg-type]
    forgets, remembers = errors(fitted(data, lessons), fresh), errors(fitted(data), fresh)
    assert forgets[head] < 0.1 * remembers[head]


@pytest.mark.parametrize(("changed", "head"), [(PUSHED, 0), (PAID, 1), ({}, None)])
def test_what_contradicts_new_rows_is_outdated_and_what_is_the_same_is_not(
    changed: dict[str, float], head: int | None
) -> None:
    data = joined(rows(OLD), rows(NEW, **changed, seed=1))
    model, rng = fitted(rows(OLD)), torch.Generator().manual_seed(1)
    before = errors(model, data)
    found, updates = forgetting.outdated(model, data, taught_by((0.0, 0.0, 0.0)), familiar=1.0, rng=rng)
    assert 0 < updates <= 2 * SETTINGS.max_updates
    assert found == [False] * 3 if head is None else found[head]
    assert errors(model, data) == before


def test_what_is_merely_new_is_no_reason_to_forget() -> None:
    data = joined(rows(OLD), rows(NEW, **PUSHED, seed=1))
    model, rng = fitted(rows(OLD)), torch.Generator().manual_seed(1)
    assert forgetting.outdated(model, data, taught_by((0.0, 0.0, 0.0)), familiar=0.0, rng=rng) == ([False] * 3, 0)


def test_ends_are_as_frequent_as_in_the_world_that_is_learned_about() -> None:
    """Batches hold more new rows and more ends than there are."""
    model, rng = GaussianEnsemble(2, 1, SETTINGS), torch.Generator().manual_seed(0)
    old, new = rows(4_000), rows(600, seed=1)
    old.terminated[:], new.terminated[:] = (
        torch.rand(4_000, generator=rng) < 0.02,
        torch.rand(600, generator=rng) < 0.06,
    )
    lessons = torch.cat([torch.tensor([1.0, 1.0, 0.0]).expand(4_000, 3), torch.ones(600, 3)])
    model.fit(joined(old, new), rng=rng, lessons=lessons)
    told = model.predict_elites(new.obs, new.action).p_terminated.mean()
    assert float(told) == pytest.approx(float(new.terminated.mean()), rel=0.25)


def test_lessons_that_name_every_row_change_nothing_but_the_order_of_draws() -> None:
    data = rows(OLD)
    everything = errors(fitted(data, torch.ones(OLD, 3)), rows(500, seed=3))
    assert everything == pytest.approx(errors(fitted(data), rows(500, seed=3)), abs=0.02)


def test_half_of_the_draws_are_rows_that_teach_all() -> None:
    model, data = fitted(rows(OLD)), rows(OLD)
    lessons = torch.cat([torch.zeros(OLD - 10, 3), torch.ones(10, 3)])
    drawn = normalised(model, data, torch.Generator().manual_seed(0), lessons).resample
    assert (drawn[:, ::2] >= OLD - 10).all() and (drawn[:, 1::2] >= OLD - 10).float().mean() < 0.1


def test_rows_that_teach_all_need_not_be_held_out() -> None:
    data = rows(OLD)
    held = holdout.held_out(data, SETTINGS.holdout)
    lessons = torch.zeros(OLD, 3)
    lessons[(~held).nonzero()[:40, 0]] = 1.0
    assert errors(fitted(data, lessons), data)[0] < 0.1
