"""Our formats run no code when they are loaded; a file of Stable-Baselines3's can, and is loaded only when told so."""

from __future__ import annotations

import base64
import dataclasses
import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stable_baselines3 import DQN

from dyna import cli, runs
from dyna.config import RunConfig
from dyna.errors import UserError
from dyna.evaluate import evaluate_run
from dyna.foreign import evaluate_file
from dyna.train import train

SMALL = {"policy_kwargs": {"net_arch": [8]}, "learning_starts": 20, "batch_size": 8, "buffer_size": 500}


class Hostile:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> runs.Run:
    config = RunConfig(
        env="CartPole-v1", algo="dqn", steps=80, hyperparameters=SMALL, checkpoint_every=40, eval_every=0
    )
    config = RunConfig(**{**config.settings(), "runs": tmp_path_factory.mktemp("runs"), "device": "cpu"})
    return train(config, progress=False)


def poison(archive: Path, trap: Path) -> None:
    """Put a pickle into an SB3 file, where its `load` unpickles one."""
    with zipfile.ZipFile(archive) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    data = json.loads(parts["data"])
    data["lr_schedule"][":serialized:"] = base64.b64encode(pickle.dumps(Hostile(trap))).decode()
    parts["data"] = json.dumps(data).encode()
    with zipfile.ZipFile(archive, "w") as file:
        for name, content in parts.items():
            file.writestr(name, content)


def test_a_run_with_hostile_files_is_played_and_resumed_and_runs_none_of_their_code(
    trained: runs.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trap = tmp_path / "code has run"
    poison(trained.path / "last_model.zip", trap)
    for name in ("best_model.pkl", "vecnormalize.pkl", "replay_buffer.pkl"):
        (trained.path / name).write_bytes(pickle.dumps(Hostile(trap)))
    assert cli.main(["eval", str(trained.path), "--episodes", "1"]) == 0
    assert cli.main(["train", "--resume", str(trained.path), "-n", "100", "--no-progress"]) == 0
    assert not trap.exists()
    # the same bytes in the place of what our formats hold are refused, or are a checkpoint that is passed over
    (trained.path / "last_model.safetensors").write_bytes(pickle.dumps(Hostile(trap)))
    capsys.readouterr()
    assert cli.main(["eval", str(trained.path), "--episodes", "1"]) == 2
    assert "last_model.safetensors cannot be read" in capsys.readouterr().err
    for name in ("state.json", "arrays.npz", "tensors.safetensors", "manifest.json"):
        newest = max(trained.checkpoints.glob("[0-9]*"))
        (newest / name).write_bytes(pickle.dumps(Hostile(trap)))
    assert cli.main(["train", "--resume", str(trained.path), "-n", "120", "--no-progress"]) == 0
    assert "is damaged and was passed over" in capsys.readouterr().err
    assert not trap.exists()


def test_a_file_of_sb3_is_loaded_only_when_told_that_it_can_run_code(
    trained: runs.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = tmp_path / "agent.zip"
    DQN("MlpPolicy", "CartPole-v1", device="cpu", **SMALL).save(archive)  # type: ignore[arg-type]
    told = ["--algo", "dqn", "--env", "CartPole-v1", "--episodes", "1"]
    assert cli.main(["eval", str(archive), "--episodes", "1"]) == 2
    assert "can run code that it holds" in capsys.readouterr().err
    assert cli.main(["eval", str(archive), "--unsafe-load", *told]) == 0
    assert capsys.readouterr().out.startswith("return ")
    assert cli.main(["eval", str(archive), "--unsafe-load", *told, "--env-kwargs", "max_episode_steps=3"]) == 0
    assert capsys.readouterr().out == "return 3.0 +- 0.0, length 3.0\n"
    assert cli.main(["eval", str(trained.path), "--env-kwargs", "max_episode_steps=3"]) == 2
    assert "a run knows its algorithm and its environment" in capsys.readouterr().err
    trap = tmp_path / "code has run"
    poison(archive, trap)
    assert cli.main(["eval", str(archive), *told]) == 2
    assert cli.main(["eval", str(archive), "--unsafe-load"]) == 2
    assert not trap.exists()
    capsys.readouterr()
    cli.main(["eval", str(archive), "--unsafe-load", *told])
    assert trap.exists()  # the flag's help says so
    assert capsys.readouterr().err.count("\n") <= 1


@pytest.fixture(scope="module")
def normalized(tmp_path_factory: pytest.TempPathFactory) -> runs.Run:
    small = {"n_steps": 32, "batch_size": 32, "policy_kwargs": {"net_arch": [8]}}
    config = RunConfig(algo="ppo", steps=64, hyperparameters=small, normalize=True, eval_every=0, device="cpu")
    return train(dataclasses.replace(config, runs=tmp_path_factory.mktemp("runs")), progress=False)


@pytest.mark.parametrize(
    ("agent", "normalizer"),
    [
        ("last_model.zip", "last_model_vecnormalize.pkl"),
        ("rl_model_64_steps", "rl_model_vecnormalize_64_steps.pkl"),
        ("best_model.zip", "vecnormalize.pkl"),
        ("Pendulum-v1.zip", "Pendulum-v1/vecnormalize.pkl"),
        ("best_model.zip", "nowhere/vecnormalize.pkl"),
    ],
)
def test_a_file_plays_on_observations_normalised_as_in_its_training(
    agent: str, normalizer: str, normalized: runs.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / normalizer).parent.mkdir(exist_ok=True)
    shutil.copy(normalized.path / "last_model.zip", tmp_path / agent)
    shutil.copy(normalized.path / "last_model_vecnormalize.pkl", tmp_path / normalizer)
    file = evaluate_file(tmp_path / agent, RunConfig(algo="ppo"), 1)
    found = "nowhere" not in normalizer
    assert (file == evaluate_run(normalized.path, 1, which="last")) == found
    assert (f"observations are normalised by {tmp_path / normalizer}\n" in capsys.readouterr().err) == found


@pytest.mark.parametrize("content", [b"no pickle", pickle.dumps({"obs_rms": 1})])
def test_a_normaliser_that_does_not_fit_is_one_sentence(
    content: bytes, trained: runs.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(trained.path / "last_model.zip", tmp_path / "agent.zip")
    (tmp_path / "vecnormalize.pkl").write_bytes(content)
    words = ["eval", str(tmp_path / "agent.zip"), "--unsafe-load", "--algo", "dqn", "--env", "CartPole-v1"]
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert "vecnormalize.pkl beside the agent does not fit CartPole-v1, move it away" in said and said.count("\n") == 1


def test_a_normaliser_of_another_environment_is_told(normalized: runs.Run, tmp_path: Path) -> None:
    shutil.copy(normalized.path / "last_model_vecnormalize.pkl", tmp_path / "vecnormalize.pkl")
    with pytest.raises(UserError, match="does not fit CartPole-v1.*spaces must have the same shape"):
        evaluate_file(tmp_path / "agent.zip", RunConfig(env="CartPole-v1", algo="ppo"), 1)


def test_the_help_says_what_the_flag_means(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["eval", "--help"]) == 0
    assert "can run code that they hold" in " ".join(capsys.readouterr().out.split())


def test_a_film_is_not_written_over_a_file(
    trained: runs.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    film = tmp_path / "mine.mp4"
    film.write_text("mine")
    assert cli.main(["eval", str(trained.path), "--video", str(film)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert film.read_text() == "mine"
