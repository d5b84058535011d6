"""Flags over file over preset over defaults, and a stored configuration is the whole truth."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyna import config, presets, registry
from dyna.config import RunConfig
from dyna.errors import UserError

values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.lists(st.integers())
settings = st.dictionaries(st.text(), values | st.dictionaries(st.text(), values, max_size=2), max_size=2)
count = st.integers(1, 10**9)
configs = st.builds(
    RunConfig,
    env=st.text(),
    algo=st.text(),
    steps=count,
    seed=st.integers(0, 2**32 - 1),
    hyperparameters=settings,
    env_kwargs=settings,
    n_envs=count,
    normalize=st.booleans() | settings,
    eval_every=count,
    eval_episodes=count,
    until=st.none() | st.floats(allow_nan=False),
    checkpoint_every=count,
    device=st.sampled_from(["auto", "cpu", "cuda", "cuda:1"]),
    threads=st.integers(0, 64),
    runs=st.sampled_from([Path("runs"), Path("/elsewhere/my runs")]),
)


@pytest.fixture
def preset(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The preset that every algorithm has on every environment; a test fills it."""
    found: dict[str, Any] = {}
    monkeypatch.setattr(presets, "load", lambda algo, env: found)
    return found


@given(configs)
def test_a_stored_configuration_is_read_back_equal(stored: RunConfig) -> None:
    assert RunConfig.from_yaml(stored.to_yaml()) == stored


def test_flags_beat_the_file_beats_the_preset_beats_the_default(preset: dict[str, Any]) -> None:
    preset.update(steps=2, seed=2, n_envs=2)
    resolved = config.resolve({"steps": 4}, {"steps": 3, "seed": 3})
    assert (resolved.steps, resolved.seed, resolved.n_envs, resolved.threads) == (4, 3, 2, 1)


def test_hyperparameters_are_laid_over_each_other_key_by_key(preset: dict[str, Any]) -> None:
    preset["hyperparameters"] = {"a": 1, "b": 1, "deep": {"x": 1, "y": 1, "z": 1}}
    file = {"hyperparameters": {"b": 2, "deep": {"y": 2}}}
    resolved = config.resolve({"hyperparameters": {"c": 3, "deep": {"z": 3}}}, file)
    assert resolved.hyperparameters == {"a": 1, "b": 2, "c": 3, "deep": {"x": 1, "y": 2, "z": 3}}


def test_a_stored_configuration_takes_no_preset(preset: dict[str, Any]) -> None:
    stored = RunConfig(hyperparameters={"a": 1})
    preset.update(steps=77, hyperparameters={"b": 2})
    assert config.resolve({}, config.settings_of(stored.to_yaml())) == stored
    assert config.resolve({}).steps == 77
    assert config.resolve({}, preset=False).steps == RunConfig.steps


def test_the_preset_is_that_of_the_algorithm_and_environment_that_were_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(presets, "load", lambda algo, env: asked.append((algo, env)) or {})
    config.resolve({"algo": "sac"}, {"algo": "td3", "env": "Hopper-v5"})
    assert asked == [("sac", "Hopper-v5")]


def test_an_environment_s_block_lies_over_the_common_one(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = {"default": {"steps": 1, "hyperparameters": {"a": 1, "b": 1}}, "E-v0": {"hyperparameters": {"b": 2}}}
    monkeypatch.setattr(presets, "blocks_of", lambda algo: blocks)
    assert presets.load("sac", "E-v0") == {"steps": 1, "hyperparameters": {"a": 1, "b": 2}}
    assert presets.load("sac", "Other-v0") == blocks["default"]


def test_an_algorithm_without_a_file_has_no_preset() -> None:
    assert presets.load("not_registered", "Pendulum-v1") == {}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("stesp: 5", "unknown key 'stesp': the nearest is 'steps', and `dyna train --help` shows all"),
        ("steps: many", "steps must be an integer, got 'many'"),
        ("steps: 0", "steps must be at least 1, got 0"),
        ("device: gpu", "device must be auto, cpu or cuda, got 'gpu'"),
        ("hyperparameters: 5", "hyperparameters must be a mapping, got 5"),
        ("- steps", r"a configuration must be a mapping as in `steps: 5000`, got \['steps'\]"),
        ("steps: [", "is not YAML"),
        ("steps: 5\nseed: 1\nsteps: 6", "the key 'steps' stands twice, in lines 1 and 3: keep one"),
        ("until: soon", "until must be a number or null, got 'soon'"),
    ],
)
def test_a_mistake_in_a_file_is_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as error:
        RunConfig.from_yaml(text)
    assert "\n" not in str(error.value)


def test_a_mistake_in_a_file_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    with pytest.raises(UserError, match="config.yaml.*cannot be read"):
        config.read(file)
    file.write_text("stesp: 5")
    with pytest.raises(UserError, match="config.yaml: unknown key 'stesp'"):
        config.read(file)


def test_numbers_may_be_written_as_people_write_them() -> None:
    assert RunConfig.from_yaml("steps: 1e6\nuntil: -200").steps == 1_000_000
    assert RunConfig.from_yaml("until: -200").until == -200.0


@pytest.mark.parametrize("odd", [int, len, b"x", {1, 2}, np.zeros(2), {"inside": [1, RunConfig]}, {(1, 2): 3}])
def test_what_a_file_cannot_hold_is_refused(odd: Any) -> None:
    with pytest.raises(UserError, match=r"env_kwargs\.odd.* must be a number, a text, .*, got ") as error:
        config.resolve({"env_kwargs": {"odd": odd}})
    assert "\n" not in str(error.value)


def test_a_configuration_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig().steps = 3  # type: ignore[misc]


def test_the_default_algorithm_takes_continuous_and_discrete_actions() -> None:
    assert {"Box", "Discrete"} <= set(registry.action_spaces(*registry.classes(RunConfig().algo)))
