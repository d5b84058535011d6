"""Progress says how far and how fast, costs a comparison of times a step, and is silent when asked."""

from __future__ import annotations

import pytest

from dyna import progress
from dyna.progress import Bar, Lines, Meter, Reading


class Display:
    """Keeps what it is shown."""

    seconds = 2.0

    def __init__(self) -> None:
        self.shown: list[tuple[int, str, int, float | None]] = []
        self.closed = False

    def show(self, reading: Reading, text: str, total: int, left: float | None) -> None:
        self.shown.append((reading.step, text, total, left))

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def test_rates_are_those_between_two_readings(clock: list[float]) -> None:
    display = Display()
    with Meter(1_000, display) as meter:
        assert not meter.is_due
        clock[0] += 2
        assert meter.is_due
        meter.update(Reading(100, 1.0, 50))
        assert not meter.is_due
        clock[0] += 60  # most of it an evaluation
        reading = Reading(300, 5.0, 1_050, evaluated=-123.456, holdout_error=0.0123456)
        meter.update(reading)
        meter.update(reading)
    assert display.shown == [
        (100, "", 1_000, None),
        (300, "50 steps/s, 250 updates/s, return -123.5, model error 0.0123", 1_000, 14.0),
    ]
    assert display.closed


def test_a_silent_meter_is_never_due(clock: list[float]) -> None:
    meter = progress.meter(10, show=False)
    clock[0] += 1e9
    assert not meter.is_due
    meter.update(Reading(1, 0.1, 1))


def test_what_is_no_terminal_gets_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.meter(10, show=None) as meter:
        meter.update(Reading(1, 0.0, 0))
        meter.update(Reading(3, 1.0, 2, evaluated=5.0))
        meter.update(Reading(10, 900.0, 9))
    assert capsys.readouterr().out.splitlines() == [
        "step 1 of 10",
        "step 3 of 10: 2 steps/s, 2 updates/s, return 5, 0:00:04 left",
        "step 10 of 10: 0.00779 steps/s, 0.00779 updates/s",
    ]


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with progress.meter(10, show=None) as meter:
        meter.update(Reading(4, 1.0, 2, evaluated=-7.0))
    shown = capsys.readouterr().out
    assert "4/10" in shown
    assert "return -7" in shown


def test_the_bar_looks_some_times_a_second_and_lines_come_seldom() -> None:
    assert 0.1 <= Bar.seconds <= 0.5
    assert Lines.seconds >= 5
