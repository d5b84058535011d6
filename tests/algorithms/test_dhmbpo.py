"""Laws of DHMBPO; that it learns is shown in tests/benchmarks."""

import dataclasses
from pathlib import Path
from typing import Any, get_args

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.wrappers import TransformReward
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import FlattenExtractor

from dyna import actor_critic, base, choices
from dyna.algorithms.dhmbpo import DHMBPO
from dyna.bounded import value_range
from dyna.errors import UserError
from dyna.segments import Segments
from dyna.truncation import KeepAll
from dyna.value_expansion import Expansion, Noise, Valued
from dyna.world_model import EnsembleSettings
from tests import readme
from tests.probes import ActionRewardEnv

TINY: dict[str, Any] = {
    "seed": 4,
    "device": "cpu",
    "learning_starts": 60,
    "batch_size": 32,
    "model_every": 50,
    "model_growth": 0.0,
    "distribution_horizon": 4,
    "training_horizon": 2,
    "policy_kwargs": {"net_arch": [16, 16]},
    "world_model": EnsembleSettings(members=3, elites=2, width=16, depth=1, max_updates=25, target="delta"),
}


LED = {"buffer_size": 61}  # full when updates begin, and so rollouts are led from then on


@pytest.fixture(scope="module", params=[{}, LED], ids=["drawn", "led"])
def dreamer(request: pytest.FixtureRequest) -> DHMBPO:
    return DHMBPO(env=gym.make("Pendulum-v1"), **TINY, **request.param).learn(200)


def test_one_update_a_step_after_those_for_the_random_ones(dreamer: DHMBPO) -> None:
    assert dreamer.updates["critic"] == dreamer.updates["actor"] == 200
    assert dreamer.world_model.version == 3  # at steps 61, 111 and 161


@pytest.mark.parametrize("n_envs", [1, 3])
def test_a_share_of_the_updates_is_made_after_the_first(
    n_envs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "EARLY_UPDATES", 100)
    settings = {**TINY, "gradient_steps": -1, "late_updates": 0.3}  # a step of all environments asks for n_envs updates
    agent, made = DHMBPO(env=make_vec_env("Pendulum-v1", n_envs), **settings), []
    agent.learn(201, callback=lambda held, _: made.append(held["self"]._n_updates) or True)
    assert agent.updates["critic"] == agent.updates["actor"] == agent._n_updates
    begun = next(i for i, updates in enumerate(made) if updates >= 100)
    late = [after - made[begun] for after in made[begun:]]
    assert late == [int(0.3 * n_envs * i + 1e-9) for i in range(len(late))] and late[-1] > 20
    agent.save(tmp_path / "agent.zip")
    loaded = DHMBPO.load(tmp_path / "agent.zip", env=make_vec_env("Pendulum-v1", n_envs))
    assert (loaded.late_updates, loaded.paced(100)) == (0.3, 30)
    loaded.load_extra_state(agent.extra_state())
    assert loaded.pace.owed == agent.pace.owed


def test_what_was_saved_while_all_updates_were_made_is_gone_on_with(dreamer: DHMBPO) -> None:
    agent = DHMBPO(env=gym.make("Pendulum-v1"), **{**TINY, "buffer_size": dreamer.buffer_size})
    agent.load_extra_state({name: part for name, part in dreamer.extra_state().items() if name != "owed"})
    assert agent.paced(3) == 3


def test_the_model_is_fitted_again_when_the_steps_have_grown(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = DHMBPO(env=gym.make("Pendulum-v1"), **{**TINY, "model_every": 70, "model_growth": 0.5})
    fit, fitted_at = agent.fit_world_model, []
    monkeypatch.setattr(agent, "fit_world_model", lambda: (fitted_at.append(agent.num_timesteps), fit()))
    agent.learn(290)
    assert fitted_at == [61, 61 + 31, 92 + 46, 138 + 69, 207 + 70], "by half, rounded up, and 70 at most"
    agent.learn(200)  # counts its steps from zero again, with 290 that are known
    assert fitted_at[5:] == [61, 61 + 70]


def test_random_steps_follow_from_the_sizes_of_the_spaces(tmp_path: Path) -> None:
    agent = DHMBPO(env=gym.make("Pendulum-v1"))
    assert agent.learning_starts == 75 * (3 + 1)
    agent.save(tmp_path / "agent.zip")
    assert DHMBPO.load(tmp_path / "agent.zip", env=gym.make("Pendulum-v1")).learning_starts == 300
    assert DHMBPO.load(tmp_path / "agent.zip", env=gym.make("Pendulum-v1"), learning_starts=9).learning_starts == 9
    DHMBPO(env=gym.make("Pendulum-v1"), learning_starts=7).save(tmp_path / "given.zip")
    assert DHMBPO.load(tmp_path / "given.zip", env=gym.make("Pendulum-v1")).learning_starts == 7


@pytest.mark.parametrize("led", [True, False])
def test_nothing_that_an_older_model_said_is_learned_from(led: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {**TINY, **(LED if led else {}), "model_every": 47}  # no multiple of what dreams last
    agent = DHMBPO(env=gym.make("Pendulum-v1"), **settings)
    evaluate, update, said_by = agent._evaluate, agent._update, {}

    def evaluated(batch_size: int) -> Valued:
        valued = evaluate(batch_size)
        said_by[valued] = agent.world_model.version
        return valued

    def updated(batch_size: int, valued: Valued) -> Any:
        assert said_by[valued] == agent.world_model.version
        if not led:
            assert set(agent.imagined.sample(50).version.tolist()) == {agent.world_model.version}
        return update(batch_size, valued)

    monkeypatch.setattr(agent, "_evaluate", evaluated)
    monkeypatch.setattr(agent, "_update", updated)
    agent.learn(200)
    assert agent.world_model.version == 3
    assert len(said_by) == 200 // agent.dream_every + 2, "anew after as many updates, and after each later fit"


def test_critics_learn_what_was_valued(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = DHMBPO(env=gym.make("Pendulum-v1"), learning_rate=4e-3, **TINY).learn(61)
    told = agent._evaluate(30)
    low, high = float(agent.critic.low), float(agent.critic.high)
    for value in (low + 0.3 * (high - low), low + 0.8 * (high - low)):
        taught = Valued(told.obs, told.action, torch.full_like(told.value, value))
        monkeypatch.setattr(agent, "_evaluate", lambda batch_size, taught=taught: taught)
        agent._valued = None
        agent.train(250, 32)
        said = agent.critic.values(told.obs, told.action).detach()
        assert float((said - value).abs().mean()) < 0.05 * (high - low)


def test_where_rollouts_are_short_more_of_them_are_valued() -> None:
    agent = DHMBPO(env=gym.make("Pendulum-v1"), **{**TINY, "distribution_horizon": 0, "training_horizon": 0}).learn(61)
    assert len(agent._evaluate(30).value) == 8 * 30


@pytest.mark.parametrize("settings", [{}, LED], ids=["drawn", "led"])
def test_the_critics_know_the_range_and_the_policy_the_units(settings: dict[str, Any]) -> None:
    agent = DHMBPO(env=gym.make("Pendulum-v1"), **TINY, **settings).learn(161)  # ends with a fit to all that is stored
    assert float(agent.critic.low) < -16.2 / (1 - 0.995) * 0.3 and float(agent.critic.high) >= 0
    if not agent.leads:
        assert float(agent.critic.high) < 30
    reward = agent.replay_buffer.all_transitions().reward
    known = value_range(reward, agent.gamma, entropy=0.1, novelty=agent.curiosity)
    for name in ("low", "high"):  # the weight of the entropy has moved since
        assert float(getattr(agent.critic, name)) == pytest.approx(known[name], abs=20)
    for name in ("low", "high", "centre", "scale"):
        assert torch.equal(getattr(agent.critic, name), getattr(agent.critic_target, name)), name
    torch.testing.assert_close(agent.actor.features_extractor.mean, agent.world_model.x_mean[:3])


class Rattling(gym.ObservationWrapper[np.ndarray, np.ndarray, np.ndarray]):
    """Thirty numbers besides, which are 0 in nine of ten steps and anything in the tenth."""

    def __init__(self, env: gym.Env[np.ndarray, np.ndarray]) -> None:
        super().__init__(env)
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (33,), np.float32)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        noise = self.np_random.normal(size=30) * (self.np_random.random(30) < 0.1)
        return np.concatenate([observation, noise]).astype(np.float32)


@pytest.mark.parametrize("led", [False, True])
def test_an_agent_does_not_see_what_its_model_leaves_out(led: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choices, "FEW", 400)
    rattling = {**TINY, "learning_starts": 450, "buffer_size": 451 if led else 900, "model_every": 20}
    rattling["world_model"] = dataclasses.replace(TINY["world_model"], leave_out=True)
    agent = DHMBPO(env=Rattling(gym.make("Pendulum-v1")), **rattling).learn(475)
    assert agent.leads == led and agent.world_model.version == 2
    assert agent.world_model.seen.tolist() == [True] * 3 + [False] * 30
    obs = agent.replay_buffer.all_transitions().obs.numpy()[:20]
    other = obs.copy()
    other[:, 3:] = 7.0
    assert np.array_equal(agent.predict(other, deterministic=True)[0], agent.predict(obs, deterministic=True)[0])
    assert all(torch.isfinite(weight).all() for weight in agent.policy.parameters())


def test_critics_may_say_what_curiosity_pays() -> None:
    env = TransformReward(gym.make("Pendulum-v1"), lambda reward: reward + 20.0)
    high = [float(DHMBPO(env=env, **TINY, curiosity=curiosity).learn(61).critic.high) for curiosity in (0.0, 3.0)]
    assert high[1] > high[0] + 3.0 / (1 - 0.995), "the usual rewards of Pendulum differ by more than 1"


def test_where_every_step_costs_ending_the_task_is_not_what_is_learned_first() -> None:
    names: dict[str, Any] = {}
    exec(readme.cart(), names)  # the environment that a newcomer begins with
    learner = {"learning_starts": 200, "learning_rate": 3e-3, "distribution_horizon": 20, "training_horizon": 5}
    model = EnsembleSettings(members=3, elites=2, width=32, depth=2, max_updates=100, target="delta")
    agent = DHMBPO(env=names["Cart"](), **{**TINY, **learner, "seed": 0, "world_model": model}).learn(300)
    env = names["Cart"]()
    obs, _ = env.reset(seed=0)
    for _ in range(100):
        obs, _, terminated, truncated, _ = env.step(agent.predict(obs, deterministic=True)[0])
        assert not terminated
    assert truncated


@pytest.mark.parametrize(("factor", "nearest"), [(1.0, None), (1e-4, 0.1), (1e4, 100.0)])
def test_what_entropy_is_worth_at_first_follows_rewards_that_are_far_from_1(
    factor: float, nearest: float | None
) -> None:
    env = TransformReward(gym.make("Pendulum-v1"), lambda reward: factor * float(reward))
    agent = DHMBPO(env=env, **TINY).learn(61)
    usual = float(agent.critic.scale) * (1 - agent.gamma)
    expected = 0.1 * (usual / nearest if nearest else 1.0)
    assert agent.log_ent_coef is not None
    weight = float(agent.log_ent_coef.detach().exp())
    assert weight == pytest.approx(expected, rel=0.1), "61 updates have moved it by a thousandth each"
    given = DHMBPO(env=env, **TINY, ent_coef=0.3).learn(61)
    assert float(actor_critic.entropy_weight(given)) == pytest.approx(0.3), "what is given is not touched"


class LatePayEnv(ActionRewardEnv):
    """Pays nothing for some steps, then a thousandth, then as usual."""

    paid = 0

    def outcome(self, action: float) -> tuple[float, bool]:
        reward, done = super().outcome(action)
        self.paid += 1
        return (0.0 if self.paid < 80 else reward if self.paid > 130 else 1e-4 * reward), done


def test_what_entropy_is_worth_follows_rewards_that_come_late() -> None:
    agent, seen = DHMBPO(env=LatePayEnv(), **TINY), []
    for steps in (61, 60, 60):
        agent.learn(steps, reset_num_timesteps=False)
        assert agent.log_ent_coef is not None
        seen.append(float(agent.log_ent_coef.detach().exp()) / 0.1)
    assert seen[0] == pytest.approx(1.0, rel=0.1), "nothing is known of rewards that are all 0"
    assert seen[1] < 0.1 and seen[2] > 10 * seen[1]


def test_two_runs_with_one_seed_are_the_same(dreamer: DHMBPO) -> None:
    settings = LED if dreamer.leads else {}
    again = DHMBPO(env=gym.make("Pendulum-v1"), **TINY, **settings).learn(200)
    for name, value in again.policy.state_dict().items():
        assert torch.equal(value, dreamer.policy.state_dict()[name]), name


def test_a_saved_agent_acts_the_same(dreamer: DHMBPO, tmp_path: Path) -> None:
    dreamer.save(tmp_path / "agent.zip")
    loaded = DHMBPO.load(tmp_path / "agent.zip", env=gym.make("Pendulum-v1"), device="cpu")
    obs = np.array([[0.1, 0.9, -0.5], [-1.0, 0.0, 2.0]], np.float32)
    np.testing.assert_array_equal(
        loaded.predict(obs, deterministic=True)[0], dreamer.predict(obs, deterministic=True)[0]
    )
    loaded.learn(60, reset_num_timesteps=False)


def test_gradients_through_the_model_teach_a_one_step_choice() -> None:
    agent = DHMBPO(
        env=ActionRewardEnv(),
        **{
            **TINY,
            "learning_rate": 3e-3,
            "gamma": 0.5,
            "gradient_steps": 2,
            "world_model": EnsembleSettings(members=3, elites=2, width=32, depth=1, max_updates=200),
        },
    ).learn(450)
    obs = np.linspace(-0.8, 0.8, 9, dtype=np.float32)[:, None]
    assert np.abs(agent.predict(obs, deterministic=True)[0] - obs).mean() < 0.15


def test_updates_begin_on_the_way_of_the_critics_rollouts_and_are_led_along_the_same_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    agent = DHMBPO(env=gym.make("Pendulum-v1"), **TINY, **LED).learn(120)
    assert agent.imagined.size == 0
    led, rollout = [], agent._rollout

    def watched(start: torch.Tensor, horizon: int, along: Segments) -> Expansion:
        led.append((start, along, rollout(start, horizon, along)))
        return led[-1][2]

    monkeypatch.setattr(agent, "_rollout", watched)
    agent._valued = None
    agent.train(3, 32)
    assert [along.first(99).obs.shape[:2] for _, along, _ in led] == [(4 + 2 - 1, 60), (2, 30), (2, 30), (2, 30)]
    start, way, critics = led[0]
    assert torch.equal(start, way.start)
    imagined = {tuple(row): place for place, row in enumerate(critics.obs[:-1].flatten(0, 1).tolist())}
    for start, along, _ in led[1:]:
        for row, state in enumerate(start.tolist()):
            step, begun = divmod(imagined[tuple(state)], 60)
            for mine, theirs in zip(along, way, strict=True):
                assert torch.equal(mine[:, row], theirs[step : step + 2, begun])
    assert len({imagined[tuple(state)] // 60 for start, _, _ in led[1:] for state in start.tolist()}) == 4


@pytest.mark.parametrize(("steps", "noise", "led"), [(89, "inferred", 0), (110, "inferred", 21), (110, "drawn", 0)])
def test_rollouts_are_led_once_there_are_steps_enough(
    steps: int, noise: Any, led: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dyna.algorithms.dhmbpo.NEWEST", 90)
    agent, along = DHMBPO(env=gym.make("Pendulum-v1"), **{**TINY, "dream_every": 1}, noise=noise), []
    segments = agent._segments
    monkeypatch.setattr(agent, "_segments", lambda *of: along.append(agent.num_timesteps) or segments(*of))
    agent.learn(steps)
    assert len(along) == led and min(along, default=90) == 90
    assert bool(agent._trail) == bool(led) == (agent.imagined.size == 0)


def test_until_then_all_is_as_with_drawn_noise() -> None:
    inferred, drawn = (DHMBPO(env=gym.make("Pendulum-v1"), **TINY, noise=noise).learn(120) for noise in get_args(Noise))
    assert inferred.noise != drawn.noise
    for one, other in zip(inferred.policy.parameters(), drawn.policy.parameters(), strict=True):
        assert torch.equal(one, other)


def test_no_rollout_is_led_along_steps_of_an_old_world(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = DHMBPO(env=gym.make("Pendulum-v1"), **TINY, **LED).learn(120)
    lessons = torch.ones(61, 3)
    lessons[:31, 0] = 0.0
    monkeypatch.setattr(agent, "lessons", lambda rows: lessons)
    new = {tuple(row) for row in agent.replay_buffer.all_transitions().obs[31:].tolist()}
    assert {tuple(row) for row in agent._segments(200, 2).start.tolist()} == new
    assert not agent.leads, "30 steps of the new one are not what the buffer can hold"


@pytest.mark.parametrize("led", [True, False])
def test_the_hand_written_gradient_changes_nothing_that_is_drawn(led: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = DHMBPO(env=gym.make("Pendulum-v1"), **TINY).learn(61)
    start, along = agent._starts(30), agent._segments(30, 3)
    state, found = agent.rng.get_state(), []
    for by_hand in (True, False):
        monkeypatch.setattr("dyna.algorithms.dhmbpo.can_unroll", lambda *of, by_hand=by_hand: by_hand)
        agent.rng.set_state(state)
        found.append(agent._rollout(start, 3, along if led else None))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("truncate", ["keep_all", {"name": "keep_all"}, KeepAll()])
def test_to_keep_all_truncates_nothing(truncate: Any) -> None:
    assert DHMBPO(env=gym.make("Pendulum-v1"), **TINY, truncate=truncate).noise == "inferred"


def test_without_a_horizon_updates_begin_from_real_states() -> None:
    agent = DHMBPO(env=gym.make("Pendulum-v1"), **{**TINY, "distribution_horizon": 0}).learn(120)
    assert agent.updates["critic"] == 120 and agent.imagined.size == 0
    real = {tuple(row) for row in agent.replay_buffer.all_transitions().obs.tolist()}
    assert {tuple(row) for row in agent._starts(32).tolist()} <= real


def test_without_a_training_rollout_only_the_critics_move_the_actor() -> None:
    agent = DHMBPO(env=gym.make("Pendulum-v1"), **{**TINY, "training_horizon": 0, "ent_coef": 0.0}).learn(120)
    with torch.no_grad():  # values that no action changes
        for layer in agent.critic.q_networks.layers:
            layer.weight.zero_()
    agent.actor.optimizer = torch.optim.SGD(agent.actor.parameters(), lr=1.0)
    before = [parameter.clone() for parameter in agent.actor.parameters()]
    agent.train(1, 32)
    for old, new in zip(before, agent.actor.parameters(), strict=True):
        assert torch.equal(old, new)


def test_critics_are_taught_that_disagreement_pays(dreamer: DHMBPO, monkeypatch: pytest.MonkeyPatch) -> None:
    start, rng = dreamer.replay_buffer.sample_obs(30), dreamer.rng.get_state()
    monkeypatch.setattr(dreamer, "_starts", lambda rows, *, real: start)
    monkeypatch.setattr(dreamer, "return_lambda", 0.0)  # a value is one reward and what follows it

    def valued(curiosity: float) -> Valued:
        monkeypatch.setattr(dreamer, "curiosity", curiosity)
        dreamer.rng.set_state(rng)
        return dreamer._evaluate(30)

    plain, curious = valued(0.0), valued(3.0)
    assert torch.equal(plain.obs, curious.obs) and torch.equal(plain.action, curious.action)
    novelty = dreamer.world_model.novelty(plain.obs, plain.action).clamp_max(1.0)
    assert float(novelty.max()) > 0.01
    paid = 3.0 * novelty * dreamer.critic.scale * (1 - dreamer.gamma)
    torch.testing.assert_close(curious.value - plain.value, paid, rtol=1e-3, atol=1e-2)


def test_no_gradient_reaches_the_model(dreamer: DHMBPO) -> None:
    before = [parameter.clone() for parameter in dreamer.world_model.parameters()]
    dreamer.train(3, 32)
    for old, new in zip(before, dreamer.world_model.parameters(), strict=True):
        assert torch.equal(old, new)


@pytest.mark.parametrize(("starts", "n_envs", "needed"), [(60, 1, 60), (60, 7, 63), (None, 1, 300)])
def test_a_replay_that_never_holds_enough_to_begin_with_is_refused(
    starts: int | None, n_envs: int, needed: int
) -> None:
    env = make_vec_env("Pendulum-v1", n_envs)
    agent = DHMBPO(env=env, **{**TINY, "buffer_size": 55, "learning_starts": starts})
    with pytest.raises(UserError, match=f"buffer_size must be at least {needed}, .*, got 55"):
        agent.learn(1)


def test_where_a_rule_keeps_nothing_updates_begin_from_real_states() -> None:
    rule = {"name": "macura", "xi": 1e-9}
    agent = DHMBPO(env=gym.make("Pendulum-v1"), **TINY, truncate=rule, noise="drawn").learn(70)
    assert agent.imagined.size == 0 and agent.updates["actor"] == 70


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"training_horizon": -1}, "training_horizon must be at least 0, got -1"),
        ({"mask": "firm"}, "mask must be soft, hard or differentiable, got 'firm'"),
        ({"noise": "pink"}, "noise must be drawn or inferred, got 'pink'"),
        (
            {"truncate": "infoprop"},
            "truncate=Infoprop ends rollouts that are not led: set noise=drawn",
        ),
        ({"return_lambda": 1.5}, r"return_lambda must be in \[0, 1\], got 1.5"),
        ({"model_growth": -0.1}, "model_growth must be at least 0, got -0.1"),
        ({"curiosity": -1.0}, "curiosity must be at least 0, got -1.0"),
        ({"dream_every": 0}, "dream_every must be at least 1, got 0"),
        ({"distribution_horizon": 2.5}, "distribution_horizon must be a whole number of at least 0, got 2.5"),
        ({"batch_size": None}, "batch_size must be a whole number of at least 1, got None"),
        ({"gamma": 1.0}, r"gamma must be below 1, for values are bounded by 1 / \(1 - gamma\), got 1.0"),
        ({"policy": SAC.policy_aliases["MlpPolicy"]}, "policy must be MlpPolicy or a BoundedSACPolicy, got SACPolicy"),
        (
            {"target_update_interval": 7},
            "moves its targets at every update, got target_update_interval=7: leave",
        ),
        (
            {"policy_kwargs": {"features_extractor_class": FlattenExtractor}},
            "features_extractor_class must be a Standardised, .*, got FlattenExtractor: leave it out",
        ),
        ({"sde_sample_freq": 4}, "DHMBPO does not explore by gSDE, got sde_sample_freq=4: leave it out"),
        ({"policy_kwargs": {"net_arch": []}}, r"net_arch must have a hidden layer of the actor, got \[\]"),
        ({"truncate": "reject_all"}, "DHMBPO learns nothing without its world model, got .* truncate=RejectAll: "),
        ({"world_model": {"width": 16}}, "world_model must be EnsembleSettings, got {'width': 16}"),
        ({"batch_size": 2}, "batch_size must be at least 3, one for each member, got 2"),
    ],
)
def test_what_cannot_work_is_refused(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        DHMBPO(env=gym.make("Pendulum-v1"), **{**TINY, **given})
