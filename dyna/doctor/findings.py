"""What a look at an environment found: one line of the doctor's table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "note", "warning", "error"]
"""A note is worth knowing; with a warning training may disappoint; with an error it cannot work."""
_EXIT_CODES: dict[Verdict, int] = {"ok": 0, "note": 0, "warning": 1, "error": 2}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    verdict: Verdict
    seen: str
    remedy: str = ""


class Broken(Exception):  # noqa: N818 - what is said of the environment
    """The environment did what ends the examination; the finding says what."""

    def __init__(self, name: str, seen: str, remedy: str) -> None:
        super().__init__(f"{seen}: {remedy}")
        self.finding = Finding(name, "error", seen, remedy)


def exit_code(findings: Iterable[Finding]) -> int:
    """0 where nothing is wrong, 1 with warnings, 2 with errors."""
    return max((_EXIT_CODES[finding.verdict] for finding in findings), default=0)
