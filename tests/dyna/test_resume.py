"""The law of resuming: killed and resumed, a run ends as one that was never killed, to the last bit."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from stable_baselines3.common.base_class import BaseAlgorithm

from dyna import agents, callbacks, checkpoint, envs, logs, registry, runs, snapshot
from dyna.algorithms.planfirst import PlanFirst
from dyna.audits import FEWEST
from dyna.callbacks import Seam
from dyna.errors import RunFailed, UserError
from dyna.evaluate import Evaluation
from dyna.guard import EnvironmentFailed
from dyna.train import train
from dyna.tree import same
from dyna.windows import NONE
from tests.exactness import CASES, OFF, end, logged, make, returns


def killed_at(step: int, train_on: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run until a step, and end there without a word, as a process does that is killed."""
    on_step = Seam._on_step

    def die(self: Seam) -> bool:
        if self.model.num_timesteps >= step:
            raise SystemExit
        return on_step(self)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(Seam, "_on_step", die)
        train_on()


@pytest.mark.parametrize("case", CASES)
def test_killed_and_resumed_is_never_killed(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(make(tmp_path / "whole", case), progress=False)
    config = make(tmp_path / "killed", case)
    killed_at(170, lambda: train(config, progress=False), monkeypatch)
    (run,) = runs.find_all(config.runs)
    assert run.summary()["status"] == "running"
    killed_at(230, lambda: train(config, resume=run.path, progress=False), monkeypatch)
    assert train(config, resume=run.path, progress=False) == run
    assert same(end(run), end(whole))
    if "audited" in case:  # empty rings would be alike in any case
        assert all(ring["added"] >= FEWEST for ring in end(run)["training"]["extra"]["audits"]["known"])
    assert returns(run) == returns(whole)
    assert logged(run) == logged(whole)
    for name in ("last_model.safetensors", "best_model.safetensors"):
        assert (run.path / name).read_bytes() == (whole.path / name).read_bytes()


def test_every_algorithm_is_killed_in_some_case() -> None:
    assert {str(settings["algo"]) for settings in CASES.values()} == set(registry.names())


def test_the_comparison_sees_a_run_that_resumed_from_something_else(tmp_path: Path) -> None:
    first = train(make(tmp_path / "a", "dqn"), progress=False)
    second = train(replace(make(tmp_path / "b", "dqn"), seed=1), progress=False)
    assert not same(end(first), end(second))


def test_the_same_command_goes_on_with_a_run_that_died(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make(tmp_path, "dqn")
    killed_at(170, lambda: train(config, progress=False), monkeypatch)
    run = train(config, progress=False)
    assert runs.find_all(tmp_path) == [run]
    assert run.summary()["status"] == "finished"
    assert train(config, progress=False).path != run.path  # a finished one is left alone


@pytest.mark.parametrize("step", [30, 100])  # before the first evaluation, and after it
def test_a_run_that_died_before_its_first_checkpoint_starts_anew(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rarely = replace(make(tmp_path / "whole", "dqn"), checkpoint_every=150)
    whole = train(rarely, progress=False)
    config = replace(rarely, runs=tmp_path / "killed")
    killed_at(step, lambda: train(config, progress=False), monkeypatch)
    (run,) = runs.find_all(config.runs)
    assert (run.summary()["steps"] > 0) == (step > 70) and not run.checkpoints.exists()
    train(config, resume=run.path, progress=False)
    assert same(end(run), end(whole))


def test_a_run_whose_checkpoints_are_gone_is_refused_and_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make(tmp_path, "dqn")
    killed_at(170, lambda: train(config, progress=False), monkeypatch)
    (run,) = runs.find_all(tmp_path)
    for longer in (config, replace(config, steps=400)):  # of a run that died, and of one that has finished
        run.checkpoints.rename(tmp_path / "elsewhere")
        before = {path.name: path.read_bytes() for path in run.path.iterdir() if path.name != ".lock"}
        with pytest.raises(UserError, match=r"has made \d+ steps and .* holds no checkpoint .*: put it back"):
            train(longer, resume=run.path, progress=False)
        assert {path.name: path.read_bytes() for path in run.path.iterdir() if path.name != ".lock"} == before
        (tmp_path / "elsewhere").rename(run.checkpoints)
        train(longer, resume=run.path, progress=False)


def test_a_run_cuts_its_own_logs_and_no_table_of_its_user(tmp_path: Path) -> None:
    own = {"progress.csv", "evaluations.csv", "world_model_audit.csv", "monitor.csv", "1.monitor.csv"}
    mine = {"table.csv", "my.monitor.csv", "old evaluations.csv"}
    for name in own | mine:
        (tmp_path / name).write_text("before\n")
    lengths = logs.lengths(tmp_path)
    assert lengths.keys() == own
    for name in own | mine:
        (tmp_path / name).write_text("before\nafter\n")
    for taken, kept in ((lengths, "before\n"), (dict.fromkeys(own | mine, 0), ""), ({}, None)):  # others kept all names
        logs.shorten(tmp_path, taken)
        there = {path.name: path.read_text() for path in tmp_path.iterdir()}
        assert there == dict.fromkeys(mine, "before\nafter\n") | ({} if kept is None else dict.fromkeys(own, kept))


def test_a_damaged_checkpoint_is_named_and_the_one_before_leads_to_the_same_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = train(make(tmp_path / "whole", "sac"), progress=False)
    config = make(tmp_path / "killed", "sac")
    killed_at(230, lambda: train(config, progress=False), monkeypatch)
    (run,) = runs.find_all(config.runs)
    newest, before = checkpoint.steps(run.checkpoints)
    part = run.checkpoints / f"{newest:010d}" / "tensors.safetensors"
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    train(config, resume=run.path, progress=False)
    shown = capsys.readouterr().err
    assert f"the checkpoint of step {newest} is damaged" in shown
    assert f"from step {before}" in shown
    assert same(end(run), end(whole))


def test_a_run_whose_evaluation_failed_goes_on_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise EnvironmentFailed("the arm is jammed")

    whole = train(make(tmp_path / "whole", "dqn"), progress=False)
    config = make(tmp_path / "failed", "dqn")
    with monkeypatch.context() as patch, pytest.raises(RunFailed, match="failed at step 72, in an evaluation: the arm"):
        patch.setattr(callbacks.evaluate, "play", fail)
        train(config, progress=False)
    (run,) = runs.find_all(config.runs)
    assert checkpoint.steps(run.checkpoints)[0] == 72
    train(config, resume=run.path, progress=False)
    assert "statistically" not in capsys.readouterr().err
    assert same(end(run), end(whole))
    assert returns(run) == returns(whole)


LAST = [
    "q-learning",
    "ars",
    "td3, correlated noise",
    "sac, gSDE, normalised",
    "ppo",
    "planfirst, gated, two environments",
]


@pytest.mark.parametrize("case", LAST)
def test_a_run_whose_last_evaluation_failed_is_finished_bit_for_bit(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = callbacks.Evaluator.evaluate

    def fail_at_last(self: callbacks.Evaluator, model: BaseAlgorithm, step: int, seconds: float) -> Evaluation:
        if step >= config.steps:
            raise EnvironmentFailed("the arm is jammed")
        return evaluate(self, model, step, seconds)

    whole, config = train(make(tmp_path / "whole", case), progress=False), make(tmp_path / "failed", case)
    with monkeypatch.context() as patch, pytest.raises(RunFailed, match="in an evaluation: the arm"):
        patch.setattr(callbacks.Evaluator, "evaluate", fail_at_last)
        train(config, progress=False)
    (run,) = runs.find_all(config.runs)
    assert run.summary()["steps"] >= config.steps, "some end with a rollout, and so beyond"
    train(config, resume=run.path, progress=False)
    assert run.status == "finished" and same(end(run), end(whole)) and returns(run) == returns(whole)


def interrupted_at(step: int, train_on: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run until a rollout that would begin at a step, or later, and press Ctrl-C there."""
    on_rollout_start = Seam._on_rollout_start

    def ask(self: Seam) -> None:
        self._interrupts.asked = self.model.num_timesteps >= step
        on_rollout_start(self)

    with monkeypatch.context() as patch:
        patch.setattr(Seam, "_on_rollout_start", ask)
        train_on()


PLANNERS = ["planfirst, gated, two environments", "planfirst, discrete actions, audited, two environments"]


def is_amid_a_plan(model: PlanFirst, case: str) -> bool:
    """Whether the first environment is where there would be something to follow, to judge and to compare."""
    planned = bool(model.warm_start[0].any())
    if case not in PLANNERS:
        return planned
    audited = bool(model.audits.left[0] > 0)
    return planned and bool(model.configurator.windows.age[0] != NONE) and audited == ("audited" in case)


@pytest.mark.parametrize("case", [*PLANNERS, "pets, two environments"])
def test_no_plan_is_followed_or_judged_across_an_episode_that_is_left(case: str, tmp_path: Path) -> None:
    config = make(tmp_path, case)
    first, second = (cast(PlanFirst, agents.make(config, envs.make(config))) for _ in range(2))
    if "gated" in case:
        first.acting = "plan"  # where the policy is sure of itself there would be no plan to leave
    first.learn(140)
    while not is_amid_a_plan(first, case):
        assert first.num_timesteps < 600
        first.learn(2, reset_num_timesteps=False)
    state: dict[str, Any] = snapshot.take(first)
    state["environments"][0]["dropped"] = True
    second._setup_learn(200, None)
    (told,) = snapshot.restore(second, state)
    assert "was dropped" in told
    planned, plan = (model.warm_start for model in (first, second))
    assert planned[0].any() and not plan[0].any() and torch.equal(plan[1], planned[1])
    if case in PLANNERS:
        before, after = (model.configurator.windows.age for model in (first, second))
        assert before[0] != NONE and after[0] == NONE and after[1] == before[1]
        before, after = (model.audits.left for model in (first, second))
        assert after[0] == 0 and after[1] == before[1] and (before[0] > 0) == ("audited" in case)


def test_no_evaluation_is_lost_to_an_interrupt_and_the_best_model_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(make(tmp_path / "whole", "dqn"), progress=False)
    config = make(tmp_path / "killed", "dqn")
    killed_at(200, lambda: train(config, progress=False), monkeypatch)
    (run,) = runs.find_all(config.runs)
    best = run.path / "best_model.safetensors"
    before = best.read_bytes()
    best.write_bytes(b"of a future that will not come")
    interrupted_at(0, lambda: train(config, resume=run.path, progress=False), monkeypatch)
    assert best.read_bytes() == before != (run.path / "last_model.safetensors").read_bytes()
    for step in (210, 0):  # where an evaluation is due, and there once more
        interrupted_at(step, lambda: train(config, resume=run.path, progress=False), monkeypatch)
        assert (run.summary()["status"], run.summary()["steps"]) == ("interrupted", 212)
        assert [row[0] for row in returns(run)] == ["step", "72", "140"]
    train(config, resume=run.path, progress=False)
    assert returns(run) == returns(whole)
    assert same(end(run), end(whole))


@pytest.mark.parametrize("case", ["mbpo", "sac, gSDE, normalised", "ppo"])
def test_an_extended_run_is_one_that_was_as_long_from_the_start(case: str, tmp_path: Path) -> None:
    whole = train(replace(make(tmp_path / "whole", case), steps=320, eval_every=64), progress=False)
    short = replace(make(tmp_path / "extended", case), steps=192, eval_every=64)
    run = train(short, progress=False)
    train(replace(short, steps=320), resume=run.path, progress=False)
    assert same(end(run), end(whole))
    assert returns(run) == returns(whole)


def test_schedules_that_an_extension_stretches_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = make(tmp_path, "dqn")
    run = train(config, progress=False)
    assert "went by" not in capsys.readouterr().err
    train(replace(config, steps=400), resume=run.path, progress=False)
    said = "exploration_schedule went by a run of 240 steps and now go by one of 400"
    assert said in capsys.readouterr().err


def test_a_new_run_beside_one_that_was_interrupted_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make(tmp_path, "dqn")
    interrupted_at(100, lambda: train(config, progress=False), monkeypatch)
    (left,) = runs.find_all(tmp_path)
    assert train(config, progress=False).path != left.path
    told = capsys.readouterr().err
    assert f"the same configuration was interrupted: `dyna train --resume {left.path}` goes on with it" in told


def test_a_run_goes_on_on_another_kind_of_device_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a GPU's checkpoint holds that a CPU's does not: states of its generators, of another size."""
    load = checkpoint.load

    def from_a_gpu(folder: Path) -> checkpoint.Loaded | None:
        loaded = load(folder)
        if loaded is not None:
            training = loaded.tree["training"]
            training["device"] = "cuda"
            training["generators"]["cuda"] = [torch.zeros(16, dtype=torch.uint8)]
            training["extra"]["rng"] = torch.arange(16, dtype=torch.uint8)
        return loaded

    config = make(tmp_path, "mbpo")
    killed_at(170, lambda: train(config, progress=False), monkeypatch)
    (run,) = runs.find_all(tmp_path)
    monkeypatch.setattr(checkpoint, "load", from_a_gpu)
    assert train(config, resume=run.path, progress=False).summary()["status"] == "finished"
    said = "statistically, not bitwise, the same: it was trained on cuda and goes on on cpu"
    assert said in capsys.readouterr().err


def test_two_processes_cannot_write_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make(tmp_path, "dqn")
    killed_at(170, lambda: train(config, progress=False), monkeypatch)
    (run,) = runs.find_all(tmp_path)
    with run.locked(), pytest.raises(UserError, match="is being written by process"):
        train(config, resume=run.path, progress=False)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows limits no file's size")
def test_a_run_that_had_no_room_left_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """The system itself refuses to write more, into any file, than the size of a checkpoint in the midst of the run."""
    settings = {**OFF, "buffer_size": 10_000}
    whole = replace(make(tmp_path / "whole", "dqn"), hyperparameters=settings, steps=900, checkpoint_every=150)
    (tmp_path / "config.yaml").write_text(replace(whole, runs=tmp_path / "limited").to_yaml())
    code = "import resource, signal, sys; from dyna import cli; "
    code += (
        "resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, resource.RLIM_INFINITY)); sys.exit(cli.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "train", "--config", str(tmp_path / "config.yaml"), "--no-progress"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("the disk was full at step ") and done.stderr.count("\n") == 1
    (run,) = runs.find_all(tmp_path / "limited")
    assert f"`dyna train --resume {run.path}` goes on" in done.stderr
    assert 150 <= checkpoint.steps(run.checkpoints)[0] < 900
    train(run.config, resume=run.path, progress=False)
    undisturbed = train(whole, progress=False)
    assert same(end(run), end(undisturbed))
    assert returns(run) == returns(undisturbed)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_processes_that_are_killed_at_random_moments_end_as_if_they_had_not_been() -> None:
    """The moments are random in every run of the test: the law must hold for all."""
    command = [sys.executable, "-m", "tests.benchmarks.kill", "--kills", "6", "--only", "dqn", "mbpo"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
