"""A gate opens on an alarm, and closes where it is no longer needed or does not help."""

from __future__ import annotations

from dyna.gates import PATIENCE, Gate


def test_it_is_open_for_the_first_steps() -> None:
    gate = Gate(opening=100)
    assert gate.is_open(99) and not gate.is_open(100)


def test_an_alarm_opens_it_and_a_small_residual_closes_it() -> None:
    gate = Gate()
    assert not gate.is_open(0)
    gate.open("critic")
    gate.check(3.0, tau=1.0)
    assert gate.is_open(10**9) and gate.reason == "critic"
    gate.check(1.0, tau=1.0)
    assert not gate.is_open(0)


def test_three_checks_without_gain_close_it() -> None:
    gate = Gate()
    gate.open("critic")
    for residual in (5.0, 4.0, *[3.99] * PATIENCE):
        assert gate.is_open(0)
        gate.check(residual, tau=1.0)
    assert not gate.is_open(0) and gate.reason == "learning does not help"


def test_gain_keeps_it_open() -> None:
    gate = Gate()
    gate.open("critic")
    for i in range(20):
        gate.check(100 * 0.9**i, tau=1.0)
    assert gate.is_open(0)


def test_a_second_alarm_begins_the_checks_anew() -> None:
    gate = Gate()
    gate.open("critic")
    for _ in range(PATIENCE):
        gate.check(5.0, tau=1.0)
    gate.open("critic, again")
    gate.check(9.0, tau=1.0)
    assert gate.is_open(0) and gate.best == 9.0


def test_a_check_of_a_closed_gate_changes_nothing() -> None:
    gate = Gate()
    gate.check(9.0, tau=1.0)
    assert gate == Gate()


def test_it_goes_on_as_it_was() -> None:
    gate, other = Gate(), Gate()
    gate.open("critic")
    gate.check(5.0, tau=1.0)
    other.load_state_dict(gate.state_dict())
    assert gate == other
