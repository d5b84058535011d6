"""The grid is what was asked for, and what there is of it already is found, whoever made it and how far it came."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from dyna import checkpoint, cli, runs
from dyna.compare import grids, plan, threads
from dyna.compare.grids import Cell
from dyna.config import RunConfig
from dyna.errors import UserError

SUITES = Path(__file__).resolve().parents[1] / "benchmarks" / "suites"


def grid(**settings: object) -> grids.Grid:
    return grids.grid_of({"env": "Pendulum-v1", "algo": "td3", "preset": False, **settings})


@pytest.fixture
def cell(tmp_path: Path) -> Cell:
    return Cell("td3", RunConfig(algo="td3", steps=100, runs=tmp_path))


def test_a_grid_is_every_combination_the_first_seeds_first(tmp_path: Path) -> None:
    found = grids.cells([grid(env=["Pendulum-v1", "MountainCarContinuous-v0"], algo=["td3", "sac"], seeds=2)], tmp_path)
    assert [str(cell) for cell in found[:4]] == [
        "td3 on Pendulum-v1, seed 0",
        "sac on Pendulum-v1, seed 0",
        "td3 on MountainCarContinuous-v0, seed 0",
        "sac on MountainCarContinuous-v0, seed 0",
    ]
    assert [cell.config.seed for cell in found[4:]] == [1] * 4
    assert {cell.config.runs for cell in found} == {tmp_path}


def test_every_algorithm_gets_the_same_steps_and_evaluations_whatever_its_preset_says(tmp_path: Path) -> None:
    found = grids.cells([grids.grid_of({"env": "Pendulum-v1", "algo": ["mbpo", "sac"], "steps": 4000})], tmp_path)
    assert {(cell.config.steps, cell.config.eval_every) for cell in found} == {(4000, 200)}
    assert found[0].config.hyperparameters, "the preset's hyperparameters are kept"


def test_one_algorithm_with_two_settings_has_two_names(tmp_path: Path) -> None:
    other = grid(label="td3, small", hyperparameters={"policy_kwargs": {"net_arch": [8]}}, seeds=1)
    assert [cell.label for cell in grids.cells([grid(seeds=1), other], tmp_path)] == ["td3", "td3, small"]
    with pytest.raises(UserError, match="two grids have a run of td3 on Pendulum-v1, seed 0"):
        grids.cells([grid(seeds=1), grid(seeds=1, steps=7)], tmp_path)


@pytest.mark.parametrize("suite", sorted(path.stem for path in SUITES.glob("*.yaml")))
def test_a_suite_of_the_toolkit_can_be_run(suite: str, tmp_path: Path) -> None:
    if suite == "dm-control":
        pytest.importorskip("shimmy", reason="dm-control is an extra")
    found = grids.cells(grids.read_suite(suite), tmp_path)
    assert len({cell.label for cell in found}) > 1, "nothing is compared"
    assert len({cell.config.seed for cell in found}) >= 3


def test_a_suite_is_restricted_and_its_settings_are_replaced(tmp_path: Path) -> None:
    given = {"seeds": 1, "steps": 200}
    found = grids.cells(grids.restrict(grids.read_suite("quick"), ["Pendulum-v1"], ["sac"], given), tmp_path)
    assert [(str(cell), cell.config.steps) for cell in found] == [("sac on Pendulum-v1, seed 0", 200)]
    with pytest.raises(UserError, match="the suite has no environment 'Ant-v5': it has Pendulum-v1, "):
        grids.restrict(grids.read_suite("quick"), ["Ant-v5"], [], {})
    kept = grids.restrict(grids.read_suite("ablations"), [], ["hard mask", "1 member"], {})
    assert [each.label for each in kept] == ["hard mask", "1 member"]
    assert len(grids.restrict(grids.read_suite("ablations"), [], ["dhmbpo"], {})) > 10
    assert [each.label for each in grids.restrict(grids.read_suite("planfirst"), [], ["sac"], {})] == [None]
    with pytest.raises(UserError, match="the suite has no algorithm or label 'soft mask': it has dhmbpo, no "):
        grids.restrict(grids.read_suite("ablations"), [], ["soft mask"], {})


def test_thresholds_are_the_given_the_grids_or_the_environments_own() -> None:
    chosen = [grid(env=["Pendulum-v1"], threshold=-200), grid(env=["CartPole-v1", "MountainCarContinuous-v0"])]
    found = grids.thresholds(chosen, {"CartPole-v1": 400.0})
    assert found == {"Pendulum-v1": -200.0, "CartPole-v1": 400.0, "MountainCarContinuous-v0": 90.0}
    assert grids.thresholds(chosen, {"": 7.0}) == dict.fromkeys(found, 7.0)


MISTAKES = {
    "--env Pendulum-v1": "a comparison needs algo: give one or more",
    "--algo sac": "a comparison needs env: give one or more",
    "--env Pendulum-v1 --algo sca": "unknown algorithm 'sca': the nearest is 'sac'",
    "--env Pendulum-v9 --algo sac": "unknown environment 'Pendulum-v9'",
    "--env Pendulum-v1 --algo dqn": "dqn takes Discrete actions, Pendulum-v1 has Box",
    "--env Pendulum-v1 --algo sac --seeds 0": "seeds must be at least 1, got 0",
    "--env Pendulum-v1 --algo sac --jobs none": "jobs must be an integer, got 'none'",
    "--env Pendulum-v1 --algo sac --eval-every 0": "a comparison lives on evaluations, got eval_every 0",
    "--env Pendulum-v1 --algo sac --name a/b": "the name becomes a folder's, got 'a/b': take 'a_b'",
    "--env Pendulum-v1 --algo sac --threshold Ant-v5=3": "no environment 'Ant-v5', it has Pendulum-v1",
    "--env Pendulum-v1 --algo sac --threshold high": "threshold must be a number, got 'high'",
    "--env Pendulum-v1 --algo sac --with nothing": "there are no curves in 'nothing'",
    "--env Pendulum-v1 --algo sac -p gama=1": "'gama'",
    "--suite quikc": "there is no suite 'quikc'",
    "--suite none.yaml": "the suite 'none.yaml' cannot be read",
    "--suite mine.yaml": "mine.yaml: unknown key 'stesp': the nearest is 'steps'",
    "--suite twice.yaml": "twice.yaml: 'seeds: 3\\nseeds: 5' is not YAML: the key 'seeds' stands twice",
    "--suite blind.yaml": "blind.yaml: a comparison lives on evaluations, got eval_every 0",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_one_sentence_and_nothing_is_written(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("{env: Pendulum-v1, algo: sac, stesp: 3}")
    (tmp_path / "blind.yaml").write_text("{env: Pendulum-v1, algo: sac, eval_every: 0}")
    (tmp_path / "twice.yaml").write_text("seeds: 3\nseeds: 5")
    assert cli.main(["compare", *words.split()]) == 2
    said = capsys.readouterr()
    assert MISTAKES[words] in said.err and said.err.count("\n") == 1 and not said.out
    assert {path.name for path in tmp_path.iterdir()} == {"blind.yaml", "mine.yaml", "twice.yaml"}


def test_what_there_is_of_a_cell(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    assert plan.look(cell).state == "missing"
    first = runs.create(cell.config)
    assert plan.look(cell).state == "missing", "it died before its first checkpoint"
    checkpoint.save(first.checkpoints, 50, {})
    first.write_summary(steps=50)
    assert plan.look(cell) == plan.Found("resumable", first)
    assert plan.steps_left(cell, plan.look(cell)) == 50
    with first.locked():
        assert plan.look(cell) == plan.Found("elsewhere", first)
    first.write_summary(status="finished", steps=100)
    runs.create(cell.config)
    assert plan.look(cell) == plan.Found("finished", first), "a later one that died changes nothing"
    assert plan.look(Cell("td3", dataclasses.replace(cell.config, seed=1))).state == "missing"
    assert plan.look(Cell("td3", dataclasses.replace(cell.config, steps=99))).state == "missing"


def test_runs_of_other_code_count_only_where_any_will_do(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    run = runs.create(cell.config)
    run.write_summary(status="finished", steps=100)
    monkeypatch.setattr(plan, "code_version", lambda algo, env: "the next version")
    assert plan.look(cell).state == "missing"
    assert plan.look(cell, any_code=True) == plan.Found("finished", run)


def test_the_time_is_told_from_finished_runs_of_the_same_kind_first(tmp_path: Path) -> None:
    for env, seconds in (("Pendulum-v1", 10.0), ("CartPole-v1", 30.0), ("CartPole-v1", 50.0)):
        run = runs.create(RunConfig(env=env, algo="ppo", runs=tmp_path))
        run.write_summary(status="finished", steps=1000, seconds=seconds)
    rates = plan.Rates(tmp_path)
    assert rates.seconds(RunConfig(env="Pendulum-v1", algo="ppo"), 500) == 5.0
    assert rates.seconds(RunConfig(env="CartPole-v1", algo="ppo"), 1000) == pytest.approx(40.0)
    assert rates.seconds(RunConfig(env="Acrobot-v1", algo="ppo"), 1000) == 30.0
    assert rates.seconds(RunConfig(env="CartPole-v1", algo="dqn"), 1000) is None
    assert plan.total([10.0, 10.0, 10.0, 0.0], jobs=2) == 15.0 and plan.total([90.0, 10.0], jobs=2) == 90.0
    assert plan.total([1.0, None], jobs=1) is None


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main("compare --env Pendulum-v1 --algo td3 --seeds 2 --jobs 1 --dry-run".split()) == 0
    said = capsys.readouterr().out
    assert said.count("5,000 of 5,000") == 2 and "2 of 2 runs to make" in said and "is unknown" in said
    assert list(tmp_path.iterdir()) == []


def test_cores_are_dealt_to_the_runs(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "available_cores", lambda: 8)
    free = Cell("td3", dataclasses.replace(cell.config, threads=0))
    assert threads.share([cell], None) == threads.Share(jobs=8, threads=1, cores=8)
    assert threads.share([cell], 3).threads == 1
    assert threads.share([free], 4) == threads.Share(jobs=4, threads=2, cores=8)
    crowd = threads.share([Cell("td3", dataclasses.replace(cell.config, threads=4))], 3)
    assert "more threads than cores" in str(crowd) and "more" not in str(threads.share([cell], None))
    assert set(threads.environment(2).values()) == {"2"}
