"""Replay: real transitions (uniform, n-step, by priority), imagined ones, and their mixture."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from dyna import kernels
from dyna.errors import UserError
from dyna.imagined import ImaginedBuffer
from dyna.packed import PackedReplayBuffer
from dyna.rows import new_batch, to_device
from dyna.types import Transitions

__all__ = [
    "ImaginedBuffer",
    "MixedReplay",
    "PackedNStepReplayBuffer",
    "PackedReplayBuffer",
    "PrioritizedReplayBuffer",
    "PrioritizedSamples",
]


class PackedNStepReplayBuffer(PackedReplayBuffer):
    """As SB3's NStepReplayBuffer: batches hold n-step returns, and `discounts` for the value that follows them.

    A return ends early with its episode, at a reset that nothing announced, and at the newest step.
    `sample_transitions` still gives single steps.

    :param n_steps: Rewards that are summed.
    :param gamma: Their discount.
    """

    def __init__(self, *args: Any, n_steps: int = 3, gamma: float = 0.99, **kwargs: Any) -> None:
        if n_steps < 1:
            raise UserError(f"n_steps must be at least 1, got {n_steps}")
        super().__init__(*args, **kwargs)
        self.n_steps, self.gamma = n_steps, gamma

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """SB3's batch, uniform with replacement; raises UserError while empty."""
        return self.samples_at(self.draw_rows(batch_size), env)

    def samples_at(self, rows: kernels.Indices, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """SB3's batch of the n-step transitions that begin in the given rows [B]."""
        first = self.as_samples(self._gather(rows, column=True), env)
        newest = (self.pos - 1) % self.buffer_size * self.n_envs
        rewards, ends, lengths = kernels.n_step_windows(
            self._store.rows, np.ascontiguousarray(rows, np.int64), self.n_steps, newest, self.n_envs, *self.row_sizes
        )
        last = self.as_samples(self._gather(ends, column=True), env)
        powers = np.float32(self.gamma) ** np.arange(self.n_steps + 1, dtype=np.float32)
        returns = (self._normalize_reward(rewards, env) * powers[:-1]).sum(axis=1, keepdims=True)
        discounts = powers[lengths, None]
        return ReplayBufferSamples(
            first.observations,
            first.actions,
            last.next_observations,
            last.dones,
            torch.as_tensor(returns, device=self.device),
            torch.as_tensor(discounts, device=self.device),
        )


class PrioritizedSamples(NamedTuple):
    """A batch that was drawn by priority."""

    samples: ReplayBufferSamples
    weights: Tensor  # [B, 1] importance weights, the largest of the batch is 1
    rows: kernels.Indices  # [B] where they lie; `update_priorities` wants them back


class PrioritizedReplayBuffer(PackedReplayBuffer):
    """Rows come in proportion to (|error| + epsilon)^alpha (Schaul et al. 2016, 1511.05952, equation 1).

    A new row gets the highest priority so far. `sample` draws by priority as well, but hands out no weights: while
    nobody calls `update_priorities` it is uniform. `beta` may be raised during the training, as the paper does.

    :param alpha: How much the errors count; 0 is uniform.
    :param beta: How much of the bias the weights take back; 1 is all of it.
    :param epsilon: Added to each error, so that no row is lost.
    :param stratified: Draw one row from each of B equal parts of the sum; off, draw independently.
    """

    _rebuilt = PackedReplayBuffer._rebuilt | {"_tree"}

    def __init__(
        self,
        *args: Any,
        alpha: float = 0.6,
        beta: float = 0.4,
        epsilon: float = 1e-6,
        stratified: bool = True,
        **kwargs: Any,
    ) -> None:
        if alpha < 0.0 or beta < 0.0 or epsilon <= 0.0:
            raise UserError(f"alpha, beta must be at least 0 and epsilon above it, got {alpha}, {beta}, {epsilon}")
        super().__init__(*args, **kwargs)
        self.alpha, self.beta, self.epsilon, self.stratified = alpha, beta, epsilon, stratified

    def add(self, *args: Any, **kwargs: Any) -> None:
        """As `PackedReplayBuffer.add`; the new rows get the highest priority so far."""
        rows = self.pos * self.n_envs + np.arange(self.n_envs)
        super().add(*args, **kwargs)
        kernels.tree_set(self._tree, rows, np.full(self.n_envs, self._highest))

    def reset(self) -> None:
        """Drop all rows."""
        super().reset()
        self._tree[:], self._highest = 0.0, 1.0

    def fill(self, batch: Transitions, at: int, n: int) -> None:
        """Draw n rows by priority into rows at, at + 1, ... of a batch on the CPU."""
        self._store.fill(batch, at, self._draw(n))

    def sample_weighted(self, batch_size: int, env: VecNormalize | None = None) -> PrioritizedSamples:
        """A batch by priority with weights (N P(i))^-beta over the largest of them; raises UserError while empty."""
        rows = self._draw(batch_size)
        probability = self.priorities(rows) / self._tree[1]
        weights = (len(self) * probability) ** -self.beta
        weights = torch.as_tensor(weights / weights.max(), dtype=torch.float32, device=self.device)
        return PrioritizedSamples(self.samples_at(rows, env), weights.unsqueeze(1), rows)

    def update_priorities(self, rows: kernels.Indices, errors: Tensor | np.ndarray) -> None:
        """Give the rows [B] of a batch the priorities of their errors [B] or [B, 1]; call it before the next `add`.

        Raises ValueError for an error that is not finite, which would take every draw.
        """
        errors = errors.detach().cpu().numpy() if isinstance(errors, Tensor) else errors
        priorities = (np.abs(np.asarray(errors, np.float64).reshape(-1)) + self.epsilon) ** self.alpha
        if len(priorities) != len(rows):
            raise ValueError(f"{len(rows)} rows got {len(priorities)} errors")
        if not np.isfinite(priorities).all():
            raise ValueError(f"priorities must be finite, got {priorities[~np.isfinite(priorities)][0]}")
        kernels.tree_set(self._tree, np.ascontiguousarray(rows, np.int64), priorities)
        self._highest = max(self._highest, float(priorities.max(initial=0.0)))

    def priorities(self, rows: kernels.Indices) -> np.ndarray:
        """[B] the priorities of the rows [B]."""
        return self._tree[len(self._tree) // 2 + rows]

    def state_dict(self) -> dict[str, Any]:
        """As `PackedReplayBuffer.state_dict`, with the priorities."""
        priorities = self.priorities(np.arange(len(self)))
        return {**super().state_dict(), "priorities": priorities, "highest": self._highest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; raises UserError for a buffer of another size."""
        super().load_state_dict(state)
        kernels.tree_set(self._tree, np.arange(len(self)), np.ascontiguousarray(state["priorities"]))
        self._highest = state["highest"]

    def _allocate(self) -> None:
        super()._allocate()
        self._tree = np.zeros(2 << (self._store.capacity - 1).bit_length(), np.float64)
        self._highest = 1.0

    def _draw(self, n: int) -> kernels.Indices:
        self._refuse_empty()
        return kernels.tree_draw(self._tree, self._random, n, self.stratified)


class MixedReplay:
    """Batches with a fixed share of real rows, the real ones first.

    Each batch holds round(real_share * B) real rows, one more or less where that is needed for the long-run share to be
    exact. While nothing is imagined all rows are real; with a share of 1 nothing imagined is ever read.

    :raises UserError: for a share outside [0, 1], and for n-step replay, whose rows are no single steps.
    :raises ValueError: where the two buffers hold rows of different sizes.
    """

    def __init__(self, real: PackedReplayBuffer, imagined: ImaginedBuffer, real_share: float) -> None:
        if not 0.0 <= real_share <= 1.0:
            raise UserError(f"real_share must be in [0, 1], got {real_share}")
        if isinstance(real, PackedNStepReplayBuffer):
            raise UserError(f"imagined rows are single steps, got {type(real).__name__}: use PackedReplayBuffer")
        if real.row_sizes != imagined.row_sizes:
            raise ValueError(f"real rows have sizes (S, A) {real.row_sizes}, imagined ones {imagined.row_sizes}")
        self.real, self.imagined, self.real_share = real, imagined, real_share
        self._owed = 0.0  # real rows that past batches should have held and did not

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """SB3's batch; both kinds of rows are normalised as `env` does."""
        return self.real.as_samples(self._draw(batch_size, column=True), env)

    def sample_transitions(self, n: int, newest: int | None = None) -> Transitions:
        """[n, .] in the environment's units; of the real rows only so many of the newest, where that is said."""
        return to_device(self._draw(n, column=False, newest=newest), self.real.device)

    def state_dict(self) -> dict[str, Any]:
        """What the next split depends on; the buffers have states of their own."""
        return {"owed": self._owed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._owed = state["owed"]

    def _draw(self, n: int, *, column: bool, newest: int | None = None) -> Transitions:
        batch = new_batch(n, *self.real.row_sizes, column=column)
        from_real = self._real_rows(n)
        if from_real:
            if newest is None:
                self.real.fill(batch, 0, from_real)
            else:
                self.real.fill_from_newest(batch, 0, from_real, newest)
        if from_real < n:
            self.imagined.fill(batch, from_real, n - from_real)
        return batch

    def _real_rows(self, n: int) -> int:
        if self.imagined.size == 0:
            return n
        exact = self.real_share * n + self._owed
        rows = min(max(math.floor(exact + 0.5), 0), n)
        self._owed = exact - rows
        return rows
