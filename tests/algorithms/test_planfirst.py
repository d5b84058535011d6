"""Laws of PlanFirst; what it reaches, and whether its thesis holds, is told in docs/planfirst.md."""

import itertools
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv

from dyna import cli, forgetting
from dyna.algorithms.dhmbpo import DHMBPO
from dyna.algorithms.pets import PETS
from dyna.algorithms.planfirst import PlanFirst
from dyna.allowances import Gated
from dyna.bounded import BoundedCritic
from dyna.budgets import Budget
from dyna.config import RunConfig
from dyna.errors import UserError
from dyna.runs import Run
from dyna.train import train
from dyna.world_model import EnsembleSettings
from tests.probes import ProbeEnv, TerminationEnv

WORLD = EnsembleSettings(members=3, elites=2, width=16, depth=1, max_updates=50, target="delta")
TINY: dict[str, Any] = {
    "seed": 4,
    "device": "cpu",
    "learning_starts": 60,
    "batch_size": 32,
    "model_every": 50,
    "model_growth": 0.0,
    "distribution_horizon": 4,
    "training_horizon": 2,
    "horizon": 3,
    "candidates": 30,
    "policy_plans": 4,
    "elites": 6,
    "iterations": 2,
    "policy_kwargs": {"net_arch": [16, 16]},
    "world_model": WORLD,
}
OBS = np.array([[0.1, 0.9, -0.5], [-1.0, 0.0, 2.0]], np.float32)


class PushEnv(ProbeEnv):
    """A point that half of the action moves; the reward is how near to 0 it is."""

    def first_obs(self) -> np.ndarray:
        return self.np_random.uniform(-1.0, 1.0, 1).astype(np.float32)

    def outcome(self, action: float) -> tuple[float, bool]:
        self.obs = np.clip(self.obs + np.float32(action) / 2, -1.0, 1.0).astype(np.float32)
        return -abs(float(self.obs[0])), False


class FiveStepsEnv(ProbeEnv):
    """No state is seen twice; the fifth step ends the task."""

    def first_obs(self) -> np.ndarray:
        return self.obs + np.float32(1e-3)

    def outcome(self, action: float) -> tuple[float, bool]:
        self.obs = self.first_obs()
        return float(self.steps), self.steps == 5


@pytest.fixture
def untaught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Critics and policy stay as they were made."""
    monkeypatch.setattr(DHMBPO, "teach", lambda *args: None)


@pytest.fixture(scope="module")
def planner() -> PlanFirst:
    return PlanFirst(env=gym.make("Pendulum-v1"), **TINY).learn(230)


@pytest.fixture(scope="module")
def pusher() -> PlanFirst:
    world = EnsembleSettings(members=3, elites=2, width=32, depth=1, max_updates=300)
    return PlanFirst(env=PushEnv(), **{**TINY, "world_model": world, "candidates": 104}).learn(200)


def test_every_step_after_the_first_fit_is_planned(planner: PlanFirst) -> None:
    assert planner.updates["plans"] == 230 - 61
    assert planner.updates["critic"] == planner.updates["actor"] == 230


def test_every_window_has_an_outcome_but_those_that_a_fit_cut(planner: PlanFirst) -> None:
    # windows of 3 steps from step 62 on; fits after 111, 161 and 211, an episode's end at 200
    assert planner.configurator.detectors.outcomes == 16 + 16 + 13 + 3 + 6


def test_windows_come_to_their_end_however_many_environments_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = PlanFirst(env=make_vec_env(PushEnv, 6), **{**TINY, "model_every": 12})  # a fit every second step of each
    judge, lengths = agent.configurator.judge, []
    monkeypatch.setattr(agent.configurator, "judge", lambda *told: (lengths.append(told[2].length), judge(*told))[1])
    agent.learn(200)
    assert agent.world_model.version > 2 and lengths.count(agent.horizon) > 6


def test_what_was_gained_is_measured_from_the_weights_that_were_loaded(planner: PlanFirst, tmp_path: Path) -> None:
    planner.save(tmp_path / "agent.zip")
    loaded = PlanFirst.load(tmp_path / "agent.zip", device="cpu")
    gain = loaded.improvement.look(loaded.plan_model(), torch.as_tensor(OBS), loaded.gamma)
    assert gain.mean == 0.0 and not gain.matters


def test_thresholds_are_frozen_at_every_fit_however_these_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    agent, events = PlanFirst(env=gym.make("Pendulum-v1"), **{**TINY, "model_growth": 0.3}), []
    fit, freeze = agent.fit_world_model, agent.freeze
    monkeypatch.setattr(agent, "fit_world_model", lambda: (events.append("fit"), fit()))
    monkeypatch.setattr(agent, "freeze", lambda: (events.append("freeze"), freeze()))
    agent.learn(120)
    assert events == ["fit", "freeze"] * 3  # at 61, 80 and 104 steps


def test_without_noise_mode_1_is_the_average_of_the_policy() -> None:
    agent = PlanFirst(env=gym.make("Pendulum-v1"), **{**TINY, "acting": "policy"}).learn(80)
    obs = torch.as_tensor(OBS)
    response = agent.respond(obs, torch.zeros(2, agent.horizon, 1), True, agent.rng)
    assert response is not None
    assert torch.equal(response[0], agent.most_likely(agent.policy.averaged, obs))
    assert not torch.equal(response[0], agent.react(obs))


@pytest.mark.usefixtures("untaught")
@pytest.mark.parametrize("recentre", [False, True])
def test_what_counts_as_a_surprise_is_measured_with_the_critics_that_are_judged(recentre: bool) -> None:
    agent = PlanFirst(env=gym.make("Pendulum-v1"), recentre=recentre, **TINY).learn(61)
    assert agent.world_model.version == 1
    frozen = float(agent.thresholds.tau), float(agent.thresholds.bias)
    agent.freeze()
    assert frozen == (float(agent.thresholds.tau), float(agent.thresholds.bias))


def test_counting_steps_anew_forgets_when_the_last_alarm_was() -> None:
    agent = PlanFirst(env=gym.make("Pendulum-v1"), **TINY).learn(70)
    agent.alarmed_at = 70
    agent.learn(1)
    assert agent.alarmed_at < 0


def test_plans_aim_at_the_reward_that_was_learned_and_at_another_one_without_learning(pusher: PlanFirst) -> None:
    obs = np.array([[0.4], [-0.3]], np.float32)
    near, _ = pusher.predict(obs, deterministic=True)
    np.testing.assert_allclose(obs + near / 2, 0.0, atol=0.15)
    assert pusher.terminal_value
    try:
        pusher.world_model.reward_fn = lambda obs, action, next_obs: -(next_obs[:, 0] - 0.5).abs()
        pusher.terminal_value = False  # the critics know the old reward alone
        other, _ = pusher.predict(obs, deterministic=True)
    finally:
        pusher.world_model.reward_fn, pusher.terminal_value = None, True
    np.testing.assert_allclose(np.clip(obs + other / 2, -1, 1), [[0.5], [0.2]], atol=0.15)


def test_playing_changes_nothing_of_the_training(planner: PlanFirst) -> None:
    before = planner.rng.get_state(), planner.warm_start.clone(), torch.random.get_rng_state()
    first, second = (planner.predict(OBS, deterministic=True)[0] for _ in range(2))
    assert np.array_equal(first, second)
    assert torch.equal(planner.rng.get_state(), before[0]) and torch.equal(planner.warm_start, before[1])
    assert torch.equal(torch.random.get_rng_state(), before[2])
    assert not np.array_equal(planner.predict(OBS)[0], planner.predict(OBS)[0])


def test_one_observation_gives_one_action_and_the_start_of_the_next_plan(planner: PlanFirst) -> None:
    action, state = planner.predict(OBS[0], deterministic=True)
    assert action.shape == (1,) and planner.action_space.contains(action)
    assert state is not None and state[0].shape == (1, 3, 1) and not state[0][0, -1].any()
    again, _ = planner.predict(OBS[0], state, np.array([True]), deterministic=True)
    assert np.array_equal(action, again)  # an episode's start forgets the plan before it
    assert not np.array_equal(action, planner.predict(OBS[0], state, np.array([False]), deterministic=True)[0])


def test_before_the_first_fit_the_policy_acts() -> None:
    agent = PlanFirst(env=gym.make("Pendulum-v1"), **TINY)
    action, state = agent.predict(OBS, deterministic=True)
    np.testing.assert_allclose(action, 2 * agent.react(torch.as_tensor(OBS)).numpy(), rtol=1e-5)
    assert state is None


def test_without_critics_a_plan_sees_its_own_steps_alone(planner: PlanFirst) -> None:
    obs, warm = torch.as_tensor(OBS), planner.policy.blank.expand(2, -1, -1)

    def score() -> torch.Tensor:
        return planner.plan(obs, warm, torch.Generator().manual_seed(0)).elite_scores[:, 0]

    with_critics, planner.terminal_value = score(), False
    try:
        without = score()
    finally:
        planner.terminal_value = True
    assert (without > -17 * 3).all() and not torch.allclose(with_critics, without)


@pytest.mark.usefixtures("untaught")
@pytest.mark.parametrize("terminal_value", [True, False])
def test_a_plan_that_is_carried_out_was_promised_what_the_model_says_of_its_actions(terminal_value: bool) -> None:
    agent = PlanFirst(env=gym.make("Pendulum-v1"), **{**TINY, "seed": 2, "follow": 3, "terminal_value": terminal_value})
    verdicts: list[Any] = []
    agent.correct = verdicts.append  # type: ignore[method-assign]
    agent.draw = lambda plan, noise: plan.actions[:, 0]  # type: ignore[method-assign]
    agent._distrust = lambda: None  # type: ignore[method-assign]
    agent.learn(100)
    assert len(verdicts) > 10
    for account in (verdict.account for verdict in verdicts):
        torch.testing.assert_close(account.replan, torch.zeros(1), atol=1e-3, rtol=0.0)
        torch.testing.assert_close(account.broken, account.model, atol=1e-3, rtol=0.0)
        assert account.model.abs() > 1e-2


def test_a_new_episode_starts_without_a_plan_and_without_a_window() -> None:
    agent = PlanFirst(env=DummyVecEnv([TerminationEnv, PushEnv]), **{**TINY, "horizon": 4})
    done = []

    store = agent._store_transition

    def watch(*args: Any) -> None:
        store(*args)
        dones = torch.as_tensor(args[4])
        if agent.world_model.version and dones.any():
            done.append(True)
            assert not agent.warm_start[dones].any()
            assert (agent.configurator.windows.age[dones] == -1).all()

    agent._store_transition = watch  # type: ignore[method-assign]
    agent.learn(200)
    assert len(done) > 3 and agent.configurator.detectors.outcomes > 20


@pytest.mark.parametrize("agent", [PlanFirst, PETS])
def test_actions_may_have_any_shape(agent: type[PlanFirst | PETS]) -> None:
    class SquareEnv(ProbeEnv):
        action_space = spaces.Box(-2.0, 2.0, (2, 2))

        def step(self, action: Any) -> Any:
            assert self.action_space.contains(action)
            return super().step(action.reshape(-1))

        def outcome(self, action: float) -> tuple[float, bool]:
            return action, False

    settings = (
        TINY if agent is PlanFirst else {"learning_starts": 60, "candidates": 12, "elites": 3, "world_model": WORLD}
    )
    made = agent(env=SquareEnv(), **settings).learn(70)
    assert made.updates["plans"] == 70 - 61 and made.replay_buffer.all_transitions().action.shape == (70, 4)
    assert made.predict(np.zeros(1, np.float32))[0].shape == (2, 2)
    assert made.predict(np.zeros((3, 1), np.float32), deterministic=True)[0].shape == (3, 2, 2)


def test_two_runs_with_one_seed_are_the_same(planner: PlanFirst) -> None:
    again = PlanFirst(env=gym.make("Pendulum-v1"), **TINY).learn(230)
    for name, value in again.policy.state_dict().items():
        assert torch.equal(value, planner.policy.state_dict()[name]), name
    assert again.configurator.metrics() == planner.configurator.metrics()


def test_it_plans_the_same_when_it_was_saved(planner: PlanFirst, tmp_path: Path) -> None:
    planner.save(tmp_path / "agent")
    loaded = PlanFirst.load(tmp_path / "agent", device="cpu")
    assert np.array_equal(loaded.predict(OBS, deterministic=True)[0], planner.predict(OBS, deterministic=True)[0])
    assert torch.equal(loaded.thresholds.heads, planner.thresholds.heads)
    loaded.set_env(gym.make("Pendulum-v1"))
    loaded.learn(10, reset_num_timesteps=False)
    assert loaded.updates["plans"] == loaded.decided["planned"] == planner.updates["plans"] + 10


def test_what_is_logged_says_what_was_promised_and_what_came(planner: PlanFirst) -> None:
    told = planner.logger.name_to_value
    for name in ("planned", "realised", "broken", "policy_gap", "error_model", "error_critic", "error_replan", "noise"):
        assert np.isfinite(told[f"planfirst/{name}"]), name
    assert told["planfirst/broken"] == pytest.approx(
        told["planfirst/realised"] - told["planfirst/planned"], rel=1e-3, abs=1e-3
    )
    gradients = sum(count for name, count in planner.updates.items() if name != "plans")
    assert told["planfirst/rl_share"] == 460 / gradients


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"follow": 0}, "follow must be at least 1, got 0"),
        ({"follow": 4}, r"follow must be at most horizon \(3\), got 4"),
        ({"opening": -5}, "opening must be at least 0, got -5"),
        ({"update_ratio": -1.0}, r"update_ratio must be in \[0, 1\], got -1.0"),
        ({"pessimism": float("nan")}, "pessimism must be a finite number, got nan"),
        ({"learner": "gatd"}, "learner must be always, constant, random or gated, got 'gatd'"),
        ({"acting": "confidnt"}, "acting must be plan, audited, confident or policy, got 'confidnt'"),
        ({"temperature": 0.0}, r"temperature must be above 0 and at most 1e\+06, got 0.0"),
        ({"temperature": 1e40}, r"temperature must be above 0 and at most 1e\+06, got 1e\+40"),
        ({"acting": "audited", "audit": 0.0}, "audit must be above 0 where acting=audited, .*, got 0"),
        ({"horizon": 75, "buffer_size": 70}, "buffer_size must be at least the horizon's 75 steps of each .*, got 70"),
        ({"audit": 1.5}, r"audit must be in \[0, 1\], got 1.5"),
        ({"realised_share": 1.0}, "realised_share must be a share below 1, got 1.0"),
        ({"horizon": 0}, "horizon must be a whole number of at least 1, got 0"),
        ({"horizon": [1, 2, 0, 9]}, r"horizon must be a whole number of at least 1, got \[1, 2, 0, 9\]"),
        ({"horizon": 2.5}, "horizon must be a whole number of at least 1, got 2.5"),
        ({"truncate": "reject_all"}, "PlanFirst learns nothing without its world model, got .* truncate=RejectAll"),
        ({"candidates": 4}, r"candidates must be more than policy_plans \(4\), got 4"),
        ({"elites": 27}, "elites must be between 1 and 26, the candidates that are no policy_plans, got 27"),
        ({"policy": SAC.policy_aliases["MlpPolicy"]}, "policy must be MlpPolicy or a PlanFirstPolicy, got SACPolicy"),
    ],
)
def test_settings_without_a_plan_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        PlanFirst(env=gym.make("Pendulum-v1"), **{**TINY, **wrong})


def test_a_policy_alone_makes_no_plan() -> None:
    agent = PlanFirst(env=gym.make("Pendulum-v1"), **{**TINY, "acting": "policy"}).learn(120)
    assert agent.updates["plans"] == 0 and agent.decided["reacted"] == 120 - 61
    action, _ = agent.predict(OBS, deterministic=True)
    np.testing.assert_allclose(action, 2 * agent.reply(torch.as_tensor(OBS)).numpy(), rtol=1e-5)


@pytest.fixture
def audited(monkeypatch: pytest.MonkeyPatch, untaught: None) -> PlanFirst:
    """Turns are short, and every second is audited."""
    for name, value in {"STEPS": 6, "FEWEST": 2}.items():
        monkeypatch.setattr(f"dyna.audits.{name}", value)
    agent = PlanFirst(
        env=make_vec_env(lambda: gym.make("Pendulum-v1"), 2),
        **{**TINY, "acting": "audited", "audit": 0.5},
    )
    return agent


@pytest.mark.parametrize("better", [True, False])
def test_what_does_better_in_audits_is_what_plays(
    better: bool, audited: PlanFirst, monkeypatch: pytest.MonkeyPatch
) -> None:
    note, obs = audited.audits.note, torch.as_tensor(OBS)

    def told(envs: torch.Tensor, beyond: torch.Tensor) -> None:  # plans bring 10 more than the policy, or less
        note(envs, 10.0 * (audited.audits.planned[envs] == better).float())

    monkeypatch.setattr(audited.audits, "note", told)
    assert audited.thresholds.lead.isnan() and not audited.is_confident(obs).any()  # plans by default
    audited.learn(600)
    assert audited.thresholds.lead == float(better)
    assert torch.equal(audited.is_confident(obs), torch.full((2,), not better))
    counts, steps = audited.decided, sum(audited.decided.values())
    assert counts["followed"] == 0 and counts["reacted"] == pytest.approx(steps / 4, rel=0.5)  # half of the audits
    response = audited.respond(obs, torch.zeros(2, audited.horizon, 1), True, torch.Generator().manual_seed(0))
    assert response is not None
    assert torch.equal(response[0], audited.reply(obs)) != better


def test_plans_that_are_played_ask_the_averages_of_the_critics(
    audited: PlanFirst, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And those that explore ask the critics of the moment."""
    audited.learn(62)
    obs, asked, critics = torch.as_tensor(OBS), [], {id(audited.critic): "moment", id(audited.critic_target): "average"}
    values = BoundedCritic.values

    def noted(critic: BoundedCritic, *of: torch.Tensor) -> torch.Tensor:
        asked.append(critics[id(critic)])
        return values(critic, *of)

    monkeypatch.setattr(BoundedCritic, "values", noted)
    monkeypatch.setattr(audited, "_promise", lambda *_: None)
    audited.audits.planned[:] = True
    audited.predict(OBS)
    assert set(asked) == {"average"}
    for noisy in (True, False):
        audited.audits.noisy[:] = noisy
        asked.clear()
        audited.configurator.windows.age[:] = 0  # turns go on
        audited.act(obs)
        assert set(asked) == {"moment" if noisy else "average"}
    audited.audits.noisy[0] = True
    audited.act(obs)
    assert set(asked) == {"moment", "average"}


def test_in_audits_an_agent_acts_as_it_plays(audited: PlanFirst) -> None:
    audited.learn(80)
    obs = torch.as_tensor(OBS)
    audited.audits.left[:], audited.trusted[:] = 10, 0
    for planned, noisy in itertools.product((True, False), repeat=2):
        audited.audits.planned[:], audited.audits.noisy[:] = planned, noisy
        audited.warm_start[:] = 0.0
        plan = audited.plan(obs, audited.warm_start, same_draws(audited), in_play=True)
        played = plan.actions[:, 0] if planned else audited.reply(obs)
        assert torch.equal(audited.act(obs), played) != noisy


@pytest.mark.usefixtures("untaught")
def test_every_step_of_an_audit_is_in_a_window_even_where_plans_are_followed() -> None:
    how = {"acting": "audited", "audit": 1.0, "horizon": 5, "follow": 4, "model_every": 10**6}
    agent = PlanFirst(env=gym.make("Pendulum-v1"), **{**TINY, **how})
    agent.learn(61)
    for _ in range(130):
        agent.learn(1, reset_num_timesteps=False)
        assert agent.configurator.windows.age[0] == ((agent.num_timesteps - 61) % 5 or -1)
    assert agent.decided["followed"] > 0 and agent.decided["reacted"] > 0


def test_a_run_says_whether_plans_or_the_policy_plays(audited: PlanFirst) -> None:
    assert "plays" not in PlanFirst(env=gym.make("Pendulum-v1"), **TINY).learn(62).ledger()["in_words"]
    words = audited.learn(62).ledger()["in_words"]
    assert words.endswith(", plays by plans, until 2 audits of plans and of the policy are there")
    assert "lead" not in audited.totals()
    for planned, ring in enumerate(audited.audits.known):
        ring.add(outcome=torch.tensor([[-float(planned), 1.0]] * 2))
    audited.thresholds.lead.fill_(0.0)
    assert audited.ledger()["in_words"].endswith(", plays by the policy, by 2 audits of plans and 2 of the policy")
    assert audited.totals()["lead"] == 0.0


def test_who_plays_better_is_not_forgotten_by_a_loaded_agent(tmp_path: Path) -> None:
    how = {"acting": "audited", "audit": 1.0}
    agent = PlanFirst(env=gym.make("Pendulum-v1"), **{**TINY, **how}).learn(62)
    agent.thresholds.lead.fill_(0.25)
    agent.save(tmp_path / "agent.zip")
    loaded = PlanFirst.load(tmp_path / "agent.zip", env=gym.make("Pendulum-v1"))
    loaded.learn(120, reset_num_timesteps=False)  # an audit ends, of which there are too few
    assert sum(ring.size for ring in loaded.audits.known) == 1
    assert loaded.totals()["lead"] == 0.25
    assert loaded.ledger()["in_words"].endswith(", plays by the policy, by audits before it was loaded")


def same_draws(agent: PlanFirst) -> torch.Generator:
    """A generator that is where the agent's will be when it plans."""
    rng = torch.Generator().manual_seed(0)
    rng.set_state(agent.rng.get_state())
    torch.randn(2, 1, generator=rng)
    return rng


def test_what_came_of_audits_is_known_when_learning_goes_on(audited: PlanFirst) -> None:
    audited.learn(300)
    known = [ring.size for ring in audited.audits.known]
    assert min(known) >= 2
    audited.learn(2)
    assert [ring.size for ring in audited.audits.known] == known


def sure(agent: PlanFirst) -> PlanFirst:
    """An agent whose thresholds say that everything is as foreseen."""
    for name in ("heads", "wide", "disagreement", "tau"):
        getattr(agent.thresholds, name).fill_(torch.inf)
    agent.thresholds.gap.zero_()
    return agent


@pytest.mark.parametrize("unsure", ["disagreement", "tau", "gap"])
def test_the_policy_acts_alone_only_where_all_agree(unsure: str) -> None:
    agent = sure(PlanFirst(env=gym.make("Pendulum-v1"), **{**TINY, "acting": "confident"}))
    obs = torch.as_tensor(OBS)
    assert agent.is_confident(obs).all()
    getattr(agent.thresholds, unsure).fill_(torch.inf if unsure == "gap" else -torch.inf)
    if unsure == "gap":
        agent.thresholds.tau.fill_(1.0)
    assert not agent.is_confident(obs).any()


def test_after_an_alarm_every_environment_plans_for_a_horizon() -> None:
    env = make_vec_env(lambda: gym.make("Pendulum-v1"), 3)
    agent = sure(PlanFirst(env=env, **{**TINY, "acting": "confident", "audit": 0.0}))
    obs, agent.alarmed_at = torch.as_tensor(OBS), 99
    for agent.num_timesteps in range(99, 120, 3):
        assert agent._left_to_policy(obs).all() == (agent.num_timesteps > 99 + 3 * agent.horizon)


def test_some_of_what_the_policy_could_do_alone_is_planned_all_the_same() -> None:
    agent = PlanFirst(
        env=gym.make("Pendulum-v1"), **{**TINY, "acting": "confident", "audit": 0.3, "model_every": 10**6}
    )
    agent.learn(62)
    before = dict(agent.decided)
    agent.configurator.freeze = lambda *args: None  # type: ignore[method-assign]
    agent.configurator.judge = lambda *args: None  # type: ignore[assignment,method-assign,return-value]
    agent.correct = lambda verdict: None  # type: ignore[method-assign]
    agent.alarmed_at = -10
    for _ in range(200):
        sure(agent).act(torch.as_tensor(OBS[:1]))
    planned, reacted = (agent.decided[name] - before[name] for name in ("planned", "reacted"))
    assert planned + reacted == 200 and 30 < planned < 90


def test_a_plan_is_followed_while_it_leads_where_it_should() -> None:
    agent = PlanFirst(env=gym.make("Pendulum-v1"), **{**TINY, "follow": 3, "model_every": 10**6}).learn(80)
    obs = torch.as_tensor(OBS[:1])
    agent.trusted[:] = 0
    before = dict(agent.decided)
    sure(agent).act(obs)
    (warm,) = agent.warm_start
    followed = [agent.act(obs)[0], agent.act(obs)[0]]
    assert torch.equal(torch.stack(followed), warm[:2])
    agent.act(obs)  # its three steps are over
    counts = {name: agent.decided[name] - before[name] for name in before}
    assert counts == {"planned": 2, "followed": 2, "reacted": 0}
    agent.thresholds.heads.fill_(-torch.inf)
    agent._distrust()
    assert not agent.trusted.any()


def gated(**how: Any) -> PlanFirst:
    return PlanFirst(env=gym.make("Pendulum-v1"), **{**TINY, "learner": "gated", "opening": 100, **how})


def shut(agent: PlanFirst) -> None:
    """As after many looks that found no gain."""
    agent.allowance.gate.alarmed, agent.allowance.gate.share = set(), 0.0


def test_a_gated_learner_rests_until_the_critics_alarm() -> None:
    agent = gated().learn(100)
    spent = agent.updates["critic"]
    agent.correct = lambda verdict: None  # type: ignore[method-assign]
    shut(agent)
    agent.learn(40, reset_num_timesteps=False)
    assert agent.updates["critic"] - spent <= 3 and agent.always_on == 140
    agent.allowance.gate.alarm("critic")
    agent.learn(5, reset_num_timesteps=False)
    assert agent.updates["critic"] - spent >= 10


@pytest.mark.parametrize(("n_envs", "train_freq"), [(2, 1), (2, 5), (1, 10)])
def test_steps_are_counted_and_not_how_often_it_is_asked_to_learn(n_envs: int, train_freq: int) -> None:
    env = make_vec_env("Pendulum-v1", n_envs, seed=1)
    agent = PlanFirst(env=env, **{**TINY, "learner": "gated", "opening": 0, "train_freq": train_freq}).learn(80)
    agent.correct = lambda verdict: None  # type: ignore[method-assign]
    gate = agent.allowance
    assert isinstance(gate, Gated)
    shut(agent)
    gate.saved = agent.unseen = 0.0
    agent.learn(40, reset_num_timesteps=False)
    assert gate.saved == pytest.approx(40 * (1.0 - agent.budget.floor))
    assert agent.unseen == pytest.approx(40 * agent.budget.floor, abs=n_envs * train_freq)
    gate.gate.share = 1.0
    agent.learn(20, reset_num_timesteps=False)
    assert agent.unseen == pytest.approx(20 + 40 * agent.budget.floor, abs=n_envs * train_freq)


def test_a_gate_looks_at_what_plays_once_that_has_become_another(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = PlanFirst(env=gym.make("Pendulum-v1"), **{**TINY, "learner": "gated", "opening": 0}).learn(80)
    assert agent.improvement.network is agent.policy.player is agent.policy.averaged
    looks = []
    monkeypatch.setattr(agent, "_look", lambda: looks.append(agent._n_updates))
    agent._n_updates = agent.looked_at = 9_000  # the average is of about a thousand
    agent.unseen, agent.allowance.gate.share = 1e6, 1.0
    agent.learn(20, reset_num_timesteps=False)
    assert not looks and agent.unseen > 1e6, "the steps alone do not count"
    agent._n_updates += 1_200
    agent.learn(1, reset_num_timesteps=False)
    assert len(looks) == 1


@pytest.mark.parametrize("horizon", [0, 4])
def test_updates_begin_where_outcomes_were_surprising_while_an_alarm_is_answered(horizon: int) -> None:
    agent = gated(distribution_horizon=horizon).learn(130)
    surprising = {tuple(row) for row in agent.configurator.outcomes.all()["obs"].tolist()}

    def share(starts: torch.Tensor) -> float:
        return sum(tuple(row) in surprising for row in starts.tolist()) / len(starts)

    chance = len(surprising) / 130
    for starts in (agent._starts, partial(agent._starts, real=True), lambda rows: agent._segments(rows, 3).start):
        agent.allowance.gate.alarm("critic")
        assert 0.5 <= share(starts(400)) < 0.5 + 0.5 * chance + 0.1
        shut(agent)
        assert share(starts(400)) < chance + 0.1


def test_critics_learn_from_what_really_came_of_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = PlanFirst(env=FiveStepsEnv(), realised_share=0.25, ent_coef=0.0, **TINY).learn(130)
    data, target, gamma = agent.replay_buffer.all_transitions(), agent.critic_target, agent.gamma
    rows = {float(obs): i for i, obs in enumerate(data.obs)}
    brought = {}  # by each window's first state: what it earned, and the weight of what followed
    for obs in (float(obs) for obs in agent.configurator.outcomes.all()["obs"]):
        steps = range(rows[obs], min(rows[obs] + TINY["horizon"], len(rows)))
        ends = [i for i in steps if data.terminated[i]]
        steps = range(rows[obs], ends[0] + 1) if ends else steps
        earned = sum(gamma**k * float(data.reward[i]) for k, i in enumerate(steps))
        brought[obs] = earned, gamma ** len(steps) * (not ends)
    evaluate, imagined = DHMBPO._evaluate, []
    monkeypatch.setattr(DHMBPO, "_evaluate", lambda agent, rows: imagined.append(evaluate(agent, rows)) or imagined[-1])
    lessons = agent._evaluate(30)
    states = [float(obs) for obs in lessons.obs]
    real = range(len(states) - round(len(states) / 4), len(states))
    assert all(states[i] in brought for i in real)
    assert len(imagined) == 1 and torch.equal(lessons.obs[: real[0]], imagined[0].obs), "all before them is imagined"
    for i in real:
        assert torch.equal(lessons.action[i], data.action[rows[states[i]]])
        earned, weight = brought[states[i]]
        low, high = (weight * float(bound) for bound in (target.low, target.high))
        assert low - 1e-3 <= float(lessons.value[i]) - earned <= high + 1e-3
    assert {brought[states[i]][1] > 0 for i in real} == {True, False}


def test_an_alarm_for_the_model_brings_a_refit_and_no_updates_of_the_critics() -> None:
    agent = gated(refit_on_alarm=True, model_every=10**6).learn(120)
    version, critic = agent.world_model.version, agent.updates["critic"]
    agent.correct = lambda verdict: None  # type: ignore[method-assign]
    shut(agent)
    agent.changes.suspected = {"dynamics": 60}
    agent.learn(3, reset_num_timesteps=False)
    assert agent.world_model.version == version + 1 and agent.refits_on_alarm >= 1
    assert agent.updates["critic"] - critic <= 1 and not agent.changes.proven, "nothing has changed"


def test_a_head_learns_from_what_came_since_the_world_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = gated(refit_on_alarm=True, model_every=10**6).learn(120)
    agent.correct = lambda verdict: None  # type: ignore[method-assign]
    monkeypatch.setattr(forgetting, "outdated", lambda *what, **how: ([False, True, True], 7))
    agent.changes.suspected = {"dynamics": 60, "reward": 50}
    agent.thresholds.lead.fill_(0.2)
    agent.audits.known[0].added = 5
    agent.audits.outcome[:] = 1.0
    agent.learn(1, reset_num_timesteps=False)
    assert agent.thresholds.lead.isnan() and agent.audits.known[0].size == 0 and (agent.audits.outcome[:, 1] <= 1).all()
    assert agent.changes.proven == {"reward": 50} and not agent.changes.suspected and agent.ledger()["forgot"] == 1
    lessons = agent.lessons(121)
    assert lessons is not None and lessons.sum(0).tolist() == [121.0, 71.0, 121.0] and lessons[50:].all()
    version = agent.world_model.version
    agent.learn(34, reset_num_timesteps=False)  # up to half as many steps again since the change
    assert agent.world_model.version == version
    agent.learn(2, reset_num_timesteps=False)
    assert agent.world_model.version == version + 1
    agent.learn(1)  # counts anew
    assert agent.changes.proven == {"reward": 50 - 157}
    assert (lessons := agent.lessons(158)) is not None and lessons.sum(0).tolist() == [158.0, 108.0, 158.0]


def test_counting_steps_anew_saves_no_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = gated(opening=0, budget=Budget(floor=0.0)).learn(80)
    monkeypatch.setattr(agent, "correct", lambda verdict: None)
    shut(agent)
    assert isinstance(agent.allowance, Gated)
    agent.allowance.saved, before = 0.0, agent.always_on
    agent.learn(65)
    assert 0 < agent.allowance.saved <= agent.always_on - before == 5


def test_a_suspicion_outlives_a_refit_that_comes_too_early_to_judge_it() -> None:
    agent = gated(refit_on_alarm=True, model_every=10**6).learn(120)
    agent.correct = lambda verdict: None  # type: ignore[method-assign]
    agent.changes.suspected, version = {"dynamics": 110}, agent.world_model.version
    agent.model_every, agent.refits_on_alarm = 1, 0
    agent.learn(2 * agent.horizon, reset_num_timesteps=False)  # windows come to their end between two fits
    assert agent.world_model.version == version + 1
    assert agent.changes.suspected == {"dynamics": 110} and agent.refits_on_alarm == 0
    agent.model_every = 10**6
    agent.learn(50, reset_num_timesteps=False)
    assert not agent.changes.suspected and agent.refits_on_alarm == 1


def test_an_alarm_for_a_head_dates_the_change() -> None:
    agent = gated(refit_on_alarm=True, model_every=10**6).learn(120)
    agent.changes.suspected.clear()  # of what the run itself may have been surprised by
    outcomes, verdict = agent.configurator.detectors, SimpleNamespace(alarms=["reward", "critic"])
    outcomes.ages[:] = torch.tensor([3, 9, 0, 1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dyna.correction.metrics_of", lambda verdict: {})
        agent.correct(verdict)  # type: ignore[arg-type]
    assert agent.changes.suspected == {"reward": 120 - 9 * agent.horizon}
    assert agent.allowance.gate.alarmed >= {"reward", "critic"}


def test_distilling_draws_the_policy_to_the_plans() -> None:
    agent = PlanFirst(env=gym.make("Pendulum-v1"), learning_rate=3e-3, **TINY).learn(62)
    obs = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    agent.plans.add(obs=obs, mean=torch.full((500, 1), 0.6), std=torch.full((500, 1), 0.1))
    for _ in range(200):
        agent._distil()
    assert agent.updates["distil"] == 200
    assert (agent.react(obs) - 0.6).abs().mean() < 0.1


def test_critics_are_given_the_constant_that_outcomes_say_they_lack() -> None:
    agent = PlanFirst(env=gym.make("Pendulum-v1"), recentre=True, **TINY).learn(100)
    obs = torch.as_tensor(OBS)
    values, targets = agent.value(obs), agent.critic_target.values(obs, agent.react(obs))
    lacking = agent.configurator.offset(100)
    agent._recentre()
    assert abs(lacking) > 1 and abs(agent.configurator.offset(100)) < 1e-3 * abs(lacking)
    torch.testing.assert_close(agent.value(obs), values + lacking)
    torch.testing.assert_close(agent.critic_target.values(obs, agent.react(obs)), targets + lacking)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run."""
    settings = {"env": "Pendulum-v1", "algo": "planfirst", "steps": 130, "eval_every": 130, "eval_episodes": 1}
    hyperparameters = {name: value for name, value in TINY.items() if name not in ("seed", "device", "world_model")}
    world = {"members": 3, "elites": 2, "width": 16, "depth": 1, "max_updates": 50}
    hyperparameters |= {"world_model": world, "iterations": 1}
    folder = tmp_path_factory.mktemp("runs")
    return train(RunConfig(**settings, hyperparameters=hyperparameters, runs=folder), progress=False)


def test_a_run_says_in_words_what_was_planned_and_what_was_learned(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = run.summary()["ledger"]
    planned, spent = "planned 100 % of the 69 steps after the random ones", "100 % of always-on's RL updates"
    assert ledger["in_words"] == f"{planned}, {spent}, 0 model refits on alarm"
    assert ledger["steps_planned"] == 1.0 and 0 <= ledger["coverage_dynamics"] <= 1
    cli._report(run)
    assert ledger["in_words"] in capsys.readouterr().out.splitlines()


def spinning(obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
    """The faster it turns to one side, the better."""
    return next_obs[:, 2]


def test_another_reward_is_planned_for_without_learning(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    play = ["eval", str(run.path), "--episodes", "1"]
    spin = ["--reward", "tests.algorithms.test_planfirst:spinning"]
    for changed in ([], spin, [*spin, "-p", "terminal_value=false", "horizon=20"], [*spin, "-p", "horizon=5"]):
        assert cli.main([*play, *changed]) == 0
    own, other, in_full, nearer = capsys.readouterr().out.splitlines()
    assert own.startswith("return ") and len({own, other, nearer}) == 3
    assert in_full == other  # critics that know the old reward say nothing, and plans look further
    assert cli.main([*play, "-p", "follow=2"]) == 2
    said = "planfirst acts by what it learned, so follow=2 would change nothing: it plays by horizon, candidates, "
    assert said in capsys.readouterr().err


def test_another_reward_is_refused_where_nobody_plans(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = {"learning_starts": 30, "gradient_steps": 1, "rollouts": 5, "world_model": {"width": 8, "max_updates": 5}}
    settings = RunConfig(env="Pendulum-v1", algo="mbpo", steps=40, eval_every=0, hyperparameters=tiny, runs=tmp_path)
    path = train(settings, progress=False).path
    assert cli.main(["eval", str(path), "--reward", "tests.algorithms.test_planfirst:spinning"]) == 2
    assert "mbpo acts by what it learned, so reward_fn=" in capsys.readouterr().err
