"""Every algorithm trains on any environment: whatever it observes, however many there are, and resumes exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

import dyna.algorithms
from dyna import hyperparameters, registry, runs
from dyna.config import RunConfig
from dyna.train import train
from dyna.tree import same
from tests.dyna.test_resume import killed_at
from tests.exactness import end

SMALL = {
    "policy_kwargs": {"net_arch": [8]},
    "learning_starts": 24,
    "batch_size": 8,
    "buffer_size": 90,
    "gradient_steps": 1,
    "model_every": 30,
    "rollouts": 3,
    "world_model": {"members": 2, "elites": 2, "width": 8, "depth": 1, "max_updates": 10, "target": "delta"},
    "n_delta": 2,
    "n_epochs": 2,
}


def small(algo: str) -> dict[str, Any]:
    """The settings above that an algorithm has."""
    cls = registry.find(algo)
    names = {knob.name.partition(".")[0] for knob in hyperparameters.knobs(cls)}
    settings = {name: value for name, value in SMALL.items() if name in names}
    return settings | ({"n_steps": 8} if issubclass(cls, OnPolicyAlgorithm) else {})


def make(algo: str, folder: Path, **more: Any) -> RunConfig:
    continuous = "Box" in registry.action_spaces(registry.find(algo))
    settings: dict[str, Any] = {
        "env": f"tests.probes:{'AnyEnv' if continuous else 'AnyDiscreteEnv'}",
        "algo": algo,
        "steps": 96,
        "hyperparameters": small(algo),
        "n_envs": 3,
        "eval_every": 48,
        "eval_episodes": 1,
        "checkpoint_every": 21,
        "device": "cpu",
        "runs": folder,
    }
    return RunConfig(**settings | more)


def go(config: RunConfig, **more: Any) -> runs.Run:
    return train(config, progress=False, **more)


@pytest.mark.parametrize("algo", dyna.algorithms.TABLE)
def test_three_environments_of_mixed_observations_train_and_resume_exactly(
    algo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = go(make(algo, tmp_path / "whole"))
    assert whole.summary()["status"] == "finished"
    assert algo == "ars" or sum(whole.summary()["updates"].values()) > 0  # ARS makes steps without a gradient
    assert whole.meta()["observations"] == [
        *("near[0][0]", "near[1][0]=0", "near[1][0]=1", "near[1][0]=2", "near[1][0]=3"),
        *("place[0,0]", "side=-1", "side=0"),
    ]
    config = make(algo, tmp_path / "killed")
    killed_at(60, lambda: go(config), monkeypatch)
    (run,) = runs.find_all(config.runs)
    assert same(end(go(config, resume=run.path)), end(whole))
