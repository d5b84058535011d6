"""Small runs of every algorithm, and all that two of them must have in common to be the same to the last bit."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

from dyna import checkpoint, runs
from dyna.config import RunConfig
from dyna.tree import pack

NET = {"policy_kwargs": {"net_arch": [8]}}
OFF = {**NET, "learning_starts": 50, "batch_size": 8, "buffer_size": 170}  # the ring wraps
ON = {**NET, "n_steps": 32, "batch_size": 32, "n_epochs": 2}
OU = {"noise_type": "ornstein-uhlenbeck", "noise_std": 0.3}
LSTM = {"n_steps": 32, "batch_size": 32, "n_epochs": 2, "policy_kwargs": {"lstm_hidden_size": 8}}
MODEL = {"members": 3, "elites": 2, "width": 8, "depth": 1, "max_updates": 8, "target": "delta"}
DYNA = {"learning_starts": 50, "batch_size": 8, "gradient_steps": 2, "model_every": 60, "rollouts": 5}

EXPANSION = {"learning_starts": 60, "batch_size": 32, "model_every": 50, "distribution_horizon": 4}
PLANS = {"learning_starts": 60, "model_every": 60, "horizon": 4, "candidates": 12, "elites": 4, "particles": 4}
MPPI = {"horizon": 2, "candidates": 8, "policy_plans": 2, "elites": 3, "iterations": 1}
GATED = {"learner": "gated", "opening": 100, "refit_on_alarm": True, "acting": "confident", "follow": 2}
CASES: dict[str, dict[str, Any]] = {
    "sac": {"algo": "sac", "hyperparameters": OFF},
    "sac, gSDE, normalised": {"algo": "sac", "hyperparameters": {**OFF, "use_sde": True}, "normalize": True},
    "sac, three environments": {"algo": "sac", "hyperparameters": OFF, "n_envs": 3},
    "sac, n-step": {"algo": "sac", "hyperparameters": {**OFF, "n_steps": 3}},
    "td3, correlated noise": {"algo": "td3", "hyperparameters": {**OFF, **OU}, "n_envs": 2},
    "crossq": {"algo": "crossq", "hyperparameters": OFF},
    "dqn": {"algo": "dqn", "hyperparameters": OFF, "env": "CartPole-v1"},
    "ddpg, a pendulum that gets heavier": {
        "algo": "ddpg",
        "hyperparameters": OFF,
        "env": "dyna/ChangingPendulum-v0",
        "env_kwargs": {"change": "mass", "switch": 100},
    },
    "tqc": {"algo": "tqc", "hyperparameters": OFF},
    "qrdqn": {"algo": "qrdqn", "hyperparameters": OFF, "env": "CartPole-v1"},
    "a2c": {"algo": "a2c", "hyperparameters": NET, "env": "CartPole-v1"},
    "trpo": {"algo": "trpo", "hyperparameters": {**NET, "n_steps": 32, "batch_size": 32}, "env": "CartPole-v1"},
    "ppo": {"algo": "ppo", "hyperparameters": ON, "env": "CartPole-v1"},
    "ppo, gSDE, normalised, two environments": {
        "algo": "ppo",
        "hyperparameters": {**ON, "use_sde": True},
        "normalize": True,
        "n_envs": 2,
    },
    "recurrent ppo": {"algo": "ppo_lstm", "hyperparameters": LSTM, "env": "CartPole-v1"},
    "ars": {"algo": "ars", "hyperparameters": {"n_delta": 2}, "env": "CartPole-v1", "steps": 500},
    "dhmbpo": {"algo": "dhmbpo", "hyperparameters": {**NET, "world_model": MODEL, **EXPANSION}},
    "planfirst": {"algo": "planfirst", "hyperparameters": {**NET, "world_model": MODEL, **EXPANSION, **MPPI}},
    "planfirst, gated, two environments": {
        "algo": "planfirst",
        "hyperparameters": {
            **NET,
            "world_model": MODEL,
            **EXPANSION,
            **MPPI,
            **GATED,
            "noise": "inferred",
            "buffer_size": 150,  # rollouts are led once it is full
            "distil": True,
            "realised_share": 0.3,
        },
        "n_envs": 2,
    },
    "planfirst, discrete actions": {
        "algo": "planfirst",
        "hyperparameters": {**NET, **DYNA, "world_model": MODEL, **MPPI},
        "env": "CartPole-v1",
    },
    "planfirst, discrete actions, audited, two environments": {
        "algo": "planfirst",
        "hyperparameters": {**NET, **DYNA, "world_model": MODEL, **MPPI, "acting": "audited", "audit": 0.9},
        "env": "CartPole-v1",
        "n_envs": 2,
        "steps": 500,
    },
    "planfirst, discrete actions, gated, two environments": {
        "algo": "planfirst",
        "hyperparameters": {**NET, **DYNA, "world_model": MODEL, **MPPI, **GATED},
        "env": "CartPole-v1",
        "n_envs": 2,
    },
    "pets, two environments": {"algo": "pets", "hyperparameters": {"world_model": MODEL, **PLANS}, "n_envs": 2},
    "mbpo": {"algo": "mbpo", "hyperparameters": {**NET, **DYNA, "world_model": {**MODEL, "target": "auto"}}},
    "mbdqn, two environments": {
        "algo": "mbdqn",
        "hyperparameters": {**NET, **DYNA, "world_model": MODEL},
        "env": "CartPole-v1",
        "n_envs": 2,
    },
    "q-learning": {"algo": "q-learning", "env": "FrozenLake-v1"},
    "dyna-q, two environments": {"algo": "dyna-q", "env": "Blackjack-v1", "n_envs": 2},
    "dyna-q-plus, a maze that changes": {
        "algo": "dyna-q-plus",
        "env": "dyna/BlockingMaze-v0",
        "env_kwargs": {"switch": 200, "max_episode_steps": 80},
        "hyperparameters": {"memory": "last"},
    },
    "prioritized sweeping": {
        "algo": "prioritized-sweeping",
        "env": "FrozenLake-v1",
        "hyperparameters": {"planning_steps": 1, "epsilon": 0.9},  # something is left in the queue
    },
}
"""One of each kind of state that an algorithm can carry."""


def make(runs_folder: Path, case: str) -> RunConfig:
    settings: dict[str, Any] = {"env": "Pendulum-v1", "steps": 240, **CASES[case]}
    if settings["env"] == "Pendulum-v1":
        settings["env_kwargs"] = {"max_episode_steps": 60}
    return RunConfig(**settings, eval_every=70, eval_episodes=1, checkpoint_every=45, device="cpu", runs=runs_folder)


def end(run: runs.Run) -> dict[str, Any]:
    """Everything that the last checkpoint holds, but for what a clock said."""
    loaded = checkpoint.load(run.checkpoints)
    assert loaded is not None
    tree: dict[str, Any] = loaded.tree
    del tree["seconds"]
    for episode in tree["training"]["episodes"]:
        del episode["seconds"], episode["episode_times"]
    for info in tree["training"]["attributes"]["ep_info_buffer"]:
        info.pop("t", None)
    return tree


def returns(run: runs.Run) -> list[list[str]]:
    """The evaluations, without their seconds."""
    lines = [line.split(",") for line in (run.path / "evaluations.csv").read_text().splitlines()]
    return [[line[0], *line[2:]] for line in lines]


def logged(run: runs.Run) -> list[dict[str, str]]:
    """The rows of progress.csv, without what a clock said, and without SB3's count of iterations in this process."""
    with (run.path / "progress.csv").open() as file:
        found = list(csv.DictReader(file))
    names = {"time/fps", "time/time_elapsed", "time/iterations"}
    return [{name: value for name, value in row.items() if name not in names} for row in found]


def fingerprint(run: runs.Run) -> str:
    """One hash of everything that the last checkpoint holds, weights and buffers among it, and of the evaluations."""
    packed, digest = pack(end(run)), hashlib.sha256()
    digest.update(json.dumps([packed.skeleton, returns(run)]).encode())
    arrays = packed.arrays | {name: tensor.cpu().numpy() for name, tensor in packed.tensors.items()}
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()
