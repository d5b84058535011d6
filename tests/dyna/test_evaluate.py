"""An evaluation plays the saved policy, the same episodes for the same seed, and runs no code of the run folder."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import DQN
from stable_baselines3.common.evaluation import evaluate_policy

from dyna import agents, cli, envs, evaluate, runs
from dyna.config import RunConfig
from dyna.errors import UserError
from dyna.evaluate import Evaluation, evaluate_run, play
from dyna.generators import stream
from dyna.guard import EnvironmentFailed
from dyna.train import train

SMALL = {"policy_kwargs": {"net_arch": [8]}, "learning_starts": 20, "batch_size": 8, "buffer_size": 500}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> runs.Run:
    config = RunConfig(
        env="CartPole-v1",
        algo="dqn",
        steps=300,
        hyperparameters=SMALL,
        eval_every=100,
        eval_episodes=3,
        device="cpu",
        runs=tmp_path_factory.mktemp("runs"),
    )
    return train(config, progress=False)


def test_the_policy_that_plays_is_the_one_that_sb3_loads(run: runs.Run) -> None:
    for which in ("best", "last"):
        ours = evaluate_run(run.path, 4, which=which, seed=1)
        env = envs.make_evaluation(run.config)
        theirs = DQN.load(run.path / f"{which}_model.zip", device="cpu")
        assert play(theirs, env, 4, seed=stream(1, 2)) == ours
        env.seed(stream(1, 2))
        returns, lengths = evaluate_policy(theirs, env, 4, return_episode_rewards=True)
        assert (tuple(returns), tuple(lengths)) == (ours.returns, ours.lengths)  # type: ignore[arg-type]


def test_the_same_seed_plays_the_same_episodes(run: runs.Run) -> None:
    policy = {"deterministic": False}  # which DQN draws from global generators
    assert evaluate_run(run.path, 3, seed=5) == evaluate_run(run.path, 3, seed=5)
    assert evaluate_run(run.path, 3, seed=5, **policy) == evaluate_run(run.path, 3, seed=5, **policy)
    assert evaluate_run(run.path, 3, seed=5).lengths != evaluate_run(run.path, 3, seed=6).lengths


def test_a_hyperparameter_that_changes_nothing_is_refused(run: runs.Run) -> None:
    sentence = "dqn acts by what it learned, so learning_rate=0.5 would change nothing: only an agent that plans takes"
    with pytest.raises(UserError, match=sentence):
        evaluate_run(run.path, 1, hyperparameters={"learning_rate": 0.5})
    with pytest.raises(UserError, match="unknown hyperparameter 'learnin_rate'"):
        evaluate_run(run.path, 1, hyperparameters={"learnin_rate": 0.5})


def test_no_zip_is_opened(run: runs.Run) -> None:
    expected = evaluate_run(run.path, 2)
    for name in ("best_model.zip", "last_model.zip"):
        content = (run.path / name).read_bytes()
        (run.path / name).write_bytes(b"a hostile pickle")
        try:
            assert evaluate_run(run.path, 2) == expected
        finally:
            (run.path / name).write_bytes(content)


def test_statistics_are_numpys() -> None:
    evaluation = Evaluation((1.0, 2.0, 6.0), (3, 4, 8))
    assert (evaluation.return_mean, evaluation.length_mean, evaluation.episodes) == (3.0, 5.0, 3)
    assert evaluation.return_std == pytest.approx(np.std([1.0, 2.0, 6.0]))


def test_a_normalised_policy_sees_what_it_learnt_with(tmp_path: Path) -> None:
    config = RunConfig(
        env="Pendulum-v1",
        algo="ppo",
        steps=128,
        hyperparameters={"n_steps": 64, "batch_size": 64},
        normalize=True,
        eval_every=64,
        eval_episodes=2,
        device="cpu",
        runs=tmp_path,
    )
    run = train(config, progress=False)
    last = (run.path / "evaluations.csv").read_text().splitlines()[-1].split(",")
    env = envs.make_evaluation(config)
    model = agents.make_player(config, env)
    agents.load(model, run.path / "last_model")
    again = play(model, env, 2, seed=stream(config.seed, 1, 128))
    assert float(last[2]) == again.return_mean
    for name in ("best_model", "last_model"):  # what SB3's users load beside each zip
        assert (run.path / f"{name}_vecnormalize.pkl").exists()


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_episodes_are_filmed(run: runs.Run, tmp_path: Path, suffix: str) -> None:
    video = tmp_path / "films" / f"film{suffix}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pygame, imageio and ffmpeg
        filmed = evaluate_run(run.path, 1, video=video)
    assert filmed == evaluate_run(run.path, 1)
    assert video.stat().st_size > 1_000
    assert video.read_bytes()[:12][slice(4, 8) if suffix == ".mp4" else slice(0, 4)] in (b"ftyp", b"GIF8")


def test_what_cannot_be_evaluated_is_told(run: runs.Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the video must end in .mp4 or .gif, got 'a.avi'"):
        evaluate_run(run.path, 1, video=Path("a.avi"))
    with pytest.raises(UserError, match="which must be best or last, got 'worst'"):
        evaluate_run(run.path, 1, which="worst")
    with pytest.raises(UserError, match="there is no run in"):
        evaluate_run(tmp_path, 1)
    fresh = runs.create(RunConfig(env="CartPole-v1", algo="dqn", runs=tmp_path))
    with pytest.raises(UserError, match="has saved no model yet"):
        evaluate_run(fresh.path, 1)
    (fresh.path / "best_model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UserError, match=r"best_model.safetensors cannot be read"):
        evaluate_run(fresh.path, 1)
    agents.save(agents.make(run.config, envs.make(run.config)), fresh.path / "best_model")
    with pytest.raises(UserError, match=r"best_model.safetensors holds other weights than the configuration describes"):
        evaluate_run(fresh.path, 1)  # other layers than the configuration says


class Endless(gym.Env[Any, Any]):
    """Never ends; each step is worth 2."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (1,))
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        return np.zeros(1, np.float32), 2.0, False, False, {}


def test_an_endless_episode_is_cut_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "endless_environment", sys.modules[__name__])
    monkeypatch.setattr(evaluate, "EPISODE_LIMIT", 25)
    config = RunConfig(
        env="endless_environment:Endless",
        algo="dqn",
        steps=60,
        hyperparameters=SMALL,
        eval_every=20,
        eval_episodes=2,
        checkpoint_every=20,
        device="cpu",
        runs=tmp_path,
    )
    run = train(config, progress=False)
    assert run.summary()["final_return_mean"] == 50.0
    assert capsys.readouterr().err.count("2 of 2 evaluation episodes were cut after 25 steps") == 1
    assert evaluate_run(run.path, 3) == Evaluation((50.0,) * 3, (25,) * 3, cut=3)
    assert "3 of 3 evaluation episodes were cut" in capsys.readouterr().err


class Tiny(Endless):
    """Pays billionths for one step, and shows nothing."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"]}

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def step(self, action: Any) -> Any:
        return np.zeros(1, np.float32), 3e-9, True, False, {}

    def render(self) -> Any:
        return None


def test_a_return_is_told_as_it_is_however_small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "tiny_environment", sys.modules[__name__])
    config = RunConfig(env="tiny_environment:Tiny", algo="dqn", hyperparameters=SMALL, device="cpu")
    env = envs.make_evaluation(config)
    assert play(agents.make(config, env), env, 2, seed=0).returns == (3e-9, 3e-9)
    with pytest.raises(EnvironmentFailed, match="Tiny.render returned NoneType, where rgb_array asks for a picture"):
        evaluate.evaluate(config, lambda env: agents.make(config, env), 1, video=tmp_path / "film.gif")


def test_small_returns_are_not_shown_as_nothing() -> None:
    assert [cli._shown(value) for value in (0.0, -3.14159, 12345.6, -6.2e-5)] == ["0.0", "-3.1", "12345.6", "-6.2e-05"]
