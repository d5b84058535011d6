"""A comparison runs what is missing, goes on with what was stopped, and survives what fails."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from dyna import checkpoint, cli, runs
from dyna.compare import execute, foreign, live, plan
from dyna.compare.curves import of_run
from dyna.compare.execute import Ended, Job
from dyna.compare.grids import Cell
from dyna.compare.plan import Found
from dyna.config import RunConfig
from dyna.interrupts import Interrupts

ROOT = Path(__file__).resolve().parents[2]
COMMAND = (
    "compare --env arm_of_test_compare:Arm --algo td3 --seeds 3 -n 600 --eval-every 200 --eval-episodes 1 --jobs 3 "
    "--checkpoint-every 100 --name arms --threshold -2 --with paper.csv "
    "-p learning_starts=100 batch_size=16 policy_kwargs.net_arch=[8]"
)
ARM = '''
import gymnasium, os, numpy as np

class Arm(gymnasium.Env):
    """Reward -(action - observation)^2; where a file says so, it breaks in the run of one seed."""
    observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.broken = seed == 1 and not os.path.exists("mended")
        self.steps, self.obs = 0, self.np_random.uniform(-1, 1, 1).astype(np.float32)
        return self.obs, {}

    def step(self, action):
        if self.broken:
            raise RuntimeError("the arm fell off")
        reward = -float((action[0] - self.obs[0]) ** 2)
        self.steps, self.obs = self.steps + 1, self.np_random.uniform(-1, 1, 1).astype(np.float32)
        return self.obs, reward, False, self.steps == 10, {}
'''


class Trainer:
    """A backend that trains nothing: each cell ends as it is told, at the next look."""

    def __init__(self, room: int, **outcomes: str) -> None:
        self.room, self.outcomes = room, outcomes
        self.started: list[str] = []
        self.running: list[Cell] = []
        self.most = 0
        self.interrupted = False

    def has_room(self) -> bool:
        return len(self.running) < self.room

    def start(self, cell: Cell, found: Found) -> None:
        self.started.append(cell.label)
        self.running.append(cell)
        self.most = max(self.most, len(self.running))

    def ended(self) -> Sequence[Ended]:
        over, self.running = self.running, []
        return [self._end(cell) for cell in over]

    def interrupt(self) -> None:
        self.interrupted = True

    def _end(self, cell: Cell) -> Ended:
        outcome = self.outcomes.get(cell.label, "finished")
        if outcome == "finished":
            runs.create(cell.config).write_summary(status="finished", steps=5, final_return_mean=1.0)
        return Ended(cell, outcome, "it broke" if outcome == "failed" else None)  # type: ignore[arg-type]


@pytest.fixture
def cells(tmp_path: Path) -> list[Cell]:
    return [Cell(name, RunConfig(algo="td3", steps=5, seed=i, runs=tmp_path)) for i, name in enumerate("abc")]


def stages(jobs: Sequence[Job]) -> list[str]:
    return [job.stage for job in jobs]


def test_a_failure_is_one_red_cell_and_the_next_call_tries_it_alone(cells: list[Cell]) -> None:
    first = Trainer(2, b="failed")
    jobs = execute.execute(cells, first, lambda jobs: None, Interrupts())
    assert stages(jobs) == ["finished", "failed", "finished"] and jobs[1].error == "it broke" and first.most == 2
    second = Trainer(2)
    jobs = execute.execute(cells, second, lambda jobs: None, Interrupts())
    assert stages(jobs) == ["finished"] * 3 and second.started == ["b"]
    assert [job.reused for job in jobs] == [True, False, True]


def test_after_an_interrupt_nothing_is_started(cells: list[Cell]) -> None:
    interrupts, trainer = Interrupts(), Trainer(1, a="interrupted")

    def stop(jobs: Sequence[Job]) -> None:
        interrupts.asked = True

    jobs = execute.execute(cells, trainer, stop, interrupts)
    assert trainer.interrupted and trainer.started == ["a"] and stages(jobs) == ["interrupted"] * 3


def test_after_an_interrupt_nobody_waits_for_another_process(cells: list[Cell]) -> None:
    interrupts = Interrupts()

    class Robbed(Trainer):
        def ended(self) -> Sequence[Ended]:
            over, self.running = (self.running, []) if self.interrupted else ([], self.running)
            for cell in over:
                elsewhere.enter_context(runs.create(cell.config).locked())  # another process goes on with it
            return [Ended(cell, "interrupted") for cell in over]

    def stop(jobs: Sequence[Job]) -> None:
        interrupts.asked = True

    with contextlib.ExitStack() as elsewhere:
        jobs = execute.execute(cells[:1], Robbed(1), stop, interrupts)
    assert stages(jobs) == ["interrupted"]


def test_a_run_that_another_process_makes_is_waited_for(cells: list[Cell], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execute, "LOOK_SECONDS", 0.0)
    run, trainer = runs.create(cells[0].config), Trainer(1)
    seen: list[str] = []
    lock = run.locked()
    lock.__enter__()

    def watch(jobs: Sequence[Job]) -> None:
        seen.append(jobs[0].stage)
        if len(seen) == 3:
            run.write_summary(status="finished", steps=5)
            lock.__exit__(None, None, None)

    jobs = execute.execute(cells, trainer, watch, Interrupts())
    assert seen[:3] == ["elsewhere"] * 3 and stages(jobs) == ["finished"] * 3 and trainer.started == ["b", "c"]


def test_code_that_changes_meanwhile_is_told(cells: list[Cell], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "code_version", lambda algo, env: "what it was")
    jobs = execute.execute(cells[:1], Trainer(1), lambda jobs: None, Interrupts())
    assert jobs[0].stage == "failed" and jobs[0].error == "the code changed while the comparison ran: call it again"


def test_a_process_that_ends_without_a_word_is_told_so(cells: list[Cell], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs.Run, "write_summary", lambda *_, **__: None)
    jobs = execute.execute(cells[:1], Trainer(1), lambda jobs: None, Interrupts())
    assert jobs[0].stage == "failed" and "without a word: see its log" in str(jobs[0].error)


def test_the_board_shows_every_run_and_counts_those_that_do_not_fit(cells: list[Cell]) -> None:
    summary = {"steps": 2, "seconds": 100.0, "final_return_mean": -3.25}
    jobs = [Job(cells[0], "running", summary=summary), Job(cells[1], "failed", error="it broke"), Job(cells[2])]
    console = Console(width=110, record=True, file=io.StringIO())
    console.print(live.board(jobs, 20))
    text = console.export_text()
    assert "2 of 5" in text and "-3.2" in text and "2 min" in text and "failed: it broke" in text
    assert "3 runs: 1 running, 1 failed, 1 waiting" in text
    console.print(live.board([Job(cells[0])] * 50, 10))
    assert "40 not shown" in console.export_text()


def enter(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Where the command is called: an empty folder but for an environment and a published curve."""
    (folder / "arm_of_test_compare.py").write_text(ARM)
    (folder / "paper.csv").write_text("algo,env,step,return\nPAPER,arm_of_test_compare:Arm,200,-4\n")
    patch.chdir(folder)
    patch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a comparison of which all but one run came to its end."""
    folder = tmp_path_factory.mktemp("compared")
    with pytest.MonkeyPatch.context() as patch:
        enter(folder, patch)
        assert cli.main(COMMAND.split()) == 1
    return folder


@pytest.fixture
def here(compared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(compared)
    return compared


def statuses(folder: Path) -> dict[int, str]:
    return {run.config.seed: run.summary()["status"] for run in runs.find_all(folder / "runs")}


def test_an_interrupted_comparison_goes_on_isolates_what_fails_and_runs_it_again_when_called_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(tmp_path, monkeypatch)
    here, looked = tmp_path, []

    def stop(self: object, jobs: Sequence[Job]) -> None:
        """Interrupt as soon as there is something to go on with."""
        looked.append([job for job in jobs if job.run and checkpoint.steps(job.run.checkpoints)])
        if looked[-1]:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(live.Lines, "show", stop)
        assert cli.main(COMMAND.split()) == 130
    assert "interrupted" in statuses(here).values() or "finished" in statuses(here).values()
    before = {run.path for run in runs.find_all(here / "runs") if checkpoint.steps(run.checkpoints)}
    assert cli.main(COMMAND.split()) == 1
    assert statuses(here) == {0: "finished", 1: "failed", 2: "finished"}
    assert before <= {run.path for run in runs.find_all(here / "runs")}
    finished = [run.config.seed for run in runs.find_all(here / "runs") if run.summary()["status"] == "finished"]
    assert sorted(finished) == [0, 2], "no run was made twice"
    data = json.loads((here / "runs" / "comparisons" / "arms" / "results.json").read_text())
    assert [run["stage"] for run in data["runs"]] == ["finished", "failed", "finished"]
    assert "the arm fell off" in data["runs"][1]["error"]
    assert data["contests"][0]["pairs"] == [] and len(data["contests"][0]["algorithms"][0]["curves"]) == 2

    (here / "mended").touch()
    before = {run.path for run in runs.find_all(here / "runs") if run.summary()["status"] == "finished"}
    assert cli.main(COMMAND.split()) == 0
    every = runs.find_all(here / "runs")
    assert {run.path for run in every if run.summary()["status"] == "finished"} > before
    assert cli.main(COMMAND.split()) == 0
    assert [run.path for run in runs.find_all(here / "runs")] == [run.path for run in every]
    finished = [run.summary() for run in every if run.summary()["status"] == "finished"]
    assert all(summary["peak_memory"] > 50 for summary in finished)


def test_the_report_holds_what_the_runs_have_written(here: Path) -> None:
    report = here / "runs" / "comparisons" / "arms"
    names = {"report.html", "curves.png", "curves.svg", "results.csv", "results.json", "table.md", "table.tex"}
    assert names <= {path.name for path in report.iterdir()}
    rows = list(csv.DictReader((report / "results.csv").read_text().splitlines()))
    for run in runs.find_all(here / "runs"):
        curve = of_run(run)
        if run.summary()["status"] == "finished" and curve:
            mine = [row for row in rows if row["algo"] == "td3" and row["seed"] == str(run.config.seed)]
            assert [float(row["return"]) for row in mine] == curve.returns.tolist()
            assert [float(row["seconds"]) for row in mine] == curve.seconds.tolist()  # type: ignore[union-attr]
    assert [row["source"] for row in rows if row["algo"] == "PAPER"] == ["paper.csv"]
    assert "| arm_of_test_compare:Arm, 600 steps | PAPER † | 1 | – |" in (report / "table.md").read_text()


def test_plot_draws_any_runs(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plot", "runs", "paper.csv", "--to", "mine.svg", "--axis", "steps"]) == 0
    assert capsys.readouterr().out == "plot: mine.svg\n"
    text = (here / "mine.svg").read_text()
    assert "environment steps" in text and "PAPER" in text and "training seconds" not in text
    assert cli.main(["plot", "runs", "--to", "mine.txt"]) == 2
    assert "must end in .png, .svg, .pdf, or for numbers .csv, got 'mine.txt'" in capsys.readouterr().err
    assert cli.main(["plot", "runs", "--to", "mine.csv", "--axis", "steps"]) == 2
    assert "a CSV has both axes, got --axis steps: leave it out" in capsys.readouterr().err


def test_plotted_curves_can_be_kept_as_numbers_and_read_again(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plot", "runs", "paper.csv", "--to", "kept/mine.csv"]) == 0
    assert capsys.readouterr().out == "plot: kept/mine.csv\n"
    kept, meant = (foreign.read(Path(name)) for name in ("kept/mine.csv", "paper.csv"))
    for curve in meant:
        (same,) = [each for each in kept if (each.label, each.env, each.seed) == (curve.label, curve.env, curve.seed)]
        assert same.steps.tolist() == curve.steps.tolist() and same.returns.tolist() == curve.returns.tolist()
    assert len(kept) > len(meant)
