"""From Python, too, what does not fit is refused at once, in a sentence that holds the value."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium as gym
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyna import hyperparameters, limits, registry
from dyna.algorithms.mbpo import MBPO
from dyna.errors import UserError
from dyna.world_model import EnsembleSettings

NAMES = (
    *("real_share", "batch_size", "buffer_size", "learning_starts", "gradient_steps", "gamma", "tau", "learning_rate"),
    *("reward_fn", "termination_fn", "world_model", "model_every", "rollouts", "model_lifetime", "horizon"),
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", ["x", -3, float("nan"), float("inf"), [], {}, -0.5])
def test_an_argument_that_does_not_fit_is_refused_with_its_value(name: str, value: Any) -> None:
    with pytest.raises((ValueError, TypeError, AssertionError)) as caught:
        MBPO("MlpPolicy", gym.make("Pendulum-v1"), device="cpu", **{name: value})
    if name not in ("buffer_size", "learning_rate"):  # those SB3 looks at before us
        assert isinstance(caught.value, UserError)
        assert name in str(caught.value) and repr(value) in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_may_be_negative_is_finite(value: float) -> None:
    with pytest.raises(UserError, match=f"target_entropy must be a finite number, got {value}"):
        MBPO("MlpPolicy", gym.make("Pendulum-v1"), device="cpu", target_entropy=value)


@pytest.mark.parametrize("name", ["gamma", "tau", "batch_size", "learning_starts", "gradient_steps"])
def test_no_number_is_none_where_that_has_no_meaning(name: str) -> None:
    with pytest.raises(UserError, match=f"{name} must be .*, got None"):
        MBPO("MlpPolicy", gym.make("Pendulum-v1"), device="cpu", **{name: None})


@given(
    st.sampled_from([field.name for field in dataclasses.fields(EnsembleSettings)]),
    st.none() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.integers(), max_size=2),
)
def test_any_setting_of_the_world_model_fits_or_is_refused_with_its_value(name: str, value: Any) -> None:
    try:
        EnsembleSettings(**{name: value})
    except UserError as error:
        assert name in str(error) or name == "members"  # fewer members than elites
        assert str(value) in str(error) or repr(value) in str(error)


def test_defaults_and_what_stands_for_a_number_are_in_range() -> None:
    for cls in (cls for algo in registry.names() for cls in registry.classes(algo)):
        defaults = {knob.name: knob.default for knob in hyperparameters.knobs(cls)}
        limits.check({name: value for name, value in defaults.items() if value is not None})
    limits.check({"learning_rate": "lin_3e-4", "ent_coef": "auto", "train_freq": [1, "episode"], "unknown": object()})


def test_ranges_are_those_of_numbers_that_some_algorithm_takes() -> None:
    known = {knob.name for algo in registry.names() for knob in hyperparameters.knobs(registry.find(algo))}
    assert set(limits.RANGES) <= known
