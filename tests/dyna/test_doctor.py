"""An environment that is good triggers nothing; one that has one fault triggers the finding that names it, alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from dyna.config import RunConfig
from dyna.doctor import Finding, examination, examine, exit_code, heldout
from tests import bad_environments
from tests.bad_environments import BROKEN, GOOD, HIDDEN, ODD, Cart, Endless, Slow

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


@pytest.mark.parametrize("cls", HIDDEN)
def test_what_a_world_model_cannot_learn_is_found(cls: type[Cart]) -> None:
    assert severe(found(cls, steps=1_500)) == [(HIDDEN[cls], "warning")]
