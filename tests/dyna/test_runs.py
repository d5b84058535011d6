"""A run folder belongs to one run, is written by one process, and is never overwritten."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from dyna import checkpoint, locks, runs
from dyna.config import RunConfig
from dyna.errors import UserError


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return RunConfig(env="CartPole-v1", algo="dqn", seed=3, runs=tmp_path)


def test_a_run_describes_itself(config: RunConfig, tmp_path: Path) -> None:
    run = runs.create(config, ["dyna", "train"])
    assert run.path.parent == tmp_path / "CartPole-v1" / "dqn"
    assert run.path.name.endswith("_seed3")
    assert runs.open(run.path) == run
    assert run.summary() == {
        "algo": "dqn",
        "env": "CartPole-v1",
        "seed": 3,
        "steps": 0,
        "seconds": 0.0,
        "status": "running",
    }
    meta = json.loads((run.path / "meta.json").read_text())
    assert meta["argv"] == ["dyna", "train"]
    assert {"git_commit", "python", "versions", "device", "cores"} <= meta.keys()
    assert {"torch", "stable-baselines3", "gymnasium", "numpy"} <= meta["versions"].keys()


def test_runs_of_one_moment_get_folders_of_their_own(config: RunConfig, tmp_path: Path) -> None:
    paths = [runs.create(config).path for _ in range(4)]
    assert len(set(paths)) == 4
    assert [run.path for run in runs.find_all(tmp_path)] == sorted(paths, key=lambda path: path.name)


def test_a_run_is_found_from_any_folder_above_it(config: RunConfig, tmp_path: Path) -> None:
    run = runs.create(config)
    assert run.path.relative_to(tmp_path).parts[:2] == ("CartPole-v1", "dqn")
    for folder in (run.path, *run.path.parents[:3]):
        assert runs.find_all(folder) == [run]


@pytest.mark.parametrize("env", ["my_module:MyEnv", "ALE/Pong-v5", "../../escape", "a b;c"])
def test_any_environments_name_makes_one_folder(config: RunConfig, tmp_path: Path, env: str) -> None:
    path = runs.create(replace(config, env=env)).path
    assert path.parent.parent.parent == tmp_path
    assert runs.open(path).config.env == env


def test_a_folder_that_cannot_be_made_is_a_users_error(config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be made .*: choose another --runs"):
        runs.create(replace(config, runs=tmp_path / "file"))


def test_what_is_no_run_is_told(config: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no run in"):
        runs.open(tmp_path)
    run = runs.create(config)
    (run.path / "config.yaml").write_text("steps: many")
    with pytest.raises(UserError, match=r"config\.yaml: steps must be"):
        runs.open(run.path)
    assert runs.find_all(tmp_path) == []
    (run.path / "summary.json").write_text("{")
    with pytest.raises(UserError, match="the summary of the run .* cannot be read"):
        run.summary()


def test_the_summary_is_json_and_keeps_what_is_not_replaced(config: RunConfig) -> None:
    run = runs.create(config)
    run.write_summary(steps=5, error="boom", world_model={"f1": float("nan"), "rows": 3})
    run.write_summary(status="finished", error=None)
    text = (run.path / "summary.json").read_text()
    summary = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert summary["world_model"] == {"f1": None, "rows": 3}
    assert (summary["steps"], summary["status"]) == (5, "finished")
    assert "error" not in summary


def test_a_second_writer_is_refused_and_the_lock_ends_with_the_first(config: RunConfig) -> None:
    run = runs.create(config)
    with run.locked():
        assert run.is_locked()
        with pytest.raises(UserError, match="is being written by process"), run.locked():
            pass
    assert not run.is_locked()


def test_the_lock_of_a_process_that_was_killed_is_stale(config: RunConfig) -> None:
    run = runs.create(config)
    code = "import sys, pathlib, time\nfrom dyna import runs\n"
    code += "with runs.open(pathlib.Path(sys.argv[1])).locked():\n    print('locked', flush=True)\n    time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, str(run.path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(UserError, match=f"is being written by process {process.pid}"), run.locked():
            pass
        process.kill()
    deadline = time.monotonic() + 10
    while run.is_locked() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not run.is_locked()


def test_a_run_goes_on_as_it_was_but_for_what_may_change(config: RunConfig) -> None:
    run = runs.create(config)
    assert run.continued(replace(config, steps=9_000, eval_every=7, runs=Path("elsewhere"))).config == replace(
        config, steps=9_000, eval_every=7
    )
    for change in ({"seed": 4}, {"env": "Pendulum-v1"}, {"hyperparameters": {"gamma": 0.5}}, {"n_envs": 2}):
        name = next(iter(change))
        with pytest.raises(UserError, match=f"has {name}=.*cannot go on with"):
            run.continued(replace(config, **change))  # type: ignore[arg-type]


def test_a_finished_run_only_goes_on_for_more_steps(config: RunConfig) -> None:
    run = runs.create(config)
    run.write_summary(status="finished", steps=config.steps)
    with pytest.raises(UserError, match=r"has finished its 5000 steps: `dyna train --resume .* -n 10000` goes on"):
        run.continued(config)
    assert run.continued(replace(config, steps=5_001)).config.steps == 5_001
    run.write_summary(steps=1_200)  # `until` was reached
    with pytest.raises(UserError, match="has finished its 1200 steps"):
        run.continued(config)


def dead(config: RunConfig, *, status: str = "running", saved: bool = True) -> runs.Run:
    run = runs.create(config)
    run.write_summary(status=status)
    if saved:
        checkpoint.save(run.checkpoints, 1, {})
    return run


def test_only_an_unfinished_run_with_a_checkpoint_and_the_same_configuration_is_found(config: RunConfig) -> None:
    assert runs.find_unfinished(config) is None
    for other in (dead(config, status="finished"), dead(config, saved=False), dead(replace(config, steps=1))):
        assert runs.find_unfinished(config) is None, other
    for status in ("interrupted", "failed", "running"):
        left = dead(config, status=status)
        assert runs.find_unfinished(config) == left
    with left.locked():  # it lives
        assert runs.find_unfinished(config) != left


def test_a_run_that_says_running_while_no_process_is_has_died(config: RunConfig) -> None:
    run = dead(config)
    assert (run.status, run.summary()["status"]) == ("died", "running")
    before = sorted(path.name for path in run.path.iterdir())
    run.is_locked()
    assert sorted(path.name for path in run.path.iterdir()) == before  # to look is not to write
    with run.locked():
        assert run.status == "running"
        holder = (run.path / locks.LOCK).read_text()
        assert run.is_locked() and (run.path / locks.LOCK).read_text() == holder
    run.write_summary(status="finished")
    assert run.status == "finished"


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"steps": "3", "status": "finished"}', '{"steps": 3, "status": 1}', "[" * 9**5]
)
def test_a_summary_that_says_something_else_is_told(config: RunConfig, text: str) -> None:
    run = runs.create(config)
    (run.path / "summary.json").write_text(text)
    with pytest.raises(UserError, match="summary"):
        run.summary()


def test_other_packages_and_threads_are_told(config: RunConfig) -> None:
    run = runs.create(config)
    assert run.differences() == []
    assert replace(run, config=replace(config, threads=2)).differences() == ["threads was 1 and is 2"]
    meta = json.loads((run.path / "meta.json").read_text())
    meta["versions"]["torch"] = "1.0"
    (run.path / "meta.json").write_text(json.dumps(meta))
    assert run.differences()[0].startswith("torch was 1.0 and is ")
    (run.path / "meta.json").write_text("[]")
    assert "does not tell" in run.differences()[0]


def test_a_run_that_cannot_be_locked_is_told(config: RunConfig) -> None:
    run = runs.create(config)
    (run.path / locks.LOCK).mkdir()
    with pytest.raises(UserError, match="cannot be written"), run.locked():
        pass


def test_a_run_that_other_code_began_is_not_gone_on_with(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    left = runs.create(config)
    checkpoint.save(left.checkpoints, 5, {})
    assert runs.find_unfinished(config) == left
    began = left.meta()["code"]
    monkeypatch.setattr(runs, "code_version", lambda algo, env: "another version")
    assert runs.find_unfinished(config) is None
    left.note_code()  # as `--resume` does, which takes it nevertheless
    assert left.meta()["code"] == f"{began}, then another version" and left.meta()["python"]
    assert list(runs.repetitions(config)) == [left]
