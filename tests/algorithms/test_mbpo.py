"""Laws of MBPO; that it learns is shown in tests/benchmarks/learning.py."""

import copy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from stable_baselines3.sac.policies import SACPolicy

from dyna.actor_critic import StackedSACPolicy
from dyna.algorithms.mbpo import MBPO
from dyna.buffers import PackedReplayBuffer
from dyna.errors import UserError
from dyna.world_model import EnsembleSettings
from tests.probes import ActionRewardEnv

TINY: dict[str, Any] = {
    "seed": 4,
    "device": "cpu",
    "learning_starts": 60,
    "batch_size": 32,
    "policy_kwargs": {"net_arch": [16, 16]},
}
DREAMING: dict[str, Any] = {
    **TINY,
    "gradient_steps": 2,
    "model_every": 50,
    "rollouts": 2,
    "horizon": 3,
    "world_model": EnsembleSettings(members=3, elites=2, width=16, depth=1, max_updates=25, target="delta"),
}


def weights(agent: SAC) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in agent.policy.state_dict().items()}


@pytest.fixture(scope="module")
def dreamer() -> MBPO:
    return MBPO(env=gym.make("Pendulum-v1"), **DREAMING).learn(250)


@pytest.mark.parametrize("only_real", [{"real_share": 1.0}, {"truncate": "reject_all"}])
def test_without_dreams_it_is_sac(only_real: dict[str, Any]) -> None:
    sac = SAC(StackedSACPolicy, gym.make("Pendulum-v1"), replay_buffer_class=PackedReplayBuffer, **TINY).learn(160)
    mbpo = MBPO(env=gym.make("Pendulum-v1"), gradient_steps=1, **only_real, **TINY).learn(160)
    assert mbpo.updates["critic"] == 100 and mbpo.updates["model"] == 0
    theirs = weights(sac)
    for name, value in weights(mbpo).items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-2, atol=1e-4, msg=name)
    assert len(mbpo.replay_buffer) == 160
    np.testing.assert_allclose(mbpo.replay_buffer.actions, sac.replay_buffer.actions, atol=1e-3)


def test_real_share_one_never_reads_dreams(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = MBPO(env=gym.make("Pendulum-v1"), **{**DREAMING, "real_share": 1.0})
    monkeypatch.setattr(agent.imagined, "fill", lambda *args: pytest.fail("a dream was read"))
    monkeypatch.setattr(agent, "fit_world_model", lambda: pytest.fail("a model was fitted for nothing"))
    agent.learn(80)


def test_the_model_is_fitted_on_schedule_and_old_dreams_are_dropped(dreamer: MBPO) -> None:
    assert dreamer.world_model.version == 4  # at steps 61, 111, 161 and 211
    versions = dreamer.imagined.sample(500).version
    assert set(versions.tolist()) == {3, 4}
    assert dreamer.updates["actor"] == dreamer.updates["critic"] == 2 * 190
    assert dreamer.updates["model"] > 0
    assert dreamer.world_model_metrics["rows"] == 211


def test_two_runs_with_one_seed_are_the_same(dreamer: MBPO) -> None:
    again = MBPO(env=gym.make("Pendulum-v1"), **DREAMING).learn(250)
    for name, value in weights(again).items():
        assert torch.equal(value, weights(dreamer)[name]), name
    for name, value in again.world_model.state_dict().items():
        assert torch.equal(value, dreamer.world_model.state_dict()[name]), name


def test_a_saved_agent_acts_and_predicts_the_same(dreamer: MBPO, tmp_path: Path) -> None:
    dreamer.save(tmp_path / "agent.zip")
    loaded = MBPO.load(tmp_path / "agent.zip", env=gym.make("Pendulum-v1"), device="cpu")
    obs = np.array([[0.1, 0.9, -0.5], [-1.0, 0.0, 2.0]], np.float32)
    np.testing.assert_array_equal(
        loaded.predict(obs, deterministic=True)[0], dreamer.predict(obs, deterministic=True)[0]
    )
    assert loaded.world_model.version == 4
    action = torch.zeros(2, 1)
    for mine, theirs in zip(
        loaded.world_model.predict(torch.as_tensor(obs), action),
        dreamer.world_model.predict(torch.as_tensor(obs), action),
        strict=True,
    ):
        assert torch.equal(mine, theirs)
    loaded.learn(70, reset_num_timesteps=False)


def test_extra_state_continues_bit_for_bit() -> None:
    agent, twin = (MBPO(env=gym.make("Pendulum-v1"), **DREAMING) for _ in range(2))
    agent.learn(150)
    twin.set_logger(agent.logger)
    twin.set_parameters(copy.deepcopy(agent.get_parameters()))  # torch shares an optimiser's moments otherwise
    twin.log_ent_coef.data.copy_(agent.log_ent_coef.data)
    twin.replay_buffer.load_state_dict(agent.replay_buffer.state_dict())
    twin.load_extra_state(agent.extra_state())
    twin.num_timesteps, twin._current_progress_remaining = 161, agent._current_progress_remaining
    agent.num_timesteps = 161  # a fit is due
    for each in (agent, twin):
        torch.manual_seed(9)
        each.train(5, 32)
    assert twin.updates == agent.updates and agent.world_model.version == 3
    for name, value in weights(agent).items():
        assert torch.equal(value, weights(twin)[name]), name
    for name, value in agent.world_model.state_dict().items():
        assert torch.equal(value, twin.world_model.state_dict()[name]), name


def test_dreams_alone_teach_a_one_step_choice() -> None:
    agent = MBPO(
        env=ActionRewardEnv(),
        **{
            **DREAMING,
            "gradient_steps": 10,
            "real_share": 0.0,
            "learning_rate": 3e-3,
            "gamma": 0.5,
            "world_model": EnsembleSettings(members=3, elites=2, width=32, depth=1, max_updates=200),
        },
    ).learn(300)
    obs = np.linspace(-0.8, 0.8, 9, dtype=np.float32)[:, None]
    assert np.abs(agent.predict(obs, deterministic=True)[0] - obs).mean() < 0.15


def test_an_exact_reward_is_used_in_dreams() -> None:
    def reward(obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
        angle = torch.atan2(obs[:, 1], obs[:, 0])
        return -(angle**2 + 0.1 * obs[:, 2] ** 2 + 0.001 * (2 * action[:, 0]) ** 2)

    agent = MBPO(env=gym.make("Pendulum-v1"), reward_fn=reward, **DREAMING).learn(100)
    rows = agent.imagined.sample(100)
    torch.testing.assert_close(rows.reward, reward(rows.obs, rows.action, rows.next_obs))


def test_a_second_call_of_learn_goes_on_dreaming() -> None:
    agent = MBPO(env=gym.make("Pendulum-v1"), **DREAMING).learn(120)
    version = agent.world_model.version
    agent.learn(170)  # counted from zero: fits at steps 61, 111 and 161
    assert agent.world_model.version == version + 3


def test_a_second_call_of_learn_fits_as_long_after_the_last_fit_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = MBPO(env=gym.make("Pendulum-v1"), **DREAMING).learn(70)  # fitted at step 61
    fit, fitted_at = agent.fit_world_model, []
    monkeypatch.setattr(agent, "fit_world_model", lambda: (fitted_at.append(agent.num_timesteps), fit()))
    agent.learn(120)
    assert fitted_at == [61, 111], "learning begins anew after as many random steps"


def test_a_replay_buffer_of_other_environments_is_refused(tmp_path: Path) -> None:
    agent = MBPO(env=make_vec_env("Pendulum-v1", 2), **DREAMING).learn(80)
    agent.save_replay_buffer(tmp_path / "replay.pkl")
    other = MBPO(env=gym.make("Pendulum-v1"), **DREAMING)
    with pytest.raises(UserError, match=r"replay.pkl holds steps of .* \(2, 3, 1\), the agent has \(1, 3, 1\): give"):
        other.load_replay_buffer(tmp_path / "replay.pkl")
    other.learn(70)
    assert len(other.replay_buffer) == 70, "its own is what it was"


def test_a_loaded_agent_learns_on_as_its_new_seed_says(dreamer: MBPO, tmp_path: Path) -> None:
    dreamer.save(tmp_path / "agent.zip")

    def learned_on(seed: int) -> dict[str, torch.Tensor]:
        agent = MBPO.load(tmp_path / "agent.zip", env=gym.make("Pendulum-v1"), device="cpu")
        agent.set_random_seed(seed)
        return weights(agent.learn(120))

    first, again, other = learned_on(7), learned_on(7), learned_on(8)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_a_loaded_replay_buffer_is_learned_from(tmp_path: Path) -> None:
    agent = MBPO(env=gym.make("Pendulum-v1"), **DREAMING).learn(100)
    agent.save(tmp_path / "agent.zip")
    agent.save_replay_buffer(tmp_path / "replay.pkl")
    loaded = MBPO.load(tmp_path / "agent.zip", env=gym.make("Pendulum-v1"), device="cpu")
    assert loaded.updates == agent.updates
    loaded.load_replay_buffer(tmp_path / "replay.pkl")
    loaded.learn(30, reset_num_timesteps=False)
    assert loaded.replay.real is loaded.replay_buffer
    assert len(loaded.replay_buffer) == 130


def test_no_model_is_fitted_before_there_is_something_to_learn_from() -> None:
    agent = MBPO(env=gym.make("Pendulum-v1"), **{**DREAMING, "learning_starts": 0}).learn(15)
    assert agent.world_model.version == 0 and agent.updates["critic"] > 0


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"real_share": 1.5}, r"real_share must be in \[0, 1\], got 1.5"),
        ({"model_every": 0}, "model_every must be at least 1, got 0"),
        ({"horizon": 0}, "a horizon must be at least 1, got 0"),
        ({"horizon": [1, 5]}, r"horizon must be a number or \[from, to, first step, last step\], got \[1, 5\]"),
        ({"truncate": "infoprob"}, "the nearest is 'infoprop'"),
        ({"n_steps": 3}, "n_steps=3"),
        ({"gradient_steps": 0}, "MBPO learns nothing without updates, got gradient_steps=0: leave it out"),
        (
            {"truncate": "infoprop", "world_model": EnsembleSettings(elites=1)},
            "truncate=Infoprop compares the members .*: world_model.elites must be at least 2, got 1",
        ),
        ({"world_model": EnsembleSettings(leave_out=True)}, "world_model.leave_out must be false, got true"),
        ({"use_sde": True}, "use_sde=True"),
        ({"policy": SACPolicy}, "got SACPolicy"),
        ({"optimize_memory_usage": True}, "optimize_memory_usage=True"),
    ],
)
def test_settings_that_make_no_sense_are_refused_in_a_sentence(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        MBPO(env=gym.make("Pendulum-v1"), **{**TINY, **wrong})


def test_tensorboards_folder_bears_the_name_of_the_class(tmp_path: Path) -> None:
    agent = MBPO(env=gym.make("Pendulum-v1"), tensorboard_log=str(tmp_path), **TINY)
    agent.learn(1)
    agent.learn(1, tb_log_name="mine")
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["MBPO_1", "mine_1"]


class GridEnv(gym.Env[np.ndarray, np.ndarray]):
    observation_space = spaces.Box(-1, 1, (2, 2))
    action_space = spaces.Box(-1, 1, (1,))


def test_environments_that_do_not_fit_are_refused_in_a_sentence() -> None:
    with pytest.raises(UserError, match="dyna.spaces.learnable"):
        MBPO("MlpPolicy", GridEnv())
    with pytest.raises(UserError, match=r"Box actions are needed, got Discrete\(2\): MBDQN takes Discrete ones"):
        MBPO(env="CartPole-v1")
    with pytest.raises(UserError, match="VecNormalize"):
        MBPO("MlpPolicy", VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")])))
