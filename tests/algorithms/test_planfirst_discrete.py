"""Laws of PlanFirst for discrete actions; what it reaches is told in docs/planfirst.md."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.wrappers import TransformAction
from stable_baselines3.common.env_util import make_vec_env

from dyna import cli, hyperparameters, registry
from dyna.algorithms.mbdqn import QPolicy
from dyna.algorithms.planfirst import PlanFirst
from dyna.algorithms.planfirst_discrete import DiscretePlanFirst, categorical
from dyna.config import RunConfig, checked
from dyna.errors import UserError
from dyna.plan_model import PlanModel
from dyna.plan_scores import propagated_returns
from dyna.train import train
from dyna.world_model import EnsembleSettings
from tests.probes import ProbeEnv

TINY: dict[str, Any] = {
    "seed": 4,
    "device": "cpu",
    "learning_starts": 60,
    "batch_size": 32,
    "gradient_steps": 2,
    "model_every": 50,
    "rollouts": 2,
    "rollout_horizon": 3,
    "horizon": 3,
    "candidates": 20,
    "policy_plans": 3,
    "elites": 4,
    "iterations": 2,
    "policy_kwargs": {"net_arch": [16, 16]},
    "world_model": EnsembleSettings(members=3, elites=2, width=16, depth=1, max_updates=50, target="delta"),
}
OBS = np.array([[0.01, 0.2, -0.03, -0.2], [0.5, -0.4, 0.1, 0.6]], np.float32)


class StepsEnv(ProbeEnv):
    """A point that steps a quarter to the left, not at all, or to the right; the reward is how near to 0 it is."""

    def first_obs(self) -> np.ndarray:
        return self.np_random.uniform(-1.0, 1.0, 1).astype(np.float32)

    def outcome(self, action: float) -> tuple[float, bool]:
        self.obs = np.clip(self.obs + np.float32(action) / 4, -1.0, 1.0).astype(np.float32)
        return -10.0 * abs(float(self.obs[0])), False


def numbered() -> gym.Env[Any, Any]:
    """The point, whose actions are numbered 3, 4 and 5."""
    return TransformAction(StepsEnv(), lambda number: np.array([number - 4.0]), spaces.Discrete(3, start=3))


@pytest.fixture(scope="module")
def planner() -> DiscretePlanFirst:
    return DiscretePlanFirst(env=gym.make("CartPole-v1"), **TINY).learn(230)


@pytest.fixture(scope="module")
def stepper() -> DiscretePlanFirst:
    world = EnsembleSettings(members=3, elites=2, width=32, depth=1, max_updates=300)
    return DiscretePlanFirst(env=numbered(), **{**TINY, "world_model": world, "candidates": 203}).learn(150)


def test_every_step_after_the_first_fit_is_planned_and_its_learner_is_always_on(planner: DiscretePlanFirst) -> None:
    assert planner.updates["plans"] == planner.decided["planned"] == 230 - 61
    assert planner.updates["critic"] == planner.always_on == 61 + 2 * (230 - 61)  # random steps had no updates before


def test_promise_and_outcome_differ_by_the_model_and_by_other_actions(planner: DiscretePlanFirst) -> None:
    told = {name[10:]: value for name, value in planner.logger.name_to_value.items() if name.startswith("planfirst/")}
    assert told["broken"] == pytest.approx(told["realised"] - told["planned"], rel=1e-3, abs=1e-3)
    verdicts: list[Any] = []
    agent = DiscretePlanFirst(env=gym.make("CartPole-v1"), **TINY)
    agent.correct = verdicts.append  # type: ignore[method-assign]
    agent.learn(150)
    assert len(verdicts) > 20
    for verdict in verdicts:
        account, actions = verdict.account, verdict.steps.action
        torch.testing.assert_close(account.broken, account.model + account.replan)
        torch.testing.assert_close(account.model, account.dynamics + account.reward + account.termination)
        assert torch.equal(actions.sort(dim=-1).values, torch.tensor([0.0, 1.0]).expand_as(actions))
        assert account.policy_gap.isfinite().all()


def test_plans_reach_what_the_model_promises_most_and_a_policy_that_knows_nothing_does_not(
    stepper: DiscretePlanFirst,
) -> None:
    obs = torch.tensor([[0.8], [-0.8], [0.3]])
    plan = stepper.plan(obs, stepper.policy.blank.expand(3, -1, -1), torch.Generator().manual_seed(0))
    every = torch.cartesian_prod(*[torch.arange(3)] * 3)
    candidates = torch.nn.functional.one_hot(every, 3).float().expand(3, -1, -1, -1)
    best = stepper.score(PlanModel(stepper.world_model), obs)(candidates).max(1).values
    torch.testing.assert_close(plan.score, best)
    assert plan.actions[:, 0].argmax(1).tolist() == [0, 2, 0]
    actions, _ = stepper.predict(np.array([[0.8], [-0.8]], np.float32), deterministic=True)
    assert actions.tolist() == [3, 5]


def test_plans_are_worth_more_than_a_bad_policy_and_the_gap_says_so(stepper: DiscretePlanFirst) -> None:
    obs = torch.tensor([[0.8], [-0.8]])
    away = torch.nn.functional.one_hot(torch.tensor([2, 0]), 3).float()
    model, warm = PlanModel(stepper.world_model), stepper.policy.blank.expand(2, -1, -1)
    plan = stepper.plan(obs, warm, torch.Generator().manual_seed(0))
    how: dict[str, Any] = {"gamma": stepper.gamma, "value": stepper.value}
    bad = propagated_returns(model, obs, away[:, None, None].expand(-1, 1, 3, -1), **how).mean(0)[:, 0]
    assert (propagated_returns(model, obs, plan.actions.unsqueeze(1), **how).mean(0)[:, 0] > bad + 3.0).all()


def test_plans_end_in_the_greatest_q_in_units_of_the_environment(planner: DiscretePlanFirst) -> None:
    obs = torch.as_tensor(OBS)
    with torch.no_grad():
        greatest = planner.q_net(obs).max(1).values
    assert torch.equal(planner.value(obs), greatest[None])
    planner.policy.reward_unit.fill_(5.0)
    try:
        assert torch.equal(planner.value(obs), 5.0 * greatest[None])
    finally:
        planner.policy.reward_unit.fill_(1.0)


def test_rewards_far_from_one_are_planned_for_in_their_own_unit() -> None:
    env = gym.wrappers.TransformReward(gym.make("CartPole-v1"), lambda reward: 1e5 * reward)
    agent = DiscretePlanFirst(env=env, **TINY).learn(70)
    assert float(agent.policy.reward_unit) == agent.reward_unit > 1e3


@pytest.mark.parametrize("epsilon", [0.0, 0.3])
def test_noise_draws_actions_by_their_probabilities(epsilon: float) -> None:
    probs = torch.tensor([0.7, 0.3, 0.0])
    noise = torch.randn(20_000, 3, generator=torch.Generator().manual_seed(0))
    drawn = categorical(probs.expand(20_000, -1), noise, epsilon)
    assert torch.equal(drawn.sum(1), torch.ones(20_000))
    torch.testing.assert_close(drawn.mean(0), (1 - epsilon) * probs + epsilon / 3, atol=0.015, rtol=0.0)
    assert torch.equal(categorical(probs.expand(2, -1), torch.zeros(2, 3), 0.5).argmax(1), torch.tensor([0, 0]))


def test_exploring_is_dqns_in_both_modes(planner: DiscretePlanFirst) -> None:
    obs = torch.as_tensor(OBS[:1]).expand(4_000, -1)
    noise, rate = torch.randn(4_000, 2, generator=torch.Generator().manual_seed(0)), planner.exploration_rate
    planner.exploration_rate = 0.4
    try:
        share = float((planner.react(obs, noise) != planner.react(obs)).any(1).float().mean())
        plan = planner.plan(obs[:1], planner.policy.blank, torch.Generator().manual_seed(0))
        sure = plan._replace(mean=plan.actions.expand(4_000, -1, -1))
        other = float((planner.draw(sure, noise) != sure.mean[:, 0]).any(1).float().mean())
    finally:
        planner.exploration_rate = rate
    assert abs(share - 0.2) < 0.03 and abs(other - 0.2) < 0.03


def test_playing_changes_nothing_of_the_training(planner: DiscretePlanFirst) -> None:
    before = planner.rng.get_state(), planner.warm_start.clone(), torch.random.get_rng_state(), np.random.get_state()[1]
    first, second = (planner.predict(OBS, deterministic=True)[0] for _ in range(2))
    assert np.array_equal(first, second) and set(first.tolist()) <= {0, 1}
    assert torch.equal(planner.rng.get_state(), before[0]) and torch.equal(planner.warm_start, before[1])
    assert torch.equal(torch.random.get_rng_state(), before[2])
    assert np.array_equal(np.random.get_state()[1], before[3])


def test_one_observation_gives_one_action_and_the_start_of_the_next_plan(planner: DiscretePlanFirst) -> None:
    action, state = planner.predict(OBS[0], deterministic=True)
    assert planner.action_space.contains(action)
    assert state is not None and state[0].shape == (1, 3, 2)
    assert state[0].sum(-1).tolist() == [[1.0, 1.0, 0.0]]  # of the last step nothing is known
    again, _ = planner.predict(OBS[0], state, np.array([True]), deterministic=True)
    assert action == again  # an episode's start forgets the plan before it


def test_before_the_first_fit_q_acts_and_the_ledger_says_why() -> None:
    agent = DiscretePlanFirst(env=gym.make("CartPole-v1"), **TINY).learn(50)
    assert agent.ledger()["in_words"] == "nothing was planned or learned: the first learning_starts=60 steps are random"
    action, state = agent.predict(OBS, deterministic=True)
    assert action.tolist() == agent.react(torch.as_tensor(OBS)).argmax(1).tolist() and state is None


def test_a_plan_is_followed_as_it_was_made() -> None:
    agent = DiscretePlanFirst(env=gym.make("CartPole-v1"), **{**TINY, "follow": 3, "model_every": 60}).learn(80)
    agent.thresholds.heads.fill_(torch.inf)
    agent.trusted[:] = 0
    obs, before = torch.as_tensor(OBS[:1]), dict(agent.decided)
    agent.act(obs)
    (warm,) = agent.warm_start
    followed = torch.stack([agent.act(obs)[0], agent.act(obs)[0]])
    assert torch.equal(followed, warm[:2]) and torch.equal(followed.sum(1), torch.ones(2))
    agent.act(obs)
    assert {name: agent.decided[name] - before[name] for name in before} == {"planned": 2, "followed": 2, "reacted": 0}


def test_the_policy_acts_alone_where_the_members_agree_and_plans_promise_no_more() -> None:
    agent = DiscretePlanFirst(env=gym.make("CartPole-v1"), **{**TINY, "acting": "confident"})
    obs = torch.as_tensor(OBS)
    agent.thresholds.disagreement.fill_(torch.inf)
    agent.thresholds.tau.fill_(1.0)
    agent.thresholds.gap.fill_(0.5)
    assert agent.is_confident(obs).all()
    agent.thresholds.gap.fill_(2.0)
    assert not agent.is_confident(obs).any()


def test_a_policy_alone_makes_no_plan() -> None:
    agent = DiscretePlanFirst(env=gym.make("CartPole-v1"), **{**TINY, "acting": "policy"}).learn(120)
    assert agent.updates["plans"] == 0 and agent.decided["reacted"] == 120 - 61
    action, _ = agent.predict(OBS, deterministic=True)
    assert action.tolist() == agent.react(torch.as_tensor(OBS)).argmax(1).tolist()


def gated(**how: Any) -> DiscretePlanFirst:
    return DiscretePlanFirst(env=gym.make("CartPole-v1"), **{**TINY, "learner": "gated", "opening": 100, **how})


def shut(agent: DiscretePlanFirst) -> None:
    """As after many looks that found no gain."""
    agent.allowance.gate.alarmed, agent.allowance.gate.share = set(), 0.0


def test_a_gated_learner_rests_until_the_critic_alarms_and_then_begins_where_it_was_surprised() -> None:
    agent = gated().learn(100)
    spent = agent.updates["critic"]
    agent.correct = lambda verdict: None  # type: ignore[method-assign]
    shut(agent)
    agent.learn(20, reset_num_timesteps=False)
    assert agent.updates["critic"] - spent <= 11 and agent.always_on == 61 + 2 * (120 - 61)
    agent.allowance.gate.alarm("critic")
    agent.learn(5, reset_num_timesteps=False)
    assert agent.updates["critic"] - spent >= 40
    surprising = {tuple(row) for row in agent.configurator.outcomes.all()["obs"].tolist()}
    rows = agent.sample(32)
    assert len(rows.obs) == 32 and sum(tuple(row) in surprising for row in rows.obs.tolist()) >= 16
    assert len(agent.sample(1).obs) == 1
    shut(agent)
    assert sum(tuple(row) in surprising for row in agent.sample(32).obs.tolist()) < 16


def test_real_rows_are_learned_from_while_an_alarm_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = gated(real_share=0.5).learn(100)
    real = {tuple(row) for row in agent.replay_buffer.all_transitions().next_obs.tolist()}
    monkeypatch.setattr(
        DiscretePlanFirst, "answers_alarm", property(lambda agent: agent.configurator.outcomes.size > 0)
    )
    rows = agent.sample(32)
    assert agent.answers_alarm and sum(tuple(row) in real for row in rows.next_obs.tolist()) >= 16


def test_after_a_proven_change_nothing_of_the_old_world_is_learned_from(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = gated(real_share=0.5, refit_on_alarm=True).learn(150)
    old = {tuple(row) for row in agent.replay_buffer.all_transitions().at(slice(100)).next_obs.tolist()}
    agent.changes.suspected = {"dynamics": 100}
    monkeypatch.setattr(agent, "_outdated", lambda: ["dynamics"])
    agent.refit()
    assert agent.changes.proven == {"dynamics": 100} and agent.unchanged_steps == 50
    assert set(agent.imagined.sample(64).version.tolist()) == {agent.world_model.version}
    rows = agent.sample(64)
    assert not any(tuple(row) in old for row in rows.next_obs.tolist())


def test_an_alarm_for_the_model_brings_a_refit() -> None:
    agent = gated(refit_on_alarm=True, model_every=60).learn(110)
    version, agent.changes.suspected = agent.world_model.version, {"dynamics": 50}
    agent.correct = lambda verdict: None  # type: ignore[method-assign]
    agent.learn(3, reset_num_timesteps=False)
    assert agent.world_model.version == version + 1 and agent.refits_on_alarm >= 1


def test_two_environments_are_planned_for_side_by_side() -> None:
    agent = DiscretePlanFirst(env=make_vec_env("CartPole-v1", 2, seed=1), **TINY).learn(160)
    assert agent.updates["plans"] == 160 - 62 and agent.warm_start.shape == (2, 3, 2)


def test_it_plans_the_same_when_it_was_saved(planner: DiscretePlanFirst, tmp_path: Path) -> None:
    planner.save(tmp_path / "agent")
    loaded = DiscretePlanFirst.load(tmp_path / "agent", device="cpu")
    obs = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    warm = planner.policy.blank.expand(20, -1, -1)
    first, second = (agent.plan(obs, warm, torch.Generator().manual_seed(0)) for agent in (planner, loaded))
    assert torch.equal(first.mean, second.mean) and torch.equal(first.score, second.score)
    assert np.array_equal(loaded.predict(OBS, deterministic=True)[0], planner.predict(OBS, deterministic=True)[0])
    assert torch.equal(loaded.thresholds.heads, planner.thresholds.heads)
    loaded.set_env(gym.make("CartPole-v1"))
    loaded.learn(10, reset_num_timesteps=False)
    assert loaded.updates["plans"] == planner.updates["plans"] + 10


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"real_share": 1.0}, "DiscretePlanFirst learns nothing without its world model, got real_share=1.0"),
        ({"follow": 4}, r"follow must be at most horizon \(3\), got 4"),
        ({"elites": 18}, "elites must be between 1 and 17, the candidates that are no policy_plans, got 18"),
        ({"rollout_horizon": 0}, "a horizon must be at least 1, got 0"),
        ({"imagined_epsilon": 2.0}, r"imagined_epsilon must be in \[0, 1\], got 2.0"),
        ({"policy": QPolicy}, "policy must be MlpPolicy or a DiscretePlanFirstPolicy, got QPolicy"),
    ],
)
def test_settings_without_a_plan_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        DiscretePlanFirst(env=gym.make("CartPole-v1"), **{**TINY, **wrong})


def test_each_kind_of_actions_is_sent_to_its_class() -> None:
    with pytest.raises(UserError, match="Box actions are needed, got Discrete.*: DiscretePlanFirst takes a Discrete"):
        PlanFirst(env="CartPole-v1")
    with pytest.raises(UserError, match="Discrete actions are needed, got Box.*: PlanFirst takes a Box"):
        DiscretePlanFirst(env="Pendulum-v1")
    box, discrete = spaces.Box(-1.0, 1.0, (1,)), spaces.Discrete(2)
    assert registry.find("planfirst") is registry.find("planfirst", box) is PlanFirst
    assert registry.find("planfirst", discrete) is DiscretePlanFirst
    assert registry.action_spaces(*registry.classes("planfirst")) == ["Box", "Discrete"]
    given = {"rollout_horizon": 5}
    assert checked(RunConfig(env="CartPole-v1", algo="planfirst", hyperparameters=given)).hyperparameters == given
    with pytest.raises(UserError, match="rollout_horizon"):
        checked(RunConfig(env="Pendulum-v1", algo="planfirst", hyperparameters=given))
    with pytest.raises(UserError, match="planfirst takes Box or Discrete actions, Taxi-v3 has MultiBinary"):
        registry.refuse_actions("planfirst", PlanFirst, "Taxi-v3", spaces.MultiBinary(2))


def test_help_tells_of_both(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--algo", "planfirst", "--help"]) == 0
    out = capsys.readouterr().out
    assert "hyperparameters of planfirst for Box actions" in out and "for Discrete actions" in out
    assert "training_horizon" in out and "rollout_horizon" in out
    names = [knob.name for knob in hyperparameters.knobs(DiscretePlanFirst)]
    assert len(names) == len(set(names))


def test_a_run_is_evaluated_and_says_in_words_what_was_planned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {name: value for name, value in TINY.items() if name not in ("seed", "device", "world_model")}
    given |= {"world_model": {"members": 3, "elites": 2, "width": 16, "depth": 1, "max_updates": 20}}
    config = RunConfig(
        env="CartPole-v1",
        algo="planfirst",
        steps=100,
        eval_every=100,
        eval_episodes=1,
        hyperparameters=given,
        runs=tmp_path,
    )
    run = train(config, progress=False)
    words = (
        "planned 100 % of the 39 steps after the random ones, 100 % of always-on's RL updates, 0 model refits on alarm"
    )
    assert run.summary()["ledger"]["in_words"] == words
    assert cli.main(["eval", str(run.path), "--episodes", "1"]) == 0
    assert capsys.readouterr().out.startswith("return ")


def test_nothing_is_promised_of_steps_that_another_agent_made(tmp_path: Path) -> None:
    short = DiscretePlanFirst(env=gym.make("CartPole-v1"), **TINY).learn(7)
    short.save_replay_buffer(tmp_path / "short.pkl")
    agent = DiscretePlanFirst(env=gym.make("CartPole-v1"), **{**TINY, "learning_starts": 30}).learn(38)
    while not agent.configurator.windows.under_way().any():
        agent.learn(1, reset_num_timesteps=False)
    agent.load_replay_buffer(tmp_path / "short.pkl")
    assert not agent.configurator.windows.under_way().any() and not agent.trusted.any()
    agent.learn(8, reset_num_timesteps=False)
    assert len(agent.replay_buffer) == 15
