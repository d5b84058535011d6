"""Two environments in the same state have the same fingerprint, and an attribute that differs is told by its name."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from dyna import fingerprint


class Part:
    """Of an environment's own package."""

    def __init__(self, **values: Any) -> None:
        vars(self).update(values)


class Env(gym.Env[Any, Any]):
    def __init__(self, part: Part) -> None:
        self.part, self.steps = part, np.zeros(2)


def test_in_what_order_attributes_were_written_is_no_state() -> None:
    one, other = Env(Part(mass=1.0, speed=2.0)), Env(Part(speed=2.0, mass=1.0))
    assert fingerprint.of(one) == fingerprint.of(other)


@pytest.mark.parametrize("changed", [{"mass": 1.5}, {"speed": -2.0}, {"more": 0}])
def test_what_differs_deep_within_is_told_by_the_attribute_that_holds_it(changed: dict[str, Any]) -> None:
    values = {"mass": 1.0, "speed": 2.0}
    one, other = fingerprint.of(Env(Part(**values))), fingerprint.of(Env(Part(**{**values, **changed})))
    assert [name for name in one if one[name] != other[name]] == ["part"]
