"""Laws of MBDQN; that it learns CartPole is shown in tests/benchmarks/learning.py."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.wrappers import TransformAction
from stable_baselines3 import DQN
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.dqn.policies import DQNPolicy

from dyna.algorithms.mbdqn import MBDQN, QPolicy
from dyna.buffers import PackedReplayBuffer
from dyna.errors import UserError
from dyna.world_model import EnsembleSettings
from tests.probes import ActionRewardEnv, ProbeEnv, TerminationEnv

DQN_TINY: dict[str, Any] = {
    "seed": 4,
    "device": "cpu",
    "learning_rate": 1e-3,
    "learning_starts": 60,
    "batch_size": 32,
    "train_freq": 1,
    "gradient_steps": 2,
    "target_update_interval": 20,
    "policy_kwargs": {"net_arch": [16, 16]},
}
DREAMING: dict[str, Any] = {
    **DQN_TINY,
    "model_every": 50,
    "rollouts": 2,
    "horizon": 3,
    "world_model": EnsembleSettings(members=3, elites=2, width=16, depth=1, max_updates=25, target="delta"),
}


def weights(agent: DQN) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in agent.policy.state_dict().items()}


def numbered(probe: type[ProbeEnv]) -> gym.Env[Any, Any]:
    """A probe whose actions -1, 0 and 1 are numbered 3, 4 and 5."""
    return TransformAction(probe(), lambda number: np.array([number - 4.0]), spaces.Discrete(3, start=3))


@pytest.fixture(scope="module")
def dreamer() -> MBDQN:
    return MBDQN(env="CartPole-v1", **DREAMING).learn(250)


@pytest.mark.parametrize("only_real", [{"real_share": 1.0}, {"truncate": "reject_all"}])
@pytest.mark.parametrize("n_envs", [1, 3])
def test_without_dreams_it_is_dqn(only_real: dict[str, Any], n_envs: int) -> None:
    def make() -> VecEnv:
        return make_vec_env("CartPole-v1", n_envs, seed=1)

    dqn = DQN(QPolicy, make(), replay_buffer_class=PackedReplayBuffer, **DQN_TINY).learn(240)
    mbdqn = MBDQN(env=make(), double_q=False, **only_real, **DQN_TINY).learn(240)
    assert mbdqn.updates["critic"] == dqn._n_updates > 100 and mbdqn.updates["model"] == 0
    np.testing.assert_array_equal(mbdqn.replay_buffer.actions, dqn.replay_buffer.actions)
    theirs = weights(dqn)
    for name, value in weights(mbdqn).items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-4, atol=1e-6, msg=name)


def test_real_share_one_never_reads_dreams(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = MBDQN(env="CartPole-v1", **{**DREAMING, "real_share": 1.0})
    monkeypatch.setattr(agent.imagined, "fill", lambda *args: pytest.fail("a dream was read"))
    monkeypatch.setattr(agent, "fit_world_model", lambda: pytest.fail("a model was fitted for nothing"))
    agent.learn(80)


def test_the_model_is_fitted_on_schedule_and_old_dreams_are_dropped(dreamer: MBDQN) -> None:
    assert dreamer.world_model.version == 4  # at steps 61, 111, 161 and 211
    rows = dreamer.imagined.sample(500)
    assert set(rows.version.tolist()) == {3, 4}
    assert dreamer.updates == {**dreamer.updates, "critic": 2 * 190, "actor": 0}
    assert dreamer.updates["model"] > 0
    assert dreamer.world_model_metrics["rows"] == 211


def test_every_action_is_one_hot_in_dreams_and_in_the_data(dreamer: MBDQN) -> None:
    for action in (dreamer.imagined.sample(500).action, dreamer.replay_buffer.all_transitions().action):
        assert torch.equal(action.sort(dim=1).values, torch.tensor([0.0, 1.0]).expand(len(action), 2))
        assert 0 < action[:, 0].sum() < len(action)


def test_two_runs_with_one_seed_are_the_same(dreamer: MBDQN) -> None:
    again = MBDQN(env="CartPole-v1", **DREAMING).learn(250)
    for name, value in weights(again).items():
        assert torch.equal(value, weights(dreamer)[name]), name
    for name, value in again.world_model.state_dict().items():
        assert torch.equal(value, dreamer.world_model.state_dict()[name]), name


def test_a_saved_agent_acts_and_predicts_the_same(dreamer: MBDQN, tmp_path: Path) -> None:
    dreamer.save(tmp_path / "agent.zip")
    loaded = MBDQN.load(tmp_path / "agent.zip", env=gym.make("CartPole-v1"), device="cpu")
    obs = torch.linspace(-1, 1, 40).view(10, 4)
    np.testing.assert_array_equal(
        loaded.predict(obs.numpy(), deterministic=True)[0], dreamer.predict(obs.numpy(), deterministic=True)[0]
    )
    action = torch.eye(2)[torch.arange(10) % 2]
    for mine, theirs in zip(
        loaded.world_model.predict(obs, action), dreamer.world_model.predict(obs, action), strict=True
    ):
        assert torch.equal(mine, theirs)
    loaded.learn(70, reset_num_timesteps=False)


@pytest.mark.parametrize(("epsilon", "share"), [(0.0, 0.0), (0.3, 0.2), (1.0, 2 / 3)])
def test_imagination_departs_from_the_greedy_action_as_often_as_it_is_told(epsilon: float, share: float) -> None:
    agent = MBDQN(env=numbered(ActionRewardEnv), imagined_epsilon=epsilon, **DQN_TINY)
    obs = torch.linspace(-1, 1, 6_000)[:, None]
    action = agent.imagination_policy(obs)
    assert torch.equal(action.sum(dim=1), torch.ones(6_000))
    other = action.argmax(dim=1) != agent.q_net(obs).argmax(dim=1)
    assert abs(float(other.float().mean()) - share) < 0.03


DREAMS_ALONE: dict[str, Any] = {
    **DREAMING,
    "gradient_steps": 10,
    "real_share": 0.0,
    "learning_rate": 3e-3,
    "gamma": 0.5,
    "target_update_interval": 2,
    "exploration_initial_eps": 0.3,
    "exploration_final_eps": 0.3,
    "imagined_epsilon": 0.3,
    "world_model": EnsembleSettings(members=3, elites=2, width=32, depth=1, max_updates=200),
}


def test_dreams_alone_teach_a_one_step_choice() -> None:
    agent = MBDQN(env=numbered(ActionRewardEnv), **DREAMS_ALONE).learn(300)
    obs = np.array([-0.9, -0.7, -0.2, 0.0, 0.2, 0.7, 0.9], np.float32)[:, None]
    assert agent.predict(obs, deterministic=True)[0].tolist() == [3, 3, 4, 4, 4, 5, 5]
    with torch.no_grad():
        values = agent.q_net(torch.as_tensor(obs))
    truth = -((torch.tensor([-1.0, 0.0, 1.0]) - torch.as_tensor(obs)) ** 2)
    assert float((values - truth).abs().mean()) < 0.15


def test_dreams_alone_teach_what_an_end_costs() -> None:
    agent = MBDQN(env=numbered(TerminationEnv), **DREAMS_ALONE).learn(300)
    with torch.no_grad():
        values = agent.q_net(torch.zeros(1, 1))[0]
    np.testing.assert_allclose(values, [2.0, 2.0, 1.0], atol=0.15)  # 1 / (1 - gamma), twice, and the end


def test_actions_are_the_environments_own_numbers() -> None:
    agent = MBDQN(env=numbered(ActionRewardEnv), **DREAMING).learn(120)
    obs = np.linspace(-1, 1, 50, dtype=np.float32)[:, None]
    greedy, _ = agent.predict(obs, deterministic=True)
    with torch.no_grad():
        np.testing.assert_array_equal(greedy - 3, agent.q_net(torch.as_tensor(obs)).argmax(dim=1))
    assert set(agent.replay_buffer.sample(200).actions.flatten().tolist()) == {3, 4, 5}


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"real_share": 1.5}, r"real_share must be in \[0, 1\], got 1.5"),
        ({"imagined_epsilon": -0.1}, r"imagined_epsilon must be in \[0, 1\], got -0.1"),
        ({"rollouts": 0}, "rollouts must be at least 1, got 0"),
        ({"n_steps": 3}, "n_steps=3"),
        ({"policy": DQNPolicy}, "got DQNPolicy"),
        ({"optimize_memory_usage": True}, "optimize_memory_usage=True"),
    ],
)
def test_settings_that_make_no_sense_are_refused_in_a_sentence(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        MBDQN(env="CartPole-v1", **{**DQN_TINY, **wrong})


@pytest.mark.parametrize("make", [lambda: "Pendulum-v1", lambda: gym.make("Pendulum-v1")])
def test_continuous_actions_are_sent_to_mbpo(make: Callable[[], Any]) -> None:
    with pytest.raises(UserError, match=r"Discrete actions are needed, got Box\(-2.0, 2.0.*: MBPO takes a Box"):
        MBDQN(env=make())
