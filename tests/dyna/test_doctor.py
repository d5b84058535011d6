"""An environment that is good triggers nothing; one that has one fault triggers the finding that names it, alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
import torch

from dyna.config import RunConfig
from dyna.doctor import Finding, examination, examine, exit_code, heldout, learnability
from dyna.doctor.heldout import Foreseen
from dyna.doctor.sampling import Sample
from dyna.types import Transitions
from tests import bad_environments
from tests.bad_environments import BROKEN, GOOD, HIDDEN, ODD, Cart, Counted, CutSpeed, Endless, Slow

SEVERE = ("warning", "error")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small world models, and no training: that has laws of its own."""
    small = dataclasses.replace(heldout.SETTINGS, members=2, elites=2, width=64, max_updates=200)
    monkeypatch.setattr(heldout, "SETTINGS", small)

    def nothing(*_: object) -> Iterator[Finding]:
        return iter(())

    monkeypatch.setattr(examination, "_training", nothing)


def found(cls: type[Cart], steps: int) -> list[Finding]:
    return list(examine(RunConfig(env=f"{bad_environments.__name__}:{cls.__name__}"), steps=steps))


def severe(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(each.name, each.verdict) for each in findings if each.verdict in SEVERE]


@pytest.mark.parametrize("cls", GOOD)
def test_nothing_is_found_where_nothing_is_wrong(cls: type[Cart]) -> None:
    findings = found(cls, steps=1_500)
    assert severe(findings) == [] and exit_code(findings) == 0
    assert len(findings) > 10


@pytest.mark.parametrize("cls", BROKEN)
def test_what_is_broken_ends_the_examination(cls: type[Cart]) -> None:
    findings = found(cls, steps=400)
    assert severe(findings) == [(BROKEN[cls], "error")] and exit_code(findings) == 2
    assert findings[-1].seen and findings[-1].remedy


@pytest.mark.parametrize("cls", ODD)
def test_a_fault_triggers_its_own_finding_alone(cls: type[Cart]) -> None:
    findings = found(cls, {Slow: 20, Endless: 1_000}.get(cls, 400))
    assert severe(findings) == [(ODD[cls], "warning")] and exit_code(findings) == 1
    assert all(each.remedy for each in findings if each.verdict == "warning")


def test_numbers_that_are_cut_off_are_noted() -> None:
    noted = {cls: [each for each in found(cls, steps=400) if each.name == "cut numbers"] for cls in (Cart, CutSpeed)}
    (note,) = noted[CutSpeed]
    assert not noted[Cart] and note.verdict == "note" and "obs[1]" in note.seen and "obs[0]" not in note.seen


@pytest.mark.parametrize("cls", HIDDEN)
def test_what_a_world_model_cannot_learn_is_found(cls: type[Cart]) -> None:
    assert severe(found(cls, steps=1_500)) == [(HIDDEN[cls], "warning")]


ROWS = 4_000


def walk() -> Sample:
    """One long walk of chance, one number."""
    steps = torch.randn(ROWS, 1, generator=torch.Generator().manual_seed(0))
    there = steps.cumsum(0)
    data = Transitions(there - steps, steps, there[:, 0], there, torch.zeros(ROWS))
    never = torch.zeros(ROWS, dtype=torch.bool)
    return Sample(data, never, torch.zeros(ROWS, dtype=torch.int64), ["x"], torch.tensor([True]), 1.0, [])


def foreseen(sample: Sample, error: float) -> Foreseen:
    """Every change foreseen but for a share of its variance."""
    data = sample.transitions
    noise = torch.randn(ROWS, 1, generator=torch.Generator().manual_seed(1))
    change = data.next_obs - data.obs + noise * error**0.5
    return Foreseen(torch.arange(ROWS), change, data.reward, data.terminated, torch.arange(ROWS) % heldout.FOLDS)


@pytest.mark.parametrize(
    ("now", "past", "verdict"),
    [
        (0.9, 0.5, "warning"),  # much more is foreseen
        (0.2, 0.02, "warning"),  # almost all of what was not foreseen
        (0.4, 0.25, "ok"),  # somewhat more: a past step also helps where the state is hard to learn
        (0.03, 0.001, "ok"),  # next to nothing was missing
        (0.9, 0.8, "note"),
    ],
)
def test_the_past_must_tell_much_more_than_the_state(now: float, past: float, verdict: str) -> None:
    sample = walk()
    assert learnability.state(foreseen(sample, now), foreseen(sample, past), sample).verdict == verdict


def test_a_reward_that_few_steps_hold_is_not_judged() -> None:
    sample = walk()
    paid = torch.zeros(ROWS)
    paid[:5] = 100.0
    rare = dataclasses.replace(sample, transitions=sample.transitions._replace(reward=paid))
    said = foreseen(sample, 0.0)._replace(reward=torch.randn(ROWS))
    assert learnability.reward(said, None, rare).verdict == "note"
    assert learnability.reward(said, None, sample).verdict == "warning"


def test_every_environment_that_is_made_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    closed: list[int] = []
    monkeypatch.setattr(Counted, "made", made)
    monkeypatch.setattr(Counted, "closed", closed)
    found(Counted, 400)
    assert made and sorted(made) == sorted(set(closed))
