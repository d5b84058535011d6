"""What is typed reaches the trainer; what is mistyped comes back as one sentence, before anything is written."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import dyna
import dyna.evaluate
import dyna.runs
import dyna.train
from dyna import cli, hyperparameters, registry
from dyna.config import RunConfig
from dyna.errors import RunFailed, UserError
from tests import readme


@dataclasses.dataclass(frozen=True)
class FakeRun(dyna.runs.Run):
    """A finished run."""

    path: Path = Path("runs/E-v0/sac/some run")
    config: RunConfig = dataclasses.field(default_factory=RunConfig)
    ended: str = "finished"

    def summary(self) -> dict[str, Any]:
        return {
            "status": self.ended,
            "steps": 1234,
            "seconds": 2.5,
            "updates": {"critic": 99},
            "final_return_mean": -150.0,
        }


@dataclasses.dataclass
class Trained:
    """What the trainer was asked for."""

    configs: list[RunConfig] = dataclasses.field(default_factory=list)
    options: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    outcome: Any = "finished"

    def __call__(self, config: RunConfig, **options: Any) -> FakeRun:
        self.configs.append(config)
        self.options.append(options)
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return FakeRun(config=config, ended=self.outcome)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Trained:
    """The trainer, replaced by one that only notes what it was asked for, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    trainer = Trained()
    monkeypatch.setattr(dyna.train, "train", trainer)
    return trainer


def test_flags_reach_the_trainer(trained: Trained) -> None:
    code = cli.main(
        "train --env Pendulum-v1 --algo sac -n 3000 --seed 7 -p gamma=0.9 learning_rate=1e-3 -p train_freq=[1,episode] "
        "--no-preset --eval-every 500 --until -2e2 --runs elsewhere --normalize --env-kwargs g=9.81".split()
    )
    assert code == 0
    assert trained.configs == [
        RunConfig(
            env="Pendulum-v1",
            algo="sac",
            steps=3000,
            seed=7,
            hyperparameters={"gamma": 0.9, "learning_rate": 1e-3, "train_freq": [1, "episode"]},
            env_kwargs={"g": 9.81},
            normalize=True,
            eval_every=500,
            until=-200.0,
            runs=Path("elsewhere"),
        )
    ]
    assert trained.options == [{"resume": None, "progress": None}]


@pytest.mark.parametrize("flag", ["-n", "--steps", "--n-timesteps"])
def test_steps_have_rl_zoo_s_names_too(trained: Trained, flag: str) -> None:
    cli.main(["train", "--algo", "sac", flag, "1e4"])
    assert trained.configs[0].steps == 10_000


def test_a_stored_configuration_runs_again(trained: Trained, tmp_path: Path) -> None:
    stored = RunConfig(algo="td3", steps=77, hyperparameters={"gamma": 0.5, "policy_kwargs": {"net_arch": [8]}})
    (tmp_path / "config.yaml").write_text(stored.to_yaml())
    assert cli.main(["train", "--config", "config.yaml"]) == 0
    assert trained.configs == [stored]


def test_flags_win_over_the_file_key_by_key(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("algo: td3\nseed: 5\npreset: false\nhyperparameters: {gamma: 0.5, tau: 0.1}")
    cli.main("train --config mine.yaml --seed 6 -p gamma=0.6".split())
    config = trained.configs[0]
    assert (config.algo, config.seed, config.hyperparameters) == ("td3", 6, {"gamma": 0.6, "tau": 0.1})


def test_the_last_line_is_the_run(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["train", "--algo", "sac"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"run: {Path('runs/E-v0/sac/some run')}"
    text = "\n".join(lines)
    assert "1,234" in text and "-150.0" in text
    assert "dyna eval 'runs/E-v0/sac/some run'" in text


@pytest.mark.parametrize(("until", "past"), [("-200", " --until null"), ("-100", ""), ("null", "")])
def test_the_next_command_goes_on_past_a_return_that_was_reached(
    trained: Trained, capsys: pytest.CaptureFixture[str], until: str, past: str
) -> None:
    cli.main(["train", "--algo", "sac", "-n", "5000", "--until", until])
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert f"dyna train --resume 'runs/E-v0/sac/some run' -n 10000{past}" in lines


MISTAKES = {
    "trian": "unknown command 'trian': the nearest is 'train'",
    "train --stesp 5": "unknown flag '--stesp': the nearest is '--steps'",
    "train --algo=sacc": "unknown algorithm 'sacc': the nearest is 'sac'",
    "train --algo sac --env Pendulun-v1": "Pendulum-v1",
    "train --algo sac -p gama=1": "unknown hyperparameter 'gama': the nearest is 'gamma'",
    "train --algo sac -p batch_size=big": "batch_size must be an integer, got 'big'",
    "train --algo sac -p gamma": "'gamma' is not KEY=VALUE",
    "train --algo mbpo -p world_model.widht=9": "the nearest is 'world_model.width'",
    "train --algo mbpo -p world_model.elites=99": "got 99",
    "train --algo mbpo -p real_share=1.5": "real_share must be in [0, 1], got 1.5",
    "train --algo sac -p batch_size=-3": "batch_size must be at least 1, got -3",
    "train --algo sac -p gamma=1.01": "gamma must be in [0, 1], got 1.01",
    "train --algo sac -p learning_rate=.nan": "learning_rate must be a finite number of at least 0, got nan",
    "train --algo mbpo -p world_model.width=0": "width must be at least 1, got 0",
    "train --algo dqn --env Pendulum-v1": "dqn takes Discrete actions, Pendulum-v1 has Box",
    "train --algo sac -n": "-n/--steps/--n-timesteps: expected one argument",
    "train --algo sac -n many": "steps must be an integer, got 'many'",
    "train --algo sac -n 0": "steps must be at least 1, got 0",
    "train --algo sac --seed -1": "seed must be at least 0, got -1",
    "train --algo sac --seed 4294967296": "seed must be at most 4294967295, got 4294967296",
    "train --algo sac -p lr=1e-3": "unknown hyperparameter 'lr': the nearest is 'learning_rate'",
    "train --algo sac -p bs=9": "unknown hyperparameter 'bs': the nearest is 'batch_size'",
    "train --algo mbpo -p world_model.lr=1e-3": "the nearest is 'world_model.learning_rate'",
    "train --algo sac --device gpu": "device must be auto, cpu or cuda, got 'gpu'",
    "train Pendulum-v1": "unexpected 'Pendulum-v1'",
    "train --config no_such.yaml": "no_such.yaml",
    "train --resume no_such_run": "no_such_run",
    "eval": "dyna eval needs the folder of a run",
    "eval no_such_run": "no_such_run",
    "eval no_such_run --episodes few": "episodes must be an integer, got 'few'",
    "eval no_such_run --episodes 0": "episodes must be at least 1, got 0",
    "eval no_such_run --which beste": "'beste'",
    "list algorithm": "the nearest is 'algorithms'",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(
    line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(line.split()) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1 and said.err.endswith("\n")
    assert MISTAKES[line] in said.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("outcome", "code", "sentence"),
    [
        (UserError("mend\nthis"), 2, "mend this"),
        (RunFailed("step 7: the sky fell"), 1, "step 7: the sky fell"),
        (ZeroDivisionError("oh"), 1, "ZeroDivisionError: oh (the same command with --debug shows where)"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_an_end_that_was_not_wished_for_is_one_line_and_a_code(
    trained: Trained, capsys: pytest.CaptureFixture[str], outcome: BaseException, code: int, sentence: str
) -> None:
    trained.outcome = outcome
    assert cli.main(["train", "--algo", "sac"]) == code
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", sentence + "\n")


def test_what_is_noted_meanwhile_is_a_sentence_on_standard_error(
    trained: Trained, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = logging.getLogger("dyna")
    monkeypatch.setattr(
        "dyna.train.train", lambda *_, **__: log.info("the world changed about step %d", 7) or FakeRun()
    )
    for _ in range(2):
        assert cli.main(["train", "--algo", "sac"]) == 0
        assert capsys.readouterr().err == "the world changed about step 7\n"
    log.info("and nobody asked")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("words", [["list", "environments"], ["--help"]])
def test_where_nobody_reads_to_the_end_nothing_is_said(words: list[str]) -> None:
    command = [sys.executable, "-m", "dyna", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as listing:
        assert listing.stdout is not None and listing.stderr is not None
        listing.stdout.close()
        assert (listing.stderr.read(), listing.wait()) == ("", 1)


def test_debug_shows_the_traceback(trained: Trained) -> None:
    trained.outcome = UserError("mend this")
    with pytest.raises(UserError):
        cli.main(["train", "--algo", "sac", "--debug"])


def test_an_interrupted_run_says_how_to_go_on(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    trained.outcome = "interrupted"
    assert cli.main(["train", "--algo", "sac"]) == 130
    out = capsys.readouterr().out
    assert "dyna train --resume 'runs/E-v0/sac/some run'" in out
    assert out.splitlines()[-1].startswith("run: ")


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """The configuration of the run that is resumed."""
    config = RunConfig(algo="sac", steps=1000, seed=3, hyperparameters={"gamma": 0.9, "tau": 0.1})
    monkeypatch.setattr(dyna.runs, "open", lambda path: SimpleNamespace(path=path, config=config))
    return config


def test_a_run_goes_on_as_it_was(trained: Trained, stored: RunConfig) -> None:
    assert cli.main("train --resume some_run -n 2000 --device cpu -p gamma=0.9 --seed 3".split()) == 0
    assert trained.configs == [dataclasses.replace(stored, steps=2000, device="cpu")]
    assert trained.options[0]["resume"] == Path("some_run")


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("--algo td3", "--algo"),
        ("--seed 4", "--seed"),
        ("-p gamma=0.8", "--hyperparameters"),
        ("--n-envs 2 -n 2000", "--n-envs"),
        ("--config some.yaml", "--config"),
    ],
)
def test_a_resumed_run_cannot_become_another(
    trained: Trained, stored: RunConfig, capsys: pytest.CaptureFixture[str], flags: str, named: str
) -> None:
    assert cli.main(["train", "--resume", "some_run", *flags.split()]) == 2
    said = capsys.readouterr().err
    assert f"cannot be combined with {named}: " in said
    assert said.count("\n") == 1
    assert trained.configs == []


def test_help_shows_every_flag_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for field in dataclasses.fields(RunConfig):
        assert re.search(rf"--{field.name.replace('_', '-')}[ ,]", text)  # a comma from Python 3.13 on
    assert "Environment steps to train for" in text and "(default: 5000)" in text


def test_help_shows_every_knob_with_its_default_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main("train --algo mbpo --help".split()) == 0
    lines = capsys.readouterr().out.splitlines()
    for knob in hyperparameters.knobs(registry.find("mbpo")):
        assert any(line.split()[:2] == [knob.name, knob.shown_default.split()[0]] for line in lines), knob.name
        assert knob.help.split(maxsplit=3)[:3] == next(
            line.split()[2:5] for line in lines if line.split()[:1] == [knob.name]
        )


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["eval", "--help"], ["list", "--help"]])
def test_help_is_no_mistake(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 0
    said = capsys.readouterr()
    assert said.out.startswith("usage: dyna") and said.err == ""


def test_help_and_mistakes_in_flags_do_not_wait_for_torch() -> None:
    program = (
        "import sys; from dyna.cli import main; "
        "codes = [main(line.split()) for line in ('--help', 'train --help', 'train --stesp 1', 'train --algo sacc')]; "
        "sys.exit(codes != [0, 0, 2, 2] or 'torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_the_module_is_the_command() -> None:
    found = subprocess.run([sys.executable, "-m", "dyna", "--version"], check=True, capture_output=True, text=True)
    assert found.stdout == f"dyna {dyna.__version__}\n"


def test_lists_name_everything(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["list"]) == 0
    first = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert set(registry.names()) <= set(first)
    assert cli.main(["list", "environments"]) == 0
    environments = capsys.readouterr().out
    assert "Pendulum-v1" in environments and "module:ClassName" in environments
    assert cli.main(["list", "runs", "--runs", str(tmp_path)]) == 0
    assert "no runs in" in capsys.readouterr().out


def test_a_package_that_is_missing_does_not_hide_the_other_algorithms(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = {"theirs": "not_installed:Theirs", "sac": "stable_baselines3:SAC"}
    monkeypatch.setattr(registry, "_targets", lambda: table)
    assert cli.main(["list", "algorithms"]) == 0
    out = capsys.readouterr().out
    assert "pip install not_installed" in out and "Soft Actor-Critic" in out


def test_eval_asks_for_what_was_typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked: dict[str, Any] = {}

    def evaluate_run(path: Path, episodes: int, **options: Any) -> SimpleNamespace:
        asked.update(path=path, episodes=episodes, **options)
        return SimpleNamespace(return_mean=-150.0, return_std=10.0, length_mean=200.0, episodes=episodes)

    monkeypatch.setattr(dyna.evaluate, "evaluate_run", evaluate_run)
    line = "eval some_run --episodes 3 --which last --stochastic --seed 5 --video film.mp4 --reward a:b -p horizon=9"
    assert cli.main(line.split()) == 0
    assert asked == {
        "path": Path("some_run"),
        "episodes": 3,
        "seed": 5,
        "deterministic": False,
        "render": False,
        "video": Path("film.mp4"),
        "which": "last",
        "hyperparameters": {"horizon": 9, "reward_fn": "a:b"},
    }
    assert "-150.0" in capsys.readouterr().out


def test_a_run_is_trained_listed_evaluated_and_run_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    line = "train --env CartPole-v1 --algo a2c -n 50 --eval-episodes 1 -p policy_kwargs.activation_fn=relu"
    assert cli.main([*line.split(), "-p", "learning_rate=lin_1e-3", "--no-preset"]) == 0
    run = capsys.readouterr().out.splitlines()[-1].removeprefix("run: ")
    assert cli.main(["list", "runs"]) == 0
    assert run in capsys.readouterr().out
    assert cli.main(["eval", run, "--episodes", "1"]) == 0
    assert capsys.readouterr().out.startswith("return ")
    assert cli.main(["train", "--config", f"{run}/config.yaml"]) == 0
    again = capsys.readouterr().out.splitlines()[-1].removeprefix("run: ")
    assert again != run
    assert Path(again, "config.yaml").read_text() == Path(run, "config.yaml").read_text()


def test_the_readmes_environment_is_trained_from_its_own_folder(tmp_path: Path) -> None:
    (tmp_path / "cart.py").write_text(readme.cart())
    settings = ["learning_starts=60", "gradient_steps=1", "world_model.max_updates=20"]
    command = [sys.executable, "-m", "dyna", "train", "--env", "cart:Cart", "-n", "150", "--eval-episodes", "1"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [*command, "-p", *settings], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    run = tmp_path / done.stdout.splitlines()[-1].removeprefix("run: ")
    assert json.loads((run / "summary.json").read_text())["status"] == "finished"
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__") == ["cart.py", "runs"]
