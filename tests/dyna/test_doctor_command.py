"""What the doctor prints and writes, what it measures of training, and what it says to begin with."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

import dyna.train
from dyna import cli, presets, registry
from dyna.config import RunConfig
from dyna.doctor import advice, command, costs
from dyna.doctor.costs import Cost
from dyna.doctor.findings import Finding, exit_code
from tests import bad_environments

CART = f"{bad_environments.__name__}:Cart"
BOX = gym.spaces.Box(-1.0, 1.0, (1,))


def doctor(words: str) -> int:
    return cli.main(["doctor", *words.split()])


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two algorithms, and a moment for each."""
    monkeypatch.setattr(registry, "names", lambda: ["sac", "dqn", "ppo"])
    monkeypatch.setattr(costs, "SECONDS", 0.02)
    monkeypatch.setattr(costs, "ROLLOUT", 64)


@pytest.mark.usefixtures("hasty")
def test_the_table_and_the_file_tell_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor(f"--env {CART} --steps 200 --json {tmp_path / 'told.json'}") == 0
    told = json.loads((tmp_path / "told.json").read_text())
    out, err = capsys.readouterr()
    assert told["env"] == CART and told["exit_code"] == 0
    for finding in told["findings"]:
        assert finding["name"] in out and finding["verdict"] in out
    (step,) = (each for each in told["findings"] if each["name"] == "training step")
    assert "sac " in step["seen"] and "ppo " in step["seen"] and "dqn" not in step["seen"]
    assert out.splitlines()[-1] == f"{CART}: nothing to mend"
    assert "training a moment with sac" in err  # what is being done, apart from what was found


@pytest.mark.parametrize(
    ("env", "sentence"),
    [
        ("no_such_module:Cart", "no module 'no_such_module'"),
        ("Pendulun-v1", "the nearest is 'Pendulum-v1'"),
        (f"{bad_environments.__name__}:Raises", "FileNotFoundError: rail.xml"),
    ],
)
def test_an_environment_that_cannot_be_made_is_a_finding(
    env: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor(f"--env {env}") == 2
    out = " ".join(capsys.readouterr().out.replace("\n", " ").split())
    assert "error" in out and out.endswith("mend the errors first")
    assert sentence.split()[0] in out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--steps 0", "steps must be at least 1, got 0"),
        ("--algo sac", "unknown flag '--algo'"),
        ("--seed few", "seed must be an integer, got 'few'"),
    ],
)
def test_a_mistake_is_one_sentence(words: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor(words) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", ".", "no/folder/told.json", "\0", "a" * 300])
def test_a_file_that_cannot_be_written_is_told_before_anything_is_examined(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "examine", pytest.fail)
    assert cli.main(["doctor", "--env", CART, "--json", name]) == 2
    said = capsys.readouterr().err
    assert said.startswith("--json ") and "cannot be written" in said and said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_what_stands_for_another_file_stays_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the name of a device does, in whose place a new file would be its end."""
    (tmp_path / "link").symlink_to(tmp_path / "told.json")
    monkeypatch.setattr(command, "examine", lambda run, steps, show: [])
    assert doctor(f"--env {CART} --json {tmp_path / 'link'}") == 0
    assert (tmp_path / "link").is_symlink() and json.loads((tmp_path / "told.json").read_text())["env"] == CART


def test_findings_are_written_over_a_file_only_when_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = tmp_path / "told.json"
    told.write_text("mine")
    monkeypatch.setattr(command, "examine", pytest.fail)
    assert doctor(f"--env {CART} --json {told}") == 2
    assert "is there already: choose another name, or add --overwrite" in capsys.readouterr().err
    with pytest.raises(ZeroDivisionError):  # until something has been found the file stays
        monkeypatch.setattr(command, "examine", lambda run, steps, show: [1 / 0])
        doctor(f"--env {CART} --json {told} --overwrite --debug")
    assert told.read_text() == "mine"
    monkeypatch.setattr(command, "examine", lambda run, steps, show: [])
    assert doctor(f"--env {CART} --json {told} --overwrite") == 0
    assert json.loads(told.read_text())["env"] == CART


def test_an_examination_that_was_stopped_is_in_nobody_s_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "examine", stop)
    assert doctor(f"--env {CART} --json {tmp_path / 'told.json'}") == 130
    monkeypatch.setattr(command, "examine", lambda run, steps, show: [])
    assert doctor(f"--env {CART} --json {tmp_path / 'told.json'}") == 0


def test_the_worst_verdict_decides_the_exit_code() -> None:
    codes = {"ok": 0, "note": 0, "warning": 1, "error": 2}
    for verdict, code in codes.items():
        assert exit_code([Finding("a", "ok", ""), Finding("b", verdict, ""), Finding("c", "ok", "")]) == code  # type: ignore[arg-type]
    assert exit_code([]) == 0


SMALL: dict[str, Any] = {
    "rollouts": 1,
    "model_every": 20,
    "gradient_steps": 1,
    "policy_kwargs": {"net_arch": [8]},
    "world_model": {"members": 2, "elites": 2, "width": 8, "max_updates": 25},
}


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    ("algo", "settings"), [("mbpo", SMALL), ("a2c", {}), ("td3", {"train_freq": [1, "episode"]}), ("ars", {})]
)
def test_a_step_of_training_is_timed(algo: str, settings: dict[str, Any]) -> None:
    cost = costs.measure(RunConfig(env=CART, algo=algo, hyperparameters=settings))
    assert cost.why_not == "" and cost.milliseconds is not None and cost.milliseconds > 0
    assert cost.settings.hyperparameters == settings  # what is recommended is not what was shortened


def test_of_several_classes_that_is_timed_which_takes_the_actions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "SECONDS", 0.02)
    assert costs.measure(RunConfig(env="CartPole-v1", algo="planfirst")).why_not == ""


def test_what_cannot_be_timed_is_told_with_its_reason() -> None:
    broken = costs.measure(RunConfig(env=f"{bad_environments.__name__}:NotANumber", algo="ppo"))
    assert broken.milliseconds is None and "returned the observation" in broken.why_not
    assert costs.judge([broken]).verdict == "error"
    timed = Cost(RunConfig(env=CART, algo="sac"), 2.5)
    assert costs.judge([timed, broken]).seen.endswith(f"sac 2.5; could not be timed: ppo: {broken.why_not}")


def test_an_environment_too_slow_to_train_in_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "PATIENCE", 0.0)
    assert "took more than" in costs.measure(RunConfig(env=CART, algo="ppo")).why_not


@pytest.mark.parametrize("algo", ["mbpo", "dhmbpo"])
def test_a_fit_is_spread_over_the_steps_until_the_next(algo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fit that takes a second, every 1,000 steps, adds a millisecond to each step and not a second to one."""
    monkeypatch.setattr(costs, "SECONDS", 0.02)
    clock = [0.0]
    monkeypatch.setattr(costs.time, "perf_counter", lambda: clock[0])
    cls = registry.find(algo)
    fit, train = cls.fit_world_model, cls.train  # type: ignore[attr-defined]

    def slow_fit(self: Any) -> None:
        fit(self)
        clock[0] += 1.0

    def slow_train(self: Any, *args: Any, **kwargs: Any) -> None:
        train(self, *args, **kwargs)
        clock[0] += 0.005

    monkeypatch.setattr(cls, "fit_world_model", slow_fit)
    monkeypatch.setattr(cls, "train", slow_train)
    settings = {name: value for name, value in SMALL.items() if name != "rollouts" or algo == "mbpo"}
    cost = costs.measure(RunConfig(env=CART, algo=algo, hyperparameters={**settings, "model_every": 1_000}))
    assert cost.why_not == "" and cost.milliseconds == pytest.approx(5 + 1)


def recommended(monkeypatch: pytest.MonkeyPatch, algos: list[str], env: str, observations: int = 2) -> RunConfig:
    """The configuration that the recommended command trains with."""
    measured = [Cost(RunConfig(env=env, algo=algo), 10.0) for algo in algos]
    finding = advice.recommend(measured, gym.spaces.Box(-1.0, 1.0, (observations,)), BOX)
    assert finding is not None
    seen: list[RunConfig] = []

    def train(config: RunConfig, **_: Any) -> None:
        seen.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr(dyna.train, "train", train)
    cli.main(shlex.split(finding.remedy)[1:])
    return seen[0]


def test_a_world_model_is_recommended_where_one_was_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    assert recommended(monkeypatch, ["sac", "mbpo", "ppo"], CART).algo == "mbpo"
    assert recommended(monkeypatch, ["sac", "ppo"], CART).algo == "sac"
    assert advice.recommend([Cost(RunConfig(env=CART, algo="sac"), None, "why")], BOX, BOX) is None


def test_a_table_is_recommended_where_states_are_numbers() -> None:
    measured = [Cost(RunConfig(env="FrozenLake-v1", algo=algo), 10.0) for algo in ("mbdqn", "dyna-q", "dqn")]
    states, actions = gym.spaces.Discrete(16), gym.spaces.Discrete(4)
    for observations, algo in ((states, "dyna-q"), (BOX, "mbdqn")):
        finding = advice.recommend(measured, observations, actions)
        assert finding is not None and f"--algo {algo}" in finding.remedy


def test_the_preset_of_an_environment_of_like_size_is_recommended(monkeypatch: pytest.MonkeyPatch) -> None:
    preset = presets.load("mbpo", "Pendulum-v1")
    config = recommended(monkeypatch, ["mbpo"], CART, observations=3)
    assert config.hyperparameters == preset["hyperparameters"] and config.steps == preset["steps"]
    assert config.env == CART


def test_a_preset_of_its_own_needs_no_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    preset = presets.load("mbpo", "Pendulum-v1")
    config = recommended(monkeypatch, ["mbpo"], "Pendulum-v1", observations=300)
    assert config.hyperparameters == preset["hyperparameters"]


def test_far_from_every_preset_the_defaults_are_recommended(monkeypatch: pytest.MonkeyPatch) -> None:
    config = recommended(monkeypatch, ["mbpo"], CART, observations=300)
    assert config.hyperparameters == {} and config.steps == advice.STEPS
