"""The packed buffer is SB3's replay buffer: the same rows give the same batches and the same learning."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import textwrap
from typing import Any
from unittest import mock

import gymnasium as gym
import numpy as np
import psutil
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from dyna import kernels
from dyna.buffers import PackedNStepReplayBuffer, PackedReplayBuffer, PrioritizedReplayBuffer
from dyna.errors import UserError
from dyna.rows import new_stream

OBS, ACTION = spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (2,))


class SB3Buffer(ReplayBuffer):
    """SB3's buffer, asked for the rows that a packed buffer with the same seed draws."""

    def __init__(self, *args: Any, rng: np.random.Generator, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stream = new_stream(rng)

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        return sb3_samples(self, kernels.draw(self.stream, batch_size, self.size() * self.n_envs), env)


def sb3_samples(buffer: ReplayBuffer, rows: np.ndarray, env: VecNormalize | None = None) -> ReplayBufferSamples:
    steps, envs = np.divmod(rows, buffer.n_envs)
    with mock.patch("numpy.random.randint", return_value=envs):  # SB3 draws the environments in _get_samples
        return buffer._get_samples(steps, env)


def same(a: ReplayBufferSamples, b: ReplayBufferSamples) -> None:
    for name, x, y in zip(a._fields, a, b, strict=True):
        if x is None or y is None:
            assert x is y, name
        else:
            assert (x.dtype, x.shape) == (y.dtype, y.shape), name
            assert torch.equal(x, y), name


def learned(cls: type[BaseAlgorithm], buffer: type[ReplayBuffer], env: Any, **settings: Any) -> dict[str, Tensor]:
    model = cls(
        "MlpPolicy",
        env,
        learning_starts=20,
        batch_size=16,
        policy_kwargs={"net_arch": [16]},
        replay_buffer_class=buffer,
        replay_buffer_kwargs={"rng": np.random.default_rng(5)},
        seed=3,
        device="cpu",
        **settings,
    )
    model.learn(80)
    return {name: value.clone() for name, value in model.policy.state_dict().items()}


def assert_identical_learning(cls: type[BaseAlgorithm], make_env: Any, **settings: Any) -> None:
    ours = learned(cls, PackedReplayBuffer, make_env(), **settings)
    theirs = learned(cls, SB3Buffer, make_env(), **settings)
    before = cls("MlpPolicy", make_env(), policy_kwargs={"net_arch": [16]}, seed=3, device="cpu").policy.state_dict()
    assert any(not torch.equal(ours[name], before[name]) for name in ours)  # something was learned
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


@pytest.mark.parametrize("n_envs", [1, 3])
def test_sac_learns_the_same_on_both_buffers(n_envs: int) -> None:
    # 60 rows: the ring wraps
    assert_identical_learning(SAC, lambda: make_vec_env("Pendulum-v1", n_envs, seed=1), buffer_size=60)


def test_sac_with_vec_normalize_learns_the_same_on_both_buffers() -> None:
    assert_identical_learning(SAC, lambda: VecNormalize(make_vec_env("Pendulum-v1", 2, seed=1)))


def test_dqn_with_discrete_actions_learns_the_same_on_both_buffers() -> None:
    assert_identical_learning(DQN, lambda: make_vec_env("CartPole-v1", 2, seed=1), train_freq=1)


def test_dqn_with_discrete_observations_learns_the_same_on_both_buffers() -> None:
    assert_identical_learning(DQN, lambda: make_vec_env("FrozenLake-v1", 2, seed=1), train_freq=1)


SPACES: dict[str, tuple[spaces.Space[Any], spaces.Space[Any]]] = {
    "box": (OBS, ACTION),
    "float64": (spaces.Box(-np.inf, np.inf, (3,), np.float64), spaces.Box(-1, 1, (2,), np.float64)),
    "image": (spaces.Box(0, 255, (2, 3, 4), np.uint8), spaces.Discrete(5)),
    "discrete": (spaces.Discrete(7), spaces.Discrete(5)),
    "discrete from 3": (OBS, spaces.Discrete(4, start=3)),
    "multi": (spaces.MultiDiscrete([3, 4]), spaces.MultiDiscrete([2, 5])),
    "binary": (spaces.MultiBinary(4), spaces.MultiBinary(2)),
}


def play(buffers: list[ReplayBuffer], steps: int, seed: int = 0) -> None:
    """Random episodes: successive observations meet, ends of both kinds come at random."""
    rng = np.random.default_rng(seed)
    first, n = buffers[0], buffers[0].n_envs
    first.observation_space.seed(seed), first.action_space.seed(seed)

    def draw(space: spaces.Space[Any]) -> np.ndarray:
        return np.stack([np.asarray(space.sample()) for _ in range(n)])

    obs = draw(first.observation_space)
    for _ in range(steps):
        next_obs, action, reward = draw(first.observation_space), draw(first.action_space), rng.normal(size=n)
        done = rng.random(n) < 0.3
        infos = [{"TimeLimit.truncated": bool(ended and rng.random() < 0.5)} for ended in done]
        for buffer in buffers:
            buffer.add(obs, next_obs, action, reward, done, infos)
        after = draw(first.observation_space)
        obs = np.where(done.reshape(-1, *[1] * (obs.ndim - 1)), after, next_obs)


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("kind", SPACES)
def test_the_same_rows_give_sb3s_batch(kind: str, n_envs: int) -> None:
    settings = {"device": "cpu", "n_envs": n_envs}
    ours, theirs = PackedReplayBuffer(40, *SPACES[kind], **settings), ReplayBuffer(40, *SPACES[kind], **settings)
    play([ours, theirs], 50)
    rows = np.random.default_rng(1).integers(0, len(ours), 64)
    expected = sb3_samples(theirs, rows)
    if kind == "float64":  # rows are float32, and so are the batches; policies cast to it in any case
        expected = ReplayBufferSamples(*(part.float() for part in expected[:5]))
    same(ours.samples_at(rows), expected)


@pytest.mark.parametrize("n_envs", [1, 3])
def test_a_discrete_action_is_one_hot_in_the_units_of_world_models(n_envs: int) -> None:
    buffer = PackedReplayBuffer(12, *SPACES["discrete from 3"], device="cpu", n_envs=n_envs)
    play([buffer], 15)  # the ring wraps
    rows = np.arange(len(buffer))
    numbers = buffer.samples_at(rows).actions[:, 0] - 3
    assert torch.equal(buffer.gather(rows).action, torch.nn.functional.one_hot(numbers, 4).float())


def test_a_step_stands_for_all_its_environments_alike() -> None:
    buffer = PackedReplayBuffer(12, OBS, ACTION, n_envs=3, device="cpu", rng=np.random.default_rng(0))
    play([buffer], 4)
    rewards = buffer._get_samples(np.full(3_000, 2)).rewards
    counts = [int((rewards == reward).sum()) for reward in buffer.rewards[2].tolist()]
    assert sum(counts) == 3_000 and all(abs(count - 1_000) < 130 for count in counts)


@pytest.mark.parametrize("norm_reward", [True, False])
def test_the_same_rows_give_sb3s_normalised_batch(norm_reward: bool) -> None:
    env = VecNormalize(make_vec_env("Pendulum-v1", 2, seed=0), norm_reward=norm_reward)
    env.reset()
    for _ in range(20):
        env.step(np.stack([env.action_space.sample() for _ in range(2)]))
    box = env.observation_space, env.action_space
    ours, theirs = (cls(40, *box, device="cpu", n_envs=2) for cls in (PackedReplayBuffer, ReplayBuffer))
    play([ours, theirs], 20)
    rows = np.arange(len(ours))
    same(ours.samples_at(rows, env), sb3_samples(theirs, rows, env))
    assert torch.equal(ours.gather(rows).obs, ours.samples_at(rows).observations)  # the rows themselves stay raw


@pytest.mark.parametrize("handle", [True, False])
def test_only_terminated_steps_are_done(handle: bool) -> None:
    buffer = PackedReplayBuffer(3, OBS, ACTION, n_envs=3, device="cpu", handle_timeout_termination=handle)
    zeros, infos = np.zeros((3, 3)), [{"TimeLimit.truncated": True}, {"TimeLimit.truncated": False}, {}]
    for done, info in ((~np.eye(3, dtype=bool)[2], infos), (np.eye(3, dtype=bool)[2], [{}, {}, {}])):
        buffer.add(zeros, zeros, np.zeros((3, 2)), np.zeros(3), done, info)  # one step fits: no flag stays behind
        timeout = np.array([handle and one.get("TimeLimit.truncated", False) for one in info])
        rows = np.arange(3)
        np.testing.assert_array_equal(buffer.gather(rows).terminated, done & ~timeout)
        np.testing.assert_array_equal(buffer.samples_at(rows).dones[:, 0], done & ~timeout)
        np.testing.assert_array_equal(buffer.timeouts[0], timeout)
        np.testing.assert_array_equal(buffer.dones[0], done)


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("steps", [7, 30])
def test_the_same_rows_give_sb3s_n_step_batch(n_envs: int, steps: int) -> None:
    settings = {"device": "cpu", "n_envs": n_envs, "n_steps": 4, "gamma": 0.9}
    ours, theirs = (cls(30, OBS, ACTION, **settings) for cls in (PackedNStepReplayBuffer, NStepReplayBuffer))
    play([ours, theirs], steps)
    rows = np.arange(len(ours))
    a, b = ours.samples_at(rows), sb3_samples(theirs, rows)
    assert a.discounts is not None and len(a.discounts.unique()) > 2
    for name in a._fields:
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=1e-6, atol=1e-6, msg=name)


def test_sb3_learns_from_n_step_batches() -> None:
    kwargs = {"n_steps": 3, "gamma": 0.9}
    model = SAC(
        "MlpPolicy",
        "Pendulum-v1",
        learning_starts=10,
        policy_kwargs={"net_arch": [8]},
        replay_buffer_class=PackedNStepReplayBuffer,
        replay_buffer_kwargs=kwargs,
        device="cpu",
    ).learn(20)
    discounts = model.replay_buffer.sample(64).discounts
    assert discounts is not None and set(discounts.flatten().tolist()) <= {np.float32(0.9) ** k for k in (1, 2, 3)}


def filled(cls: type[PackedReplayBuffer] = PackedReplayBuffer, steps: int = 30, **settings: Any) -> PackedReplayBuffer:
    buffer = cls(20, OBS, ACTION, device="cpu", rng=np.random.default_rng(2), **settings)
    play([buffer], steps)
    return buffer


def test_a_held_batch_never_changes() -> None:
    buffer = filled()
    held = [buffer.sample(8), buffer.sample_transitions(8), buffer.all_transitions(), buffer.sample_sequences(4, 2)]
    before = copy.deepcopy(held)
    buffer.sample(8), buffer.sample_transitions(8), buffer.all_transitions(), buffer.sample_sequences(4, 2)
    play([buffer], 30, seed=9)
    for batch, copied in zip(held, before, strict=True):
        assert all(x is y or torch.equal(x, y) for x, y in zip(batch, copied, strict=True))


def test_a_buffer_holds_copies_of_what_was_added() -> None:
    buffer = PackedReplayBuffer(4, OBS, ACTION, device="cpu")
    obs = np.ones((1, 3), np.float32)
    buffer.add(obs, obs, np.ones((1, 2)), np.ones(1), np.zeros(1), [{}])
    obs[:] = 7.0
    assert buffer.sample(1).observations.max() == 1.0


def test_sb3s_arrays_are_views_of_the_rows() -> None:
    for kind in SPACES:
        buffer = PackedReplayBuffer(6, *SPACES[kind], n_envs=2, device="cpu")
        for view in (buffer.observations, buffer.next_observations, buffer.actions, buffer.rewards, buffer.timeouts):
            assert np.shares_memory(view, buffer._store.rows), kind


def test_the_seed_decides_the_draws() -> None:
    a, b = filled(), filled()
    first = a.sample(50)
    same(first, b.sample(50))
    assert not torch.equal(first.rewards, b.sample(50).rewards)


def test_numpys_global_seed_governs_a_buffer_without_generator() -> None:
    draws = []
    for seed in (3, 3, 4):
        np.random.seed(seed)
        buffer = PackedReplayBuffer(20, OBS, ACTION, device="cpu")
        play([buffer], 20)
        draws.append(buffer.draw_rows(20).tolist())
    assert draws[0] == draws[1] != draws[2]


def test_batches_are_float32_on_the_cpu_whatever_torch_defaults_to() -> None:
    expected = filled().sample_transitions(9)
    torch.set_default_dtype(torch.float64)
    try:
        batch = filled().sample_transitions(9)
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.device("meta"):
        on_meta = filled().sample_transitions(9)
    for parts in zip(expected, batch, on_meta, strict=True):
        assert all(torch.equal(parts[0], part) for part in parts)


@pytest.mark.parametrize("cls", [PackedReplayBuffer, PackedNStepReplayBuffer, PrioritizedReplayBuffer])
@pytest.mark.parametrize("steps", [0, 7, 30])
@pytest.mark.parametrize("copied", ["pickle", "deepcopy", "state_dict"])
def test_a_copy_draws_the_same(cls: type[PackedReplayBuffer], steps: int, copied: str) -> None:
    buffer = filled(cls, steps)
    if isinstance(buffer, PrioritizedReplayBuffer) and steps:
        buffer.update_priorities(np.arange(4), np.arange(4.0))
    if copied == "pickle":
        other = pickle.loads(pickle.dumps(buffer))
    elif copied == "deepcopy":
        other = copy.deepcopy(buffer)
    else:
        other = filled(cls, 25)
        other.load_state_dict(copy.deepcopy(buffer.state_dict()))
    play([buffer, other], 5, seed=4)
    assert (len(buffer), buffer.pos, buffer.full) == (len(other), other.pos, other.full)
    for _ in range(3):
        same(buffer.sample(16), other.sample(16))
    assert all(torch.equal(x, y) for x, y in zip(buffer.all_transitions(), other.all_transitions(), strict=True))


def test_sb3_saves_and_loads_it(tmp_path: Any) -> None:
    model = SAC("MlpPolicy", "Pendulum-v1", buffer_size=10**6, replay_buffer_class=PackedReplayBuffer).learn(20)
    model.save_replay_buffer(tmp_path / "replay.pkl")
    assert (tmp_path / "replay.pkl").stat().st_size < 20_000  # the filled rows alone
    buffer, env = model.replay_buffer, model.get_env()
    model.load_replay_buffer(tmp_path / "replay.pkl")
    assert model.replay_buffer is not buffer and env is not None
    same(model.replay_buffer.sample(8), buffer.sample(8))


def test_a_million_half_cheetah_rows_take_at_most_200_mb_and_empty_ones_none() -> None:
    process = psutil.Process()
    before = process.memory_info().rss
    buffer = PackedReplayBuffer(10**6, spaces.Box(-1, 1, (17,), np.float64), spaces.Box(-1, 1, (6,)), device="cpu")
    play([buffer], 10)
    assert process.memory_info().rss - before < 20e6
    assert buffer._store.rows.nbytes <= 200e6 and len(buffer._store.rows) == 10**6
    assert buffer.state_dict()["rows"].nbytes < 10_000


def test_a_row_touches_as_few_cache_lines_as_it_can() -> None:
    for size in range(1, 70):
        rows = PackedReplayBuffer(3, spaces.Box(-1, 1, (size,)), ACTION, device="cpu")._store.rows
        width = 2 * size + 5
        starts = (rows.ctypes.data + rows.strides[0] * np.arange(3)) % 64
        touched = [(start + 4 * width - 1) // 64 + 1 for start in starts]
        assert max(touched) == -(-4 * width // 64)


MISUSES: dict[str, tuple[Any, str]] = {
    "dict": (lambda: PackedReplayBuffer(4, spaces.Dict({"a": OBS}), ACTION), "dyna.spaces.learnable"),
    "tuple": (lambda: PackedReplayBuffer(4, spaces.Tuple((OBS,)), ACTION), "dyna.spaces.learnable"),
    "memory": (lambda: PackedReplayBuffer(4, OBS, ACTION, optimize_memory_usage=True), "optimize_memory_usage"),
    "large": (lambda: PackedReplayBuffer(4, spaces.Discrete(2**24 + 1), ACTION), "16,777,217"),
    "box": (lambda: PackedReplayBuffer(4, spaces.Box(0, 2**30, (1,), np.int64), ACTION), "1,073,741,824"),
    "huge": (lambda: PackedReplayBuffer(2**50, OBS, ACTION), "buffer_size"),
    "empty": (lambda: PackedReplayBuffer(4, OBS, ACTION).sample(3), "empty"),
    "empty sequences": (lambda: PackedReplayBuffer(4, OBS, ACTION).sample_sequences(3, 1), "empty"),
    "empty by priority": (lambda: PrioritizedReplayBuffer(4, OBS, ACTION).sample_weighted(3), "empty"),
    "too many": (lambda: filled().sample_transitions(21, replace=False), "21"),
    "no sequence": (lambda: filled().sample_sequences(3, 21), "21 steps"),
    "n_steps": (lambda: PackedNStepReplayBuffer(4, OBS, ACTION, n_steps=0), "n_steps"),
    "alpha": (lambda: PrioritizedReplayBuffer(4, OBS, ACTION, alpha=-1.0), "alpha"),
    "state": (lambda: filled(n_envs=2).load_state_dict(filled().state_dict()), "settings"),
}


@pytest.mark.parametrize("misuse", MISUSES)
def test_a_misuse_is_refused_in_a_sentence(misuse: str) -> None:
    act, word = MISUSES[misuse]
    with pytest.raises(UserError, match=word):
        act()


@pytest.mark.parametrize("row", [-1, 20, 2**40])
def test_a_row_that_is_not_stored_is_refused(row: int) -> None:
    with pytest.raises(IndexError, match="0 to 19"):
        filled().gather(np.array([0, row]))


def test_kernels_work_where_no_folder_can_be_written() -> None:
    script = """
        from numba.core import caching

        def refuse(self):
            raise OSError("read-only")

        caching._CacheLocator.ensure_cache_path = refuse
        import numpy as np
        from dyna import kernels
        assert sorted(kernels.draw_distinct(np.array([1], np.uint64), 5, 5)) == [0, 1, 2, 3, 4]
    """
    subprocess.run([sys.executable, "-W", "error", "-c", textwrap.dedent(script)], check=True, env={**os.environ})


def test_environments_that_reset_between_two_calls_of_learn_are_kept_apart() -> None:
    model = SAC(
        "MlpPolicy",
        gym.make("Pendulum-v1"),
        learning_starts=1_000,
        replay_buffer_class=PackedReplayBuffer,
        device="cpu",
    )
    model.learn(6), model.learn(6)  # the second call resets the environment; no flag says so
    obs = model.replay_buffer.sample_sequences(200, 4).obs
    starts = {tuple(row) for row in obs[:, 0].tolist()}
    first = model.replay_buffer.all_transitions().obs
    assert starts == {tuple(first[i].tolist()) for i in (0, 1, 2, 6, 7, 8)}


def test_batches_go_to_the_device() -> None:
    buffer = filled()
    buffer.device = torch.device("meta")  # as SB3's load_replay_buffer sets it
    batches = [buffer.sample(8)[:5], buffer.sample_transitions(8), buffer.sample_sequences(4, 2)]
    assert all(part.device.type == "meta" for batch in batches for part in batch)
