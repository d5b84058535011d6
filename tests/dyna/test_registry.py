"""Algorithms are found by name, late, and wherever they come from."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import DQN, PPO, SAC

import dyna.algorithms
from dyna import registry
from dyna.errors import UserError


@pytest.fixture
def entry_points(monkeypatch: pytest.MonkeyPatch) -> list[EntryPoint]:
    """Entry points of other packages; a test adds to them."""
    points: list[EntryPoint] = []
    monkeypatch.setattr(registry, "entry_points", lambda group: [point for point in points if point.group == group])
    registry._targets.cache_clear()
    yield points  # type: ignore[misc]
    registry._targets.cache_clear()


@pytest.mark.parametrize("name", dyna.algorithms.TABLE)
def test_every_line_of_the_table_leads_to_an_algorithm(name: str) -> None:
    found = registry.find(name)
    assert getattr(dyna.algorithms, found.__name__) is found
    assert registry.action_spaces(found)


def test_a_name_is_found_by_its_class() -> None:
    assert registry.find("sac") is SAC


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown algorithm 'Sacc': the nearest is 'sac'"):
        registry.find("Sacc")


def test_another_package_joins_by_an_entry_point(entry_points: list[EntryPoint]) -> None:
    entry_points.append(EntryPoint("theirs", "stable_baselines3:PPO", "dyna.algorithms"))
    entry_points.append(EntryPoint("not_ours", "stable_baselines3:PPO", "other.group"))
    assert registry.find("theirs") is PPO
    assert "not_ours" not in registry.names()


def test_a_taken_name_is_refused(entry_points: list[EntryPoint]) -> None:
    entry_points.append(EntryPoint("sac", "elsewhere:SAC", "dyna.algorithms"))
    with pytest.raises(UserError, match="'sac'.*taken"):
        registry.names()


def test_a_package_that_is_not_installed_is_named(entry_points: list[EntryPoint]) -> None:
    entry_points.append(EntryPoint("theirs", "not_installed.algorithms:Theirs", "dyna.algorithms"))
    with pytest.raises(UserError, match="'theirs' needs the package 'not_installed': pip install not_installed"):
        registry.find("theirs")


def test_action_spaces_are_those_that_training_accepts() -> None:
    assert registry.action_spaces(SAC) == ["Box"]
    assert registry.action_spaces(DQN) == ["Discrete"]
    assert registry.action_spaces(PPO) == ["Box", "Discrete", "MultiDiscrete", "MultiBinary"]


def test_only_an_algorithm_with_a_world_model_is_model_based() -> None:
    assert registry.is_model_based(registry.find("mbpo"))
    assert registry.is_model_based(registry.find("dyna-q"))
    assert not registry.is_model_based(SAC)
    assert not registry.is_model_based(registry.find("q-learning"))


def test_looking_names_up_imports_no_algorithm() -> None:
    program = "import sys; from dyna import registry; registry.check('sac'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_room_is_refused_under_its_folder_name() -> None:
    from pathlib import Path

    root = Path(dyna.algorithms.__file__).resolve().parent.parent
    found = subprocess.run([sys.executable, "-c", "import algorithms"], cwd=root, capture_output=True, text=True)
    assert "import dyna.algorithms instead" in found.stderr.splitlines()[-1]


def test_an_algorithm_that_cannot_act_there_names_those_that_can() -> None:
    with pytest.raises(UserError) as caught:
        registry.refuse_actions("dqn", DQN, "Pendulum-v1", spaces.Box(-2.0, 2.0, (1,)))
    said, _, others = str(caught.value).partition(": choose ")
    assert said.startswith("dqn takes Discrete actions, Pendulum-v1 has Box(-2.0, 2.0")
    assert {"mbpo", "sac", "ppo"} <= set(others.split(" or ")) and "dqn" not in others
    registry.refuse_actions("dqn", DQN, "CartPole-v1", spaces.Discrete(2))


def test_an_algorithm_that_takes_no_images_names_those_that_do() -> None:
    image, steering = spaces.Box(0, 255, (36, 36, 3), np.uint8), spaces.Box(-1.0, 1.0, (2,))
    with pytest.raises(UserError, match=r"mbpo takes no images, Game-v1 has Box\(.*: choose .*sac.* or ppo") as caught:
        registry.refuse_images("mbpo", registry.find("mbpo"), "Game-v1", image, steering)
    assert " dqn " not in str(caught.value)  # it sees, and cannot steer
    registry.refuse_images("sac", SAC, "Game-v1", image, steering)
    registry.refuse_images("mbpo", registry.find("mbpo"), "Game-v1", spaces.Box(0, 255, (36, 36), np.uint8), steering)
