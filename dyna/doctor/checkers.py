"""What Gymnasium's and Stable-Baselines3's own checkers say."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import gymnasium as gym
from gymnasium.utils.env_checker import check_env as check_by_gymnasium
from stable_baselines3.common.env_checker import check_env as check_by_sb3

from dyna.doctor.findings import Finding
from dyna.guard import ENDS

HARMLESS = (
    "different from the unwrapped version",  # the wrappers are part of what is trained in
    "minimum value is -infinity",  # learners here do not scale by bounds
    "maximum value is infinity",
    "symmetric and normalized",  # actions are scaled by the algorithms
    "Not able to test alternative render modes",
    "spec.kwargs",
    "flattened",  # observations are, by `dyna.spaces`
    "tuple observation space",
    "nested",
)
"""Advice that does not matter here, by what its sentence holds."""


def examine(make: Callable[[], gym.Env[Any, Any]], *, known: bool) -> list[Finding]:
    """Run both; where a fault is `known` already, their complaint is most likely about the same and a note."""

    def by_gymnasium() -> None:
        with _opened(make) as env:
            check_by_gymnasium(env, skip_render_check=True, skip_close_check=True)

    def by_sb3() -> None:
        with _opened(make) as env:
            check_by_sb3(env)

    return [_finding("gymnasium's checker", by_gymnasium, known), _finding("SB3's checker", by_sb3, known)]


@contextmanager
def _opened(make: Callable[[], gym.Env[Any, Any]]) -> Iterator[gym.Env[Any, Any]]:
    """An environment that is closed afterwards; what it raises then is told elsewhere."""
    env = make()
    try:
        yield env
    finally:
        with suppress(*ENDS):
            env.close()


def _finding(name: str, check: Callable[[], None], known: bool) -> Finding:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            check()
        except ENDS as error:  # a complaint, or the environment's own code
            complaint = _plain(f"{type(error).__name__}: {error}")
            if known:
                return Finding(name, "note", complaint, "most likely what is told above")
            return Finding(name, "warning", complaint, "mend what it names")
    said = [_plain(str(each.message)) for each in caught]
    advice = [each for each in dict.fromkeys(said) if not any(harmless in each for harmless in HARMLESS)]
    if advice:
        return Finding(name, "note", "; ".join(advice), "advice, not a fault")
    return Finding(name, "ok", "no complaint")


def _plain(text: str) -> str:
    """On one line, without the colours that Gymnasium's logger adds."""
    return " ".join(re.sub(r"\x1b\[\d+m|WARN: ", "", text).split())
