"""Replay of real transitions: SB3's buffer as packed rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from dyna import kernels
from dyna.errors import UserError
from dyna.rows import RowStore, new_batch, new_stream, to_device
from dyna.segments import Segments
from dyna.types import Transitions

EXACT = 2**24  # whole numbers up to here are exact in float32


class PackedReplayBuffer(ReplayBuffer):
    """SB3's replay buffer as one float32 row a transition, gathered by a compiled kernel.

    Everything that SB3 does with a replay buffer works; float64 observations come back as float32. Row i holds step
    i // n_envs of environment i % n_envs. Every batch is memory of its own: the next one does not change it.

    :param buffer_size: Transitions that it holds at most, over all environments.
    :param observation_space: Any space but Dict and Tuple.
    :param action_space: The actions' space. A discrete action is stored one-hot: SB3's batches hold its number again.
    :param device: Where batches go.
    :param n_envs: Parallel environments.
    :param optimize_memory_usage: Refused: it would lose the final observations of episodes.
    :param handle_timeout_termination: Take `infos[i]["TimeLimit.truncated"]` as the end of an episode, not of the task.
    :param rng: Source of the generator's seed; None is NumPy's global generator, which SB3's `set_random_seed` seeds.
    :raises UserError: for what cannot be stored: Dict observations, integers that float32 does not hold exactly.
    """

    # what `_allocate` makes anew after unpickling
    _rebuilt = frozenset(
        ("observations", "next_observations", "actions", "rewards", "timeouts", "_terminated", "_store", "_random")
    )

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: torch.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        rng: np.random.Generator | None = None,
    ) -> None:
        name = type(self).__name__
        if isinstance(observation_space, (spaces.Dict, spaces.Tuple)):
            raise UserError(
                f"{name} stores flat observations, got {observation_space}: wrap the environment in "
                "dyna.spaces.learnable"
            )
        if optimize_memory_usage:
            raise UserError(f"{name} keeps final observations, got optimize_memory_usage=True: leave it out")
        for space in (observation_space, action_space):
            _refuse_inexact(name, space)
        # not ReplayBuffer's own constructor, which would allocate SB3's arrays
        super(ReplayBuffer, self).__init__(buffer_size, observation_space, action_space, device, n_envs=n_envs)
        self.buffer_size = max(buffer_size // n_envs, 1)
        self.optimize_memory_usage = False
        self.handle_timeout_termination = handle_timeout_termination
        self.reseed(rng)
        self._allocate()

    def reseed(self, rng: np.random.Generator | None) -> None:
        """Draw from now on what follows from a generator; None is NumPy's global one."""
        self._random = new_stream(rng)

    def __len__(self) -> int:
        """Rows stored, over all environments; SB3's `size()` counts steps."""
        return (self.buffer_size if self.full else self.pos) * self.n_envs

    def add(
        self,
        obs: np.ndarray,
        next_obs: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """Store one step of every environment: obs, next_obs [n_envs, *obs_shape], action [n_envs, A]."""
        pos = self.pos
        if self._discrete_obs:
            obs, next_obs = obs.reshape(self.n_envs, 1), next_obs.reshape(self.n_envs, 1)
        self.observations[pos] = obs
        self.next_observations[pos] = next_obs
        if self._discrete_action is None:
            self.actions[pos] = action.reshape(self.n_envs, self.action_dim)
        else:
            self.actions[pos] = 0.0
            self.actions[pos, range(self.n_envs), action.reshape(-1) - self._discrete_action.start] = 1.0
        self.rewards[pos] = reward
        self._terminated[pos] = done
        self.timeouts[pos] = 0.0
        if self.handle_timeout_termination:
            for i, info in enumerate(infos):
                if info.get("TimeLimit.truncated", False):
                    # timeouts bootstrap: Pardo et al. 2018
                    self.timeouts[pos, i], self._terminated[pos, i] = 1.0, 0.0
        self.pos += 1
        if self.pos == self.buffer_size:
            self.full, self.pos = True, 0

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """SB3's batch, uniform with replacement; normalised as `env` does. Raises UserError while empty."""
        batch = new_batch(batch_size, *self.row_sizes, column=True)
        self.fill(batch, 0, batch_size)
        return self.as_samples(batch, env)

    def samples_at(self, rows: kernels.Indices, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """SB3's batch of the given rows [B]; raises IndexError for one that is not stored."""
        return self.as_samples(self._gather(rows, column=True), env)

    def sample_transitions(self, n: int, *, replace: bool = True) -> Transitions:
        """[n, .] in the environment's units, uniform; without replacement no row comes twice."""
        if not replace:
            return to_device(self._gather(self.draw_rows(n, replace=False)), self.device)
        batch = new_batch(n, *self.row_sizes)
        self.fill(batch, 0, n)
        return to_device(batch, self.device)

    def sample_obs(self, n: int) -> Tensor:
        """[n, S] observations, uniform with replacement."""
        return self.sample_transitions(n).obs

    def sample_sequences(self, n: int, length: int) -> Transitions:
        """[n, length, .] successive steps of one environment, uniform over all that stay inside one episode.

        Raises UserError where no stored episode has `length` steps.
        """
        self._refuse_empty()
        ring = length, self._oldest, len(self), self.n_envs, *self.row_sizes
        starts = kernels.draw_starts(self._store.rows, self._random, n, *ring)
        if len(starts) < n:  # such sequences are rare, if there are any
            found = kernels.all_starts(self._store.rows, *ring)
            if not len(found):
                raise UserError(f"no stored episode has {length} steps: choose shorter sequences or collect more")
            starts = found[kernels.draw(self._random, n, len(found))]
        rows = (starts[:, None] + self.n_envs * np.arange(length)) % self._store.capacity
        batch = self.gather(rows.reshape(-1))
        return Transitions(*(part.view(n, length, *part.shape[1:]) for part in batch))

    def segments(self, ages: Tensor, length: int) -> Segments:
        """`length` steps from each of the rows on that were added so many rows ago [n], as far as its episode goes.

        Raises IndexError for a row that is not stored.
        """
        capacity, newest = self._store.capacity, (self.pos - 1) % self.buffer_size * self.n_envs
        past = ages.cpu().numpy()
        if not 0 <= past.min() <= past.max() < len(self):
            raise IndexError(f"rows of ages {past.min()} to {past.max()} were asked for, {len(self)} rows are stored")
        rows = (newest + self.n_envs - 1 - past) % capacity
        _, _, known = kernels.n_step_windows(self._store.rows, rows, length, newest, self.n_envs, *self.row_sizes)
        steps = np.arange(length)[:, None]
        found = self.gather((rows + self.n_envs * np.minimum(steps, known - 1)).reshape(-1) % capacity)
        obs, action, next_obs = (part.view(length, len(rows), -1) for part in (found.obs, found.action, found.next_obs))
        return Segments(obs, action, next_obs, torch.as_tensor(steps < known, device=obs.device))

    def all_transitions(self) -> Transitions:
        """Everything stored, oldest to newest."""
        return self.gather((self._oldest + np.arange(len(self))) % self._store.capacity)

    def gather(self, rows: kernels.Indices) -> Transitions:
        """The given rows [B] in the environment's units; raises IndexError for one that is not stored."""
        return to_device(self._gather(rows), self.device)

    def draw_rows(self, n: int, *, replace: bool = True) -> kernels.Indices:
        """[n] uniform rows; without replacement, raises UserError where n is more than there are."""
        self._refuse_empty()
        if replace:
            return kernels.draw(self._random, n, len(self))
        if n > len(self):
            raise UserError(f"cannot draw {n} different rows of {len(self)}: draw fewer, or with replacement")
        return kernels.draw_distinct(self._random, n, len(self))

    def fill(self, batch: Transitions, at: int, n: int) -> None:
        """Draw n rows into rows at, at + 1, ... of a batch on the CPU (see `rows.new_batch`)."""
        filled = len(self)
        if filled == 0:
            self._refuse_empty()
        self._store.fill_uniform(batch, at, n, self._random, 0, filled)

    def fill_from_newest(self, batch: Transitions, at: int, n: int, newest: int) -> None:
        """As `fill`, but uniformly from so many rows that were added last, at least one."""
        self._refuse_empty()
        among = min(max(newest, 1), len(self))
        first = (self._oldest + len(self) - among) % self._store.capacity
        self._store.fill_uniform(batch, at, n, self._random, first, among)

    def as_samples(self, batch: Transitions, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """A batch on the CPU as SB3 hands it out: normalised, in the spaces' shapes and types, on the device."""
        obs, action, reward, next_obs, terminated = batch
        if self._plain and env is None and self.device.type == "cpu":
            return ReplayBufferSamples(obs, action, next_obs, terminated, reward)
        if not self._plain:
            shape = (len(obs), *self.obs_shape)
            obs, next_obs = obs.view(shape).to(self._obs_dtype), next_obs.view(shape).to(self._obs_dtype)
            if self._discrete_action is not None:
                action = action.argmax(dim=1, keepdim=True) + self._discrete_action.start
            action = action.to(self._action_dtype)
        if env is not None:
            obs, next_obs = (torch.as_tensor(self._normalize_obs(part.numpy(), env)) for part in (obs, next_obs))
            reward = torch.as_tensor(self._normalize_reward(reward.numpy(), env))
        return ReplayBufferSamples(*(part.to(self.device) for part in (obs, action, next_obs, terminated, reward)))

    def state_dict(self) -> dict[str, Any]:
        """Rows and generator; `rows` is a view of the store, so write or copy it before the next step is added."""
        return {
            "rows": self._store.rows[: len(self)],
            "pos": self.pos,
            "full": self.full,
            "buffer_size": self.buffer_size,
            "n_envs": self.n_envs,
            "random": int(self._random[0]),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; raises UserError for a buffer of another size."""
        mine = self.buffer_size, self.n_envs, self._store.rows.shape[1]
        saved = state["buffer_size"], state["n_envs"], state["rows"].shape[1]
        if mine != saved:
            raise UserError(
                f"the saved replay has (steps, environments, width) {saved}, this one {mine}: use the run's settings"
            )
        self.reset()
        self._store.rows[: len(state["rows"])] = state["rows"]
        self.pos, self.full = state["pos"], state["full"]
        self._random[0] = state["random"]

    @property
    def dones(self) -> np.ndarray:  # type: ignore[override]
        """[steps, n_envs] float: 1 where an episode ended for either reason (a copy)."""
        ended: np.ndarray = np.maximum(self._terminated, self.timeouts)
        return ended

    @property
    def _oldest(self) -> int:
        return self.pos * self.n_envs if self.full else 0

    def _allocate(self) -> None:
        steps, n = self.buffer_size, self.n_envs
        self._discrete_action = self.action_space if isinstance(self.action_space, spaces.Discrete) else None
        action_size = self.action_dim if self._discrete_action is None else int(self._discrete_action.n)
        self.row_sizes = math.prod(self.obs_shape), action_size  # S, A: floats in an observation and an action
        self._store = store = RowStore(steps * n, *self.row_sizes)
        self.observations = store.obs.reshape(steps, n, *self.obs_shape)
        self.next_observations = store.next_obs.reshape(steps, n, *self.obs_shape)
        self.actions = store.action.reshape(steps, n, action_size)
        self.rewards = store.reward.reshape(steps, n)
        self.timeouts = store.truncated.reshape(steps, n)
        self._terminated = store.terminated.reshape(steps, n)
        self._discrete_obs = isinstance(self.observation_space, spaces.Discrete)
        self._obs_dtype, self._action_dtype = _dtype(self.observation_space), _dtype(self.action_space)
        floats = self._obs_dtype is torch.float32 and self._action_dtype is torch.float32
        self._plain = floats and len(self.obs_shape) == 1

    def _get_samples(self, batch_inds: np.ndarray, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """SB3's batch of the given steps [B], of a random environment each."""
        rows = np.asarray(batch_inds, np.int64) * self.n_envs
        if self.n_envs > 1:
            rows += kernels.draw(self._random, len(rows), self.n_envs)
        return self.samples_at(rows, env)

    def _gather(self, rows: kernels.Indices, *, column: bool = False) -> Transitions:
        rows = np.ascontiguousarray(rows, np.int64)
        if rows.size and not 0 <= int(rows.min()) <= int(rows.max()) < len(self):
            raise IndexError(f"rows {rows.min()} to {rows.max()} were asked for, 0 to {len(self) - 1} are stored")
        batch = new_batch(len(rows), *self.row_sizes, column=column)
        self._store.fill(batch, 0, rows)
        return batch

    def _refuse_empty(self) -> None:
        if not (self.pos or self.full):
            raise UserError("the replay buffer is empty: add a step before sampling from it")

    def __getstate__(self) -> dict[str, Any]:
        """What a pickle holds: only the rows that are filled, once."""
        kept = {name: value for name, value in vars(self).items() if name not in self._rebuilt}
        return kept | {"saved": self.state_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        saved = state.pop("saved")
        vars(self).update(state)
        self._random = np.zeros(1, np.uint64)
        self._allocate()
        self.load_state_dict(saved)


def _dtype(space: spaces.Space[Any]) -> torch.dtype:
    """The type in which SB3 hands a space's values out; float32 for every float."""
    if space.dtype is None or np.issubdtype(space.dtype, np.floating):
        return torch.float32
    return torch.from_numpy(np.empty(0, space.dtype)).dtype


def _refuse_inexact(name: str, space: spaces.Space[Any]) -> None:
    largest = 0
    if isinstance(space, spaces.Discrete):
        largest = int(space.start + space.n)
    elif isinstance(space, spaces.MultiDiscrete):
        largest = int(space.nvec.max())
    elif isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.integer):
        largest = max(abs(int(space.low.min())), abs(int(space.high.max())))
    if largest > EXACT:
        raise UserError(f"{name} holds whole numbers up to {EXACT:,} exactly, {space} goes to {largest:,}: rescale it")
