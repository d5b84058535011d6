"""The trainer makes a whole run of a configuration, changes nothing about the learning, and tells how it ended."""

from __future__ import annotations

import csv
import errno
import itertools
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import DQN

from dyna import callbacks, checkpoint, files, runs
from dyna.config import RunConfig, resolve
from dyna.errors import RunFailed, UserError
from dyna.evaluate import evaluate_run
from dyna.train import train

SMALL = {"policy_kwargs": {"net_arch": [8]}, "learning_starts": 20, "batch_size": 8, "buffer_size": 500}


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return RunConfig(
        env="CartPole-v1",
        algo="dqn",
        steps=240,
        hyperparameters=SMALL,
        eval_every=100,
        eval_episodes=2,
        checkpoint_every=80,
        device="cpu",
        runs=tmp_path / "runs",
    )


def go(config: RunConfig, **kwargs: Any) -> runs.Run:
    return train(config, progress=False, **kwargs)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def weights(run: runs.Run, which: str = "last") -> bytes:
    return (run.path / f"{which}_model.safetensors").read_bytes()


def test_a_run_leaves_every_file_that_is_promised(config: RunConfig) -> None:
    run = go(config, argv=["dyna", "train"])
    there = {path.name for path in run.path.iterdir()}
    promised = (
        "config.yaml meta.json progress.csv monitor.csv evaluations.csv best_model.zip last_model.zip checkpoint "
    )
    assert set((promised + "summary.json").split()) <= there
    assert any(name.startswith("events.out.tfevents") for name in there)
    assert not [name for name in there if "tmp" in name]
    assert runs.open(run.path) == run
    assert run.config == config
    evaluations = rows(run.path / "evaluations.csv")
    assert list(evaluations[0]) == ["step", "seconds", "return_mean", "return_std", "length_mean", "episodes"]
    assert [row["step"] for row in evaluations] == ["100", "200", "240"]
    assert len((run.path / "monitor.csv").read_text().splitlines()) > 5  # a comment, the columns, the episodes
    assert "rollout/ep_rew_mean" in rows(run.path / "progress.csv")[-1]


def test_the_summary_says_what_was_reached(config: RunConfig) -> None:
    run = go(config)
    summary, evaluations = run.summary(), rows(run.path / "evaluations.csv")
    returns = [float(row["return_mean"]) for row in evaluations]
    assert (summary["algo"], summary["env"], summary["seed"]) == ("dqn", "CartPole-v1", 0)
    assert (summary["status"], summary["steps"]) == ("finished", 240)
    assert summary["seconds"] == float(evaluations[-1]["seconds"])
    assert (summary["final_return_mean"], summary["best_return_mean"]) == (returns[-1], max(returns))
    # one update every 4 steps from step 24 on: SB3's DQN trains when more than `learning_starts` steps are made
    assert summary["updates"] == {"critic": 55, "actor": 0, "model": 0, "distil": 0, "plans": 0}
    assert "error" not in summary


def test_the_algorithm_learns_as_it_does_without_the_trainer(config: RunConfig) -> None:
    run = go(config)
    alone = DQN("MlpPolicy", gym.make("CartPole-v1"), seed=0, device="cpu", **SMALL)  # type: ignore[arg-type]
    alone.learn(240)
    ours = DQN.load(run.path / "last_model.zip", device="cpu")
    for name, value in alone.policy.state_dict().items():
        torch.testing.assert_close(ours.policy.state_dict()[name], value, rtol=0, atol=0)


def test_the_same_seed_gives_the_same_run_and_another_seed_another(config: RunConfig) -> None:
    first, second, other = go(config), go(config), go(replace(config, seed=1))
    assert len({first.path, second.path, other.path}) == 3
    assert weights(first) == weights(second) != weights(other)
    ours, theirs = ({**run.summary(), "seconds": 0, "peak_memory": 0} for run in (first, second))
    assert ours == theirs
    timeless = [[{**row, "seconds": ""} for row in rows(run.path / "evaluations.csv")] for run in (first, second)]
    assert timeless[0] == timeless[1]


@pytest.mark.parametrize("algo", ["dqn", "ppo"])
def test_evaluation_and_checkpoints_never_change_the_training(config: RunConfig, algo: str) -> None:
    config = replace(config, algo=algo, hyperparameters=SMALL if algo == "dqn" else {"n_steps": 32, "batch_size": 32})
    with_both = go(config)
    with_none = go(replace(config, eval_every=0, checkpoint_every=10_000))
    assert weights(with_both) == weights(with_none)
    assert not (with_none.path / "evaluations.csv").exists()
    assert with_none.summary()["final_return_mean"] is None


@pytest.mark.parametrize("first", [3.0, 5.0])
def test_the_best_model_is_that_of_the_best_evaluation_and_of_equals_the_newest(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch, first: float
) -> None:
    returns = iter([first, 5.0, 4.0])
    saved: list[int] = []
    play, save = callbacks.evaluate.play, callbacks.agents.save

    def played(*args: Any, **kwargs: Any) -> Any:
        return replace(play(*args, **kwargs), returns=(next(returns),))

    def noted(model: Any, path: Path) -> None:
        saved.append(model.num_timesteps)
        save(model, path)

    monkeypatch.setattr(callbacks.evaluate, "play", played)
    monkeypatch.setattr(callbacks.agents, "save", noted)
    summary = go(config).summary()
    assert saved == [100, 200, 240]  # the best twice, and the last
    assert (summary["best_return_mean"], summary["final_return_mean"]) == (5.0, 4.0)


def test_training_stops_as_soon_as_an_evaluation_reaches_the_return_asked_for(config: RunConfig) -> None:
    run = go(replace(config, until=1.0))
    assert (run.summary()["status"], run.summary()["steps"]) == ("finished", 100)
    assert checkpoint.steps(run.checkpoints)[0] == 100
    with pytest.raises(UserError, match="has finished its 100 steps: `.* -n 480 --until null` goes on"):
        go(run.config, resume=run.path)
    assert go(replace(run.config, steps=480, until=None), resume=run.path).summary()["steps"] == 480


def test_numpy_s_scalars_are_the_numbers_that_they_hold(config: RunConfig) -> None:
    numbers = {"batch_size": np.int64(8), "gamma": np.float32(0.5), "train_freq": (np.int64(4), "step")}
    given = config.settings() | {
        "seed": np.int64(0),
        "steps": np.float64(240),
        "env_kwargs": {"sutton_barto_reward": np.bool_(False)},
        "hyperparameters": {**SMALL, **numbers},
    }
    meant = config.settings() | {
        "env_kwargs": {"sutton_barto_reward": False},
        "hyperparameters": {**SMALL, "batch_size": 8, "gamma": 0.5, "train_freq": [4, "step"]},
    }
    for made in (resolve(given, preset=False), RunConfig(**{**given, "runs": config.runs})):
        run = go(made)
        assert repr(runs.open(run.path).config.settings()) == repr(run.config.settings()) == repr(meant)


def test_seconds_count_neither_evaluation_nor_saving(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    play, save = callbacks.evaluate.play, callbacks.checkpoint.save

    def slow(function: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            now[0] += 1_000
            return function(*args, **kwargs)

        return run

    monkeypatch.setattr(callbacks.evaluate, "play", slow(play))
    monkeypatch.setattr(callbacks.checkpoint, "save", slow(save))
    assert go(config).summary()["seconds"] == 0.0
    assert now[0] >= 5_000


def test_a_users_mistake_leaves_no_folder(config: RunConfig) -> None:
    for change in (
        {"env": "CartPole-v99"},
        {"env": "Pendulum-v1"},  # dqn takes no continuous actions
        {"algo": "dqm"},
        {"env_kwargs": {"wings": 2}},
        {"hyperparameters": {"train_freq": "sometimes"}},
        {"hyperparameters": {"policy_kwargs": {"activation_fn": torch.nn.ReLU}}},
        {"env_kwargs": {"sutton_barto_reward": [bool]}},
    ):
        with pytest.raises(UserError) as caught:
            go(replace(config, **change))  # type: ignore[arg-type]
        assert "\n" not in str(caught.value).strip()
    assert not config.runs.exists()


# --- endings ------------------------------------------------------------------------------------------------------


class Faulty(gym.Env[Any, Any]):
    """Goes on for ever, and at one step does what it is told."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (1,))
    action_space = gym.spaces.Discrete(2)
    at: int = 10**9
    steps = itertools.count(1)

    def fault(self) -> Any:
        raise RuntimeError("the arm is jammed")

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        step = next(Faulty.steps)
        if step == Faulty.at:
            return self.fault()
        return np.zeros(1, np.float32), 1.0, step % 10 == 0, False, {}


class Blind(Faulty):
    """Returns NaN."""

    def fault(self) -> Any:
        return np.array([np.nan], np.float32), 0.0, False, False, {}


class Stopped(Faulty):
    """Takes the whole process with it, as an emergency stop does."""

    def fault(self) -> Any:
        sys.exit(3)


class Caught(Faulty):
    """Turns a signal into an exception of its own, as some drivers do."""

    def fault(self) -> Any:
        raise KeyboardInterrupt


class Elsewhere(Faulty):
    """Goes into a folder of its own."""

    def __init__(self) -> None:
        os.chdir(tempfile.gettempdir())


class Unmoved(Faulty):
    """Cannot even begin."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.fault()


class Signalled(Faulty):
    """Is interrupted."""

    number = signal.SIGINT
    times = 1

    def fault(self) -> Any:
        for _ in range(self.times):
            os.kill(os.getpid(), self.number)
        return np.zeros(1, np.float32), 1.0, True, False, {}


class Terminated(Signalled):
    number = signal.SIGTERM


class Impatient(Signalled):
    times = 2


@pytest.fixture
def faulty(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunConfig]:
    """A run on this module's environments, which fail at step 133, and never again."""
    monkeypatch.setitem(sys.modules, "faulty_environments", sys.modules[__name__])
    monkeypatch.setattr(Faulty, "steps", itertools.count(1))
    monkeypatch.setattr(Faulty, "at", 133)
    yield replace(config, env="faulty_environments:Faulty", eval_every=0)


@pytest.mark.parametrize(
    ("env", "sentence"),
    [
        ("Faulty", "the run failed at step 132: Faulty.step(0) raised RuntimeError: the arm is jammed"),
        ("Blind", "the run failed at step 132: Blind.step(0) returned the observation [nan]"),
        ("Stopped", "the run failed at step 132: Stopped.step(0) raised SystemExit: 3"),
        ("Caught", "the run failed at step 132: Caught.step(0) raised KeyboardInterrupt ("),
    ],
)
def test_a_failing_environment_ends_the_run_with_a_sentence_and_all_that_was_learnt(
    faulty: RunConfig, env: str, sentence: str
) -> None:
    config = replace(faulty, env=f"faulty_environments:{env}")
    with pytest.raises(RunFailed) as caught:
        go(config)
    (run,) = runs.find_all(config.runs)
    summary = run.summary()
    assert str(caught.value).replace("step(1)", "step(0)").startswith(sentence)
    assert f"`dyna train --resume {run.path}` goes on from step 132" in str(caught.value)
    assert (summary["status"], summary["steps"], summary["error"]) == ("failed", 132, str(caught.value))
    assert (run.path / "last_model.zip").exists()
    assert checkpoint.steps(run.checkpoints) == [132, 80]


@pytest.mark.parametrize("looked_at_before", [False, True])
def test_a_run_is_where_it_was_to_be_wherever_its_environment_goes(
    faulty: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looked_at_before: bool
) -> None:
    if looked_at_before:  # as where the actions must be known to find the class
        monkeypatch.setattr("dyna.train.checked", lambda config: Elsewhere() and config)
    monkeypatch.chdir(tmp_path)
    config = replace(faulty, env="faulty_environments:Elsewhere", runs=Path("my runs"))
    with pytest.raises(RunFailed):
        go(config)
    monkeypatch.chdir(tmp_path)
    (run,) = runs.find_all(config.runs)
    assert go(config, resume=run.path).summary()["status"] == "finished"
    monkeypatch.chdir(tmp_path)
    assert evaluate_run(run.path, 1).episodes == 1


def test_an_environment_that_cannot_begin_is_told_too(faulty: RunConfig) -> None:
    with pytest.raises(RunFailed, match=r"the run failed at step 0: Unmoved.reset raised .*\(mend it and start again"):
        go(replace(faulty, env="faulty_environments:Unmoved"))
    (run,) = runs.find_all(faulty.runs)
    assert run.summary()["status"] == "failed"
    assert checkpoint.steps(run.checkpoints) == []


def test_a_failed_run_goes_on_with_a_new_episode(faulty: RunConfig, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RunFailed):
        go(faulty)
    (run,) = runs.find_all(faulty.runs)
    summary = go(faulty, resume=run.path).summary()
    assert (summary["status"], summary["steps"]) == ("finished", 240)
    assert "error" not in summary
    assert (
        "statistically, not bitwise, the same: the episode in which the environment failed" in capsys.readouterr().err
    )


def test_a_resume_that_fails_before_it_begins_keeps_what_was_learnt(
    faulty: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Faulty, **kwargs: Any) -> None:
        raise RuntimeError("no power")

    with pytest.raises(RunFailed):
        go(faulty)
    (run,) = runs.find_all(faulty.runs)
    learnt = (run.path / "last_model.safetensors").read_bytes()
    monkeypatch.setattr(Faulty, "reset", broken)
    with pytest.raises(RunFailed, match=r"failed at step 132: .*no power.* goes on from step 132"):
        go(faulty, resume=run.path)
    assert (run.path / "last_model.safetensors").read_bytes() == learnt
    assert (run.summary()["status"], run.summary()["steps"]) == ("failed", 132)


def test_an_error_of_the_algorithm_keeps_the_last_good_checkpoint(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: DQN, gradient_steps: int, batch_size: int) -> None:
        if self.num_timesteps >= 150:
            with torch.no_grad():
                next(self.policy.parameters()).fill_(torch.nan)
            raise ValueError("loss is nan")

    monkeypatch.setattr(DQN, "train", broken)
    with pytest.raises(RunFailed, match=r"the run failed at step 15\d: the critic has diverged: its weights"):
        go(config)
    (run,) = runs.find_all(config.runs)
    assert checkpoint.steps(run.checkpoints)[0] < 150
    assert not (run.path / "last_model.zip").exists()


def test_a_full_disk_ends_the_run_with_the_last_checkpoint_whole(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = checkpoint.save

    def full(folder: Path, step: int, tree: Any) -> None:
        if step > 150:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(folder, step, tree)

    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(RunFailed, match=r"the disk was full at step \d+: make room, and `dyna train --resume"):
        go(config)
    (run,) = runs.find_all(config.runs)
    assert run.summary()["status"] == "failed"
    loaded = checkpoint.load(run.checkpoints)
    assert loaded is not None
    assert 80 <= loaded.step < 150


@pytest.mark.parametrize("env", ["Signalled", "Terminated"])
def test_an_interrupt_saves_and_says_how_to_go_on(
    faulty: RunConfig, env: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGINT)
    run = go(replace(faulty, env=f"faulty_environments:{env}"))
    assert (run.summary()["status"], run.summary()["steps"]) == (
        "interrupted",
        136,
    )  # the rollout of 4 steps is finished
    assert checkpoint.steps(run.checkpoints)[0] == 136
    assert (run.path / "last_model.zip").exists()
    shown = capfd.readouterr().err
    assert "stopping after this rollout and saving" in shown
    assert f"interrupted at step 136, everything is saved: `dyna train --resume {run.path}` goes on" in shown
    assert signal.getsignal(signal.SIGINT) is before
    assert go(run.config, resume=run.path).summary()["status"] == "finished"


def test_a_second_interrupt_ends_at_once(faulty: RunConfig) -> None:
    with pytest.raises(KeyboardInterrupt):
        go(replace(faulty, env="faulty_environments:Impatient"))
    (run,) = runs.find_all(faulty.runs)
    assert run.summary()["status"] == "interrupted"
    assert checkpoint.steps(run.checkpoints) == [80]


def test_ctrl_c_that_nobody_handles_saves_no_half_an_update(faulty: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(DQN, "train", stop)
    with pytest.raises(KeyboardInterrupt):
        go(faulty)
    (run,) = runs.find_all(faulty.runs)
    assert run.summary()["status"] == "interrupted" and checkpoint.steps(run.checkpoints) == []


def test_a_finished_run_is_extended_and_its_logs_are_continued(config: RunConfig) -> None:
    run = go(config)
    with pytest.raises(UserError, match=r"has finished its 240 steps: .* -n 480"):
        go(config, resume=run.path)
    progress, monitor = ((run.path / name).read_text() for name in ("progress.csv", "monitor.csv"))
    longer = go(replace(config, steps=400), resume=run.path)
    assert longer.path == run.path
    assert runs.open(run.path).config.steps == 400
    assert (longer.summary()["steps"], longer.summary()["status"]) == (400, "finished")
    assert [row["step"] for row in rows(run.path / "evaluations.csv")] == ["100", "200", "240", "300", "400"]
    steps = [int(row["time/total_timesteps"]) for row in rows(run.path / "progress.csv")]
    assert steps == sorted(steps)
    assert steps[0] == int(list(csv.DictReader(progress.splitlines()))[0]["time/total_timesteps"])
    assert (run.path / "monitor.csv").read_text().startswith(monitor)


def test_the_summary_is_kept_while_the_run_goes_on(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []
    replace_file = files.replace

    def spied(path: Path, content: Any) -> None:
        replace_file(path, content)
        if path.name == "summary.json":
            seen.append(json.loads(path.read_text()))

    monkeypatch.setattr(files, "replace", spied)
    go(config)
    steps = [summary["steps"] for summary in seen]
    assert steps == sorted(steps)
    assert {100, 200, 240} <= set(steps)
    assert {summary["status"] for summary in seen[:-1]} == {"running"}
