"""A gate opens on an alarm and while learning may move what is earned, and closes step by step where it does not."""

from __future__ import annotations

from dyna.gates import NARROWER, Gate


def test_nothing_closes_it_during_the_opening() -> None:
    gate = Gate(opening=100)
    gate.look(99, moves=False)
    assert gate.share == 1.0
    gate.look(100, moves=False)
    assert gate.share == NARROWER


def test_each_look_in_vain_closes_it_further_and_a_change_opens_it() -> None:
    gate = Gate()
    for n in range(1, 5):
        gate.look(0, moves=False)
        assert gate.share == NARROWER**n and gate.reason == "learning moves little"
    gate.look(0, moves=True)
    assert gate.share == 1.0 and not gate.alarmed


def test_an_alarm_opens_it_until_a_look_in_vain() -> None:
    gate = Gate()
    gate.look(0, moves=False)
    gate.alarm("critic")
    assert gate.share == 1.0 and gate.alarmed == {"critic"} and gate.reason == "an alarm of critic"
    gate.look(0, moves=True)
    assert gate.alarmed
    gate.look(0, moves=False)
    assert not gate.alarmed and gate.share == NARROWER


def test_alarms_that_led_to_nothing_are_believed_less_until_one_does() -> None:
    gate = Gate()
    for n in range(4):
        gate.share = 0.0
        gate.alarm("critic")
        assert gate.share == NARROWER**n
        gate.look(0, moves=False)
    gate.alarm("dynamics")
    assert gate.share == 1.0, "another part has its own word"
    gate.look(0, moves=True)
    gate.share = 0.0
    gate.alarm("critic")
    assert gate.share == NARROWER**4, "what moved came after the other's alarm"
    gate.look(0, moves=True)
    gate.share = 0.0
    gate.alarm("critic")
    assert gate.share == 1.0


def test_an_alarm_does_not_close_it() -> None:
    gate = Gate(belief={"critic": 0.25})
    gate.alarm("critic")
    assert gate.share == 1.0


def test_it_goes_on_as_it_was() -> None:
    gate, other = Gate(), Gate()
    gate.look(0, moves=False)
    gate.alarm("critic")
    other.load_state_dict(gate.state_dict())
    assert gate == other
