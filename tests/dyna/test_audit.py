"""What a user says of the reward and of the end is held against what the environment did, and every lie is listed."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from stable_baselines3.common.logger import configure
from torch import Tensor

from dyna import audit, cli
from dyna.algorithms import MBPO
from dyna.errors import UserError
from dyna.spaces import flattened, names
from dyna.types import Transitions
from dyna.world_model import EnsembleSettings, GaussianEnsemble, KnownReward, KnownTermination
from tests.probes import AnyEnv

ROWS = 500


def walk() -> Transitions:
    """Two dimensions, one action; the reward is the first action, and the task ends where the first dimension is 1."""
    rng = torch.Generator().manual_seed(0)
    obs, action = torch.randn(ROWS, 2, generator=rng), torch.rand(ROWS, 1, generator=rng) * 2 - 1
    next_obs = obs + action
    return Transitions(obs, action, action[:, 0], next_obs, (next_obs[:, 0] > 1).float())


def model(reward_fn: KnownReward | None = None, termination_fn: KnownTermination | None = None) -> GaussianEnsemble:
    return GaussianEnsemble(2, 1, reward_fn=reward_fn, termination_fn=termination_fn)


def test_right_functions_are_never_contradicted() -> None:
    right = model(
        lambda obs, action, next_obs: (next_obs - obs)[:, 0], lambda obs, action, next_obs: next_obs[:, 0] > 1
    )
    found = audit.compare(right, walk())
    assert [each.name for each in found] == ["reward_fn", "termination_fn"]
    assert not any(each.wrong.any() for each in found)
    audit.refuse(found, walk().terminated)


def test_without_functions_there_is_nothing_to_audit() -> None:
    assert audit.compare(model(), walk()) == []


def test_not_a_number_disagrees() -> None:
    found = audit.compare(model(lambda obs, action, next_obs: torch.full((len(obs),), torch.nan)), walk())
    assert found[0].wrong.all()


def test_few_disagreements_are_listed_with_their_transitions(tmp_path: Path) -> None:
    data = walk()
    rows = [3, 77]

    def reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        given = action[:, 0].clone()
        given[rows] += 5
        return given

    found = audit.compare(model(reward), data)
    audit.refuse(found, data.terminated)  # two of five hundred are tolerated
    audit.write(found, data, tmp_path / "list.csv", ["place", "speed"], ["push"])
    lines = list(csv.DictReader((tmp_path / "list.csv").read_text().splitlines()))
    assert [int(line["row"]) for line in lines] == rows
    for row, line in zip(rows, lines, strict=True):
        assert line["function"] == "reward_fn"
        assert float(line["given"]) - float(line["seen"]) == pytest.approx(5)
        stored = [float(line[name]) for name in ("place", "speed", "push", "next place", "next speed")]
        torch.testing.assert_close(torch.tensor(stored), torch.cat([data.obs, data.action, data.next_obs], 1)[row])


def test_ends_are_judged_apart_from_other_steps() -> None:
    data = walk()
    data = data._replace(terminated=(data.next_obs[:, 0] >= data.next_obs[:, 0].sort().values[-3]).float())
    never = audit.compare(model(termination_fn=lambda obs, action, next_obs: torch.zeros(len(obs))), data)
    assert int(never[0].wrong.sum()) == 3  # fewer than a hundredth of all steps, but every end
    with pytest.raises(UserError, match="termination_fn disagrees with the environment on 3 of 500 transitions"):
        audit.refuse(never, data.terminated)


def test_the_refusal_names_the_list() -> None:
    found = audit.compare(model(lambda obs, action, next_obs: obs[:, 0]), walk())
    with pytest.raises(UserError, match="correct it, or leave it out to learn it; here.csv lists them"):
        audit.refuse(found, walk().terminated, Path("here.csv"))


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (lambda obs, action, next_obs: obs[:, 9], "reward_fn raised IndexError: .* given tensors of shape .500, 2."),
        (lambda obs, action: obs, "reward_fn raised TypeError: "),
        (lambda obs, action, next_obs: obs, r"must return a tensor of shape \(500,\), got \(500, 2\)"),
        (lambda obs, action, next_obs: 1.0, r"must return a tensor of shape \(500,\), got a float"),
        (lambda obs, action, next_obs: obs[:, 0].numpy(), "got a ndarray"),
    ],
)
def test_a_function_that_raises_or_misfits_is_one_sentence(function: KnownReward, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        audit.compare(model(function), walk())


TASK = """
import gymnasium, numpy, torch

class Walk(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-9, 9, (1,), numpy.float32)
    action_space = gymnasium.spaces.Box(-2, 2, (1,), numpy.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.t = self.np_random.uniform(-1, 1, 1).astype("float32"), 0
        return self.x, {}

    def step(self, action):
        self.x, self.t = numpy.clip(self.x + action, -9, 9).astype("float32"), self.t + 1
        odd = 7.0 if self.t == 1 and self.reset_count() else 0.0
        return self.x, float(self.x[0]) + odd, bool(self.x[0] > 8), self.t == 25, {}

    episodes = 0

    def reset_count(self):
        self.episodes += 1
        return self.episodes == 2

def reward(obs, action, next_obs):
    return next_obs[:, 0]

def wrong(obs, action, next_obs):
    return next_obs[:, 0] + (next_obs[:, 0] > 0)
"""
SMALL = (
    "learning_starts=120 gradient_steps=1 rollouts=1 model_every=100 policy_kwargs.net_arch=[8] buffer_size=1000 "
    "world_model.members=2 world_model.elites=2 world_model.width=8 world_model.max_updates=25"
)


def train(function: str) -> int:
    words = f"train --algo mbpo --env task:Walk --eval-every 0 -n 240 --runs runs -p {SMALL} reward_fn=task:{function}"
    return cli.main([*words.split(), "--no-progress"])


def test_the_command_line_takes_a_function_and_lists_its_disagreements(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "task.py").write_text(TASK)
    monkeypatch.delitem(__import__("sys").modules, "task", raising=False)
    assert train("reward") == 0
    (run,) = (tmp_path / "runs").glob("*/*/*/")
    (line,) = csv.DictReader((run / audit.FILE).read_text().splitlines())
    assert float(line["seen"]) - float(line["given"]) == pytest.approx(7, abs=1e-5)
    assert float(line["given"]) == pytest.approx(float(line["next obs[0]"]))
    assert json.loads((run / "summary.json").read_text())["world_model"]["reward_fn_disagreements"] == 1
    assert "reward_fn disagrees with the environment on 1 of 121 transitions" in caplog.text
    assert caplog.text.count("disagrees") == 1  # said once, although every fit finds it again


def test_the_columns_are_called_as_the_environment_calls_its_observations(tmp_path: Path) -> None:
    small = EnsembleSettings(members=2, elites=2, width=8, max_updates=25)
    observed = names(AnyEnv.observation_space)
    place = observed.index("place[0,0]")
    agent = MBPO(
        env=flattened(AnyEnv()),
        seed=0,
        device="cpu",
        learning_starts=60,
        gradient_steps=1,
        world_model=small,
        reward_fn=lambda obs, action, next_obs: -next_obs[:, place].abs(),
    )
    agent.set_logger(configure(str(tmp_path), []))
    agent.learn(62)
    (columns,) = csv.reader((tmp_path / audit.FILE).read_text().splitlines())
    assert columns[4:] == [*observed, "action[0]", "action[1]", *(f"next {name}" for name in observed)]
    assert {"side=-1", "next near[1][0]=3"} < set(columns)


def test_a_wrong_function_ends_the_run_in_a_sentence_that_names_the_list(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "task.py").write_text(TASK)
    monkeypatch.delitem(__import__("sys").modules, "task", raising=False)
    assert train("wrong") == 2
    said = capsys.readouterr().err
    assert "reward_fn disagrees with the environment on " in said
    (listed,) = (tmp_path / "runs").glob(f"*/*/*/{audit.FILE}")
    assert str(listed.relative_to(tmp_path)) in said
    assert len(listed.read_text().splitlines()) > 20


def test_a_function_that_is_not_there_is_told_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "task.py").write_text(TASK)
    monkeypatch.delitem(__import__("sys").modules, "task", raising=False)
    assert train("rewrad") == 2
    assert "reward_fn" in capsys.readouterr().err and not (tmp_path / "runs").exists()
