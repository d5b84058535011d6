"""Where an environment fails, the run goes on: nothing false is learnt, everything is counted, a resume is exact."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.buffers import ReplayBuffer, RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor

from dyna import agents, checkpoint, envs, restarts, runs, tables
from dyna.config import RunConfig
from dyna.errors import RunFailed, UserError
from dyna.evaluate import play
from dyna.guard import ActionRefused, EnvironmentFailed, Guarded
from dyna.restarts import ATTEMPTS, DROPPED, Failures, Restarting
from dyna.train import train
from dyna.tree import same
from tests.dyna.test_any_environment import make, small
from tests.dyna.test_resume import killed_at
from tests.exactness import end
from tests.probes import FailingEnv, ProbeEnv


class Scripted(ProbeEnv):
    """Fails at the steps, and at the resets, that it is told."""

    limit = 5

    def __init__(self, steps: set[int], resets: set[int] = frozenset()) -> None:  # type: ignore[assignment]
        super().__init__()
        self.bad_steps, self.bad_resets = steps, resets
        self.made = self.begun = 0

    def reset(self, **kwargs: Any) -> Any:
        self.begun += 1
        if self.begun in self.bad_resets:
            raise RuntimeError("no power")
        return super().reset(**kwargs)

    def outcome(self, action: float) -> tuple[float, bool]:
        self.made += 1
        if self.made in self.bad_steps:
            self.obs[:] = 7.0
            raise RuntimeError("the link is down")
        self.obs += 0.1
        return 1.0, False


ACTION = np.zeros(1, np.float32)


def test_a_step_that_fails_is_told_as_a_cut_at_the_last_observation_and_the_monitor_does_not_count_it() -> None:
    monitor = Monitor(Guarded(Scripted({3})))
    env = Restarting(monitor)
    env.reset(seed=0)
    seen = [env.step(ACTION)[0] for _ in range(2)]
    obs, reward, terminated, truncated, info = env.step(ACTION)
    np.testing.assert_array_equal(obs, seen[-1])
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert info == {DROPPED: "Scripted.step([0.]) raised RuntimeError: the link is down"}
    env.reset()
    while not truncated or DROPPED in info:
        *_, truncated, info = env.step(ACTION)
    assert monitor.get_episode_lengths() == [5]
    assert env.dropped == 1


def test_a_reset_that_fails_is_tried_again() -> None:
    env = Restarting(Monitor(Guarded(Scripted(set(), {1, 2, 3}))))
    env.reset(seed=0)
    assert env.dropped == 3
    assert env.last_failure == "Scripted.reset raised RuntimeError: no power"


def test_a_reset_whose_seed_fails_is_tried_again_with_another_that_is_always_the_same() -> None:
    seeds = []

    class Unlucky(ProbeEnv):
        def reset(self, *, seed: int | None = None, **kwargs: Any) -> Any:
            seeds.append(seed)
            if seed == 3:
                raise RuntimeError("no power")
            return super().reset(seed=seed, **kwargs)

    for _ in range(2):
        env = Restarting(Guarded(Unlucky()))
        env.reset(seed=3)
        assert env.dropped == 1
    assert seeds[0] == 3 and seeds[1] not in (3, None) and seeds[2:] == seeds[:2]


def test_what_fails_ten_times_in_a_row_is_given_up() -> None:
    with pytest.raises(EnvironmentFailed, match=f"no power, and failed {ATTEMPTS} times in a row"):
        Restarting(Monitor(Guarded(Scripted(set(), set(range(99)))))).reset()
    env = Restarting(Monitor(Guarded(Scripted(set(range(2, 99))))))
    env.reset()
    env.step(ACTION)
    with pytest.raises(EnvironmentFailed, match=f"link is down, and failed {ATTEMPTS} times in a row"):
        for _ in range(ATTEMPTS):
            env.step(ACTION)
            env.reset()


def test_ten_failures_with_steps_in_between_are_no_reason_to_give_up() -> None:
    env = Restarting(Monitor(Guarded(Scripted(set(range(2, 99, 2))))))
    env.reset()
    for _ in range(40):
        if env.step(ACTION)[3]:
            env.reset()
    assert env.dropped >= 20


def test_an_action_outside_its_space_is_no_failure_of_the_environment() -> None:
    env = Restarting(Monitor(Guarded(Scripted(set()))))
    env.reset()
    with pytest.raises(ActionRefused):
        env.step(ACTION + 3)


# --- training -----------------------------------------------------------------------------------------------------


def failing(algo: str, folder: Path, **more: Any) -> RunConfig:
    settings = {"env": "tests.probes:FailingEnv", "on_env_error": "restart", "eval_every": 0}
    return make(algo, folder, **settings | more)


def go(config: RunConfig, **more: Any) -> runs.Run:
    return train(config, progress=False, **more)


def rows(run: runs.Run) -> dict[str, np.ndarray]:
    """The replay of a run's last checkpoint, as SB3 has it: [steps, n_envs, ...]."""
    env = envs.make(run.config)
    model = agents.make(run.config, env)
    loaded = checkpoint.load(run.checkpoints)
    assert loaded is not None
    buffer: ReplayBuffer = model.replay_buffer  # type: ignore[attr-defined]
    replay = loaded.tree["training"]["replay"]
    if hasattr(buffer, "load_state_dict"):
        buffer.load_state_dict(replay)
        size = buffer.size()
    else:
        vars(buffer).update({name: value for name, value in replay.items() if isinstance(value, np.ndarray)})
        size = replay["buffer_size"] if replay["full"] else replay["pos"]
    order = ((replay["pos"] if replay["full"] else 0) + np.arange(size)) % buffer.buffer_size
    names = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
    return {name: np.asarray(getattr(buffer, name))[order] for name in names}


def check(stored: dict[str, np.ndarray]) -> None:
    """Raise AssertionError where a stored step is not what FailingEnv does, or runs on into another episode."""
    obs, next_obs, action = (stored[name][..., 0] for name in ("observations", "next_observations", "actions"))
    np.testing.assert_array_equal(next_obs, obs + action / 4)
    np.testing.assert_array_equal(stored["rewards"], next_obs)
    follows = obs[1:] == next_obs[:-1]
    np.testing.assert_array_equal(stored["dones"][:-1] > 0, ~follows)
    np.testing.assert_array_equal(stored["timeouts"], stored["dones"])  # nothing in it terminates


CASES: dict[str, dict[str, Any]] = {
    "sac": {"algo": "sac"},
    "sac, n-step": {"algo": "sac", "hyperparameters": {**small("sac"), "n_steps": 3}},
    "td3, one environment": {"algo": "td3", "n_envs": 1},
    "mbpo": {"algo": "mbpo"},
}


@pytest.mark.parametrize("case", CASES)
def test_only_true_steps_are_in_the_replay(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = go(failing(folder=tmp_path, steps=240, **CASES[case]))
    check(rows(run))
    dropped = run.summary()["dropped_episodes"]
    assert dropped >= 5 and run.summary()["status"] == "finished"
    assert capsys.readouterr().err.count("an episode was dropped, further ones are only counted: FailingEnv.step") == 1
    tables.reached(run)
    assert f"dropped episodes {dropped}" in " ".join(capsys.readouterr().out.replace("│", " ").split())
    ended = [line for path in run.path.glob("*monitor.csv") for line in path.read_text().splitlines()[2:]]
    assert all(line.split(",")[1] == str(FailingEnv.limit) for line in ended)  # lengths of whole episodes alone


def test_the_very_first_step_has_no_true_one_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def outcome(self: FailingEnv, action: float) -> tuple[float, bool]:
        self.begun = getattr(self, "begun", 0) + 1
        if self.begun <= 2:
            raise RuntimeError("still warming up")
        return step(self, action)

    step = FailingEnv.outcome
    monkeypatch.setattr(FailingEnv, "outcome", outcome)
    monkeypatch.setattr(FailingEnv, "share", 0.0)
    run = go(failing("sac", tmp_path))
    check(rows(run))
    assert len(rows(run)["dones"]) == 96 // 3 - 2


def test_the_law_of_true_steps_sees_a_failed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restarts, "forget", lambda buffer, step, i: None)
    with pytest.raises(AssertionError):
        check(rows(go(failing("sac", tmp_path))))


class Watched(BaseCallback):
    """Does what the trainer does about failures, and keeps what a rollout says of the steps that failed."""

    def __init__(self, noting: bool) -> None:
        super().__init__()
        self.noting = noting
        self.failed: list[tuple[int, int]] = []
        self.advantages: list[float] = []
        self.gains: list[float] = []

    def _init_callback(self) -> None:
        self.failures = Failures(self.model, envs.layers(self.training_env, Restarting))

    def _on_step(self) -> bool:
        if self.noting:
            self.failures.note(self.locals)
        failed = [i for i, info in enumerate(self.locals["infos"]) if DROPPED in info]
        self.failed += [(self.model.rollout_buffer.pos, i) for i in failed]  # type: ignore[attr-defined]
        return True

    def _on_rollout_end(self) -> None:
        buffer: RolloutBuffer = self.model.rollout_buffer  # type: ignore[attr-defined]
        self.advantages += [buffer.advantages[at] for at in self.failed]
        self.gains += [buffer.returns[at] - buffer.values[at] for at in self.failed]
        self.failed.clear()


@pytest.mark.parametrize("algo", ["ppo", "a2c", "trpo"])
@pytest.mark.parametrize("noting", [True, False])
def test_a_rollout_teaches_nothing_by_a_step_that_failed(algo: str, noting: bool, tmp_path: Path) -> None:
    config = failing(algo, tmp_path)
    model = agents.make(config, envs.make(config))
    watched = Watched(noting)
    model.learn(600, callback=watched)
    assert len(watched.advantages) >= 10
    nothing = np.allclose(watched.advantages, 0.0, atol=1e-6) and np.allclose(watched.gains, 0.0, atol=1e-6)
    assert nothing == noting


@pytest.mark.parametrize("algo", ["sac", "mbpo", "ppo", "ars"])
def test_a_run_that_drops_episodes_resumes_exactly(algo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = go(failing(algo, tmp_path / "whole", eval_every=48))
    config = failing(algo, tmp_path / "killed", eval_every=48)
    killed_at(60, lambda: go(config), monkeypatch)
    (run,) = runs.find_all(config.runs)
    assert same(end(go(config, resume=run.path)), end(whole))
    assert run.summary()["dropped_episodes"] == whole.summary()["dropped_episodes"] > 0


@pytest.mark.parametrize("n_envs", [1, 3])
def test_a_run_that_stopped_at_a_failure_goes_on_with_restarts_and_no_episode_runs_into_another(
    n_envs: int, tmp_path: Path
) -> None:
    config = failing("sac", tmp_path, n_envs=n_envs, on_env_error="stop")
    with pytest.raises(RunFailed, match="--on-env-error restart"):
        go(config)
    (run,) = runs.find_all(tmp_path)
    run = go(dataclasses.replace(config, on_env_error="restart"), resume=run.path)
    assert run.summary()["status"] == "finished"
    check(rows(run))


def test_an_evaluation_plays_further_episodes_for_those_that_fail(tmp_path: Path) -> None:
    config = failing("sac", tmp_path)
    env = envs.make_evaluation(config)
    played = play(agents.make(config, env), env, 3, seed=1)
    assert played.lengths == (FailingEnv.limit,) * 3
    assert played.dropped > 0
    assert f"failed in {played.dropped} further evaluation episodes, which do not count" in played.advice


def test_an_evaluation_of_what_fails_in_every_episode_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FailingEnv, "limit", 10**9)
    config = failing("sac", tmp_path)
    env = envs.make_evaluation(config)
    with pytest.raises(EnvironmentFailed, match=f"as in {3 * ATTEMPTS - 1} episodes before"):
        play(agents.make(config, env), env, 3, seed=1)


def test_a_buffer_that_shares_observations_is_refused(tmp_path: Path) -> None:
    shared = {"optimize_memory_usage": True, "replay_buffer_kwargs": {"handle_timeout_termination": False}}
    settings = {**small("sac"), **shared}
    with pytest.raises(UserError, match="on_env_error=restart takes failed steps out of the replay buffer"):
        go(failing("sac", tmp_path, hyperparameters=settings))
