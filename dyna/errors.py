"""What the command line turns into one sentence and an exit code."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake the user can mend: one sentence that holds the value and what to do next (exit code 2)."""


class RunFailed(RuntimeError):  # noqa: N818 - the word that summary.json has
    """A run that could not go on: the message says at which step, why, and what to do (exit code 1)."""


class Diverged(RunFailed):
    """Learning that ran into NaN or infinity; `part` says where."""

    def __init__(self, part: str, what: str) -> None:
        super().__init__(f"the {part} has diverged: {what}")
        self.part = part


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """The choice most like `name`, letter case aside; None where there is nothing to choose from.

    Before all others are those that it abbreviates: `lr` is the `learning_rate`.
    """
    spelled = {choice.lower(): choice for choice in choices}
    abbreviated = [choice for choice in spelled if _initials(choice) == name.lower()]
    found = difflib.get_close_matches(name.lower(), abbreviated or spelled, n=1, cutoff=0.0)
    return spelled[found[0]] if found else None


def _initials(name: str) -> str:
    """`world_model.lr` of `world_model.learning_rate`."""
    path, dot, last = name.rpartition(".")
    return path + dot + "".join(word[:1] for word in last.split("_"))


def unknown(noun: str, name: str, choices: Iterable[str], *, see: str) -> UserError:
    """The error for a name that is not among the choices: it names the nearest and where all of them are shown."""
    near = nearest(name, choices)
    hint = f"the nearest is {near!r}, and " if near else ""
    return UserError(f"unknown {noun} {name!r}: {hint}{see} shows all")
