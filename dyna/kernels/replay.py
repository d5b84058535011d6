"""Loops over replay: rows, episodes, and the sum tree of prioritised sampling.

Rows of a store lie in one float32 array: obs [S] | action [A] | reward | terminated | truncated | next_obs [S] | more.

No kernel is parallel: a gather is bound by memory, and OpenMP ends a process that forks after its first use, as
SB3's SubprocVecEnv may.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from dyna.kernels.compiling import Doubles, Floats, Indices, Random, compiled
from dyna.kernels.random import below, draw, uniform

LINE = 16  # floats in a cache line
AHEAD = 32  # rows that are asked from memory before they are copied
PREFETCHED = 8 * LINE  # floats of a row; the hardware fetches the rest of a longer one by itself
ATTEMPTS = 1_000  # draws of one sequence before the whole store is searched

# numba leaves these untyped
carray: Any = numba.carray  # type: ignore[attr-defined,unused-ignore]
lowered = cast(Callable[[Callable[..., Any]], Any], intrinsic)
get_or_insert: Any = cgutils.get_or_insert_function
raw_memcpy: Any = cgutils.raw_memcpy
pointer: Any = types.CPointer


@lowered
def _floats_at(context: Any, address: Any) -> Any:
    """The pointer of an address: a tensor's `data_ptr()` costs a tenth of its NumPy view."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return pointer(types.float32)(address), generate


@lowered
def _prefetch(context: Any, array: Any, i: Any) -> Any:
    """Ask for the cache line of array[i] without waiting for it: random reads become several times as fast.

    It goes to the second-level cache: the first level can wait for fewer lines at once, and took twice the time.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        fetch = get_or_insert(builder.module, kind, "llvm.prefetch.p0")
        read, second_level, is_data = (ir.Constant(word, flag) for flag in (0, 2, 1))
        builder.call(fetch, [builder.bitcast(builder.gep(data, [arguments[1]]), byte), read, second_level, is_data])
        return context.get_dummy_value()

    return types.void(array, i), generate


@lowered
def _copy(context: Any, target: Any, i: Any, source: Any, j: Any, n: Any) -> Any:
    """target[i : i + n] = source[j : j + n] as one memcpy: loops over a few floats are not vectorised."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = [context.make_array(signature.args[k])(context, builder, arguments[k]).data for k in (0, 2)]
        to, of = (builder.gep(data[k], [arguments[2 * k + 1]]) for k in (0, 1))
        raw_memcpy(builder, to, of, arguments[4], 4)
        return context.get_dummy_value()

    return types.void(target, i, source, j, n), generate


# Rows


@compiled
def gather(
    store: Floats, rows: Indices, at: int, obs_size: int, action_size: int,
    obs: int, action: int, reward: int, next_obs: int, terminated: int,
) -> None:  # fmt: skip
    """Copy rows [n] of the store into five float32 outputs, from their row `at` on.

    The outputs are addresses of contiguous memory for at least `at + n` rows each; nothing is checked.
    """
    n, width, flat = len(rows), store.shape[1], store.reshape(-1)
    to_obs = carray(_floats_at(obs), (at + n) * obs_size)
    to_action = carray(_floats_at(action), (at + n) * action_size)
    to_reward = carray(_floats_at(reward), at + n)
    to_next_obs = carray(_floats_at(next_obs), (at + n) * obs_size)
    to_terminated = carray(_floats_at(terminated), at + n)
    for i in range(-AHEAD, n):
        if i + AHEAD < n:
            ahead = rows[i + AHEAD] * width
            for k in range(ahead, ahead + min(width, PREFETCHED), LINE):
                _prefetch(flat, k)
        if i < 0:
            continue
        source = rows[i] * width
        tail = source + obs_size + action_size
        _copy(to_obs, (at + i) * obs_size, flat, source, obs_size)
        _copy(to_action, (at + i) * action_size, flat, source + obs_size, action_size)
        to_reward[at + i] = flat[tail]
        to_terminated[at + i] = flat[tail + 1]
        _copy(to_next_obs, (at + i) * obs_size, flat, tail + 3, obs_size)


@compiled
def gather_uniform(
    store: Floats, random: Random, n: int, first: int, filled: int, at: int, obs_size: int, action_size: int,
    obs: int, action: int, reward: int, next_obs: int, terminated: int,
) -> None:  # fmt: skip
    """`gather` of n rows, uniform with replacement, of the `filled` ones that lie in the ring from `first` on."""
    rows, capacity = draw(random, n, filled), store.shape[0]
    for i in range(n):
        row = rows[i] + first
        rows[i] = row - capacity if row >= capacity else row
    gather(store, rows, at, obs_size, action_size, obs, action, reward, next_obs, terminated)


# Episodes: the rows of one step of n_envs environments lie side by side, the next step's n_envs rows further


@compiled
def follows(store: Floats, row: int, after: int, obs_size: int, action_size: int) -> bool:
    """Whether row `after` goes on with the episode of `row`: neither flag is set and the observations meet.

    The second test finds resets that no flag tells of, such as a new call of `learn()`.
    """
    flags = obs_size + action_size + 1
    if store[row, flags] != 0.0 or store[row, flags + 1] != 0.0:
        return False
    for j in range(obs_size):  # noqa: SIM110 (numba compiles no generator expressions)
        if store[row, flags + 2 + j] != store[after, j]:
            return False
    return True


@compiled
def n_step_windows(
    store: Floats, rows: Indices, n_steps: int, newest: int, n_envs: int, obs_size: int, action_size: int
) -> tuple[Floats, Indices, Indices]:
    """Up to n steps of one episode from each row [B] on: rewards [B, n], zero after the end; last rows, lengths [B].

    `newest` is the first row of the step that was added last; no window goes past it.
    """
    rewards = np.zeros((len(rows), n_steps), np.float32)
    last, length = np.empty_like(rows), np.empty_like(rows)
    for i in range(len(rows)):
        row, k = rows[i], 0
        while True:
            rewards[i, k] = store[row, obs_size + action_size]
            k += 1
            after = (row + n_envs) % store.shape[0]
            if k == n_steps or 0 <= row - newest < n_envs or not follows(store, row, after, obs_size, action_size):
                break
            row = after
        last[i], length[i] = row, k
    return rewards, last, length


@compiled
def draw_starts(
    store: Floats, random: Random, n: int, length: int, oldest: int, filled: int, n_envs: int,
    obs_size: int, action_size: int,
) -> Indices:  # fmt: skip
    """[n] uniform first rows of sequences inside one episode; empty where ATTEMPTS draws found none.

    `oldest` is the first row of the oldest step, `filled` the rows in the ring.
    """
    starts = filled - (length - 1) * n_envs
    out = np.empty(n, np.int64)
    for i in range(n):
        found = False
        for _ in range(ATTEMPTS if starts > 0 else 0):
            random[0], further = below(random[0], starts)
            out[i] = row = (oldest + further) % store.shape[0]
            found = True
            for _ in range(length - 1):
                after = (row + n_envs) % store.shape[0]
                if not follows(store, row, after, obs_size, action_size):
                    found = False
                    break
                row = after
            if found:
                break
        if not found:
            return out[:0]
    return out


@compiled
def all_starts(
    store: Floats, length: int, oldest: int, filled: int, n_envs: int, obs_size: int, action_size: int
) -> Indices:
    """Every first row of a sequence inside one episode."""
    out, found = np.empty(filled, np.int64), 0
    run = np.zeros(n_envs, np.int64)  # steps of the current episode so far
    for i in range(filled):
        row = (oldest + i) % store.shape[0]
        before = (row - n_envs) % store.shape[0]
        env = i % n_envs
        run[env] = run[env] + 1 if i >= n_envs and follows(store, before, row, obs_size, action_size) else 1
        if run[env] >= length:
            out[found] = (row - (length - 1) * n_envs) % store.shape[0]
            found += 1
    return out[:found]


# The sum tree (Schaul et al. 2016, appendix B.2.1): node k has the children 2k and 2k+1, row i is the leaf size/2 + i


@compiled
def tree_set(tree: Doubles, rows: Indices, priorities: Doubles) -> None:
    """Give rows [n] their priorities [n]; of a row that is named twice the last one counts."""
    for i in range(len(rows)):
        node = len(tree) // 2 + rows[i]
        tree[node] = priorities[i]
        while node > 1:
            node //= 2
            tree[node] = tree[2 * node] + tree[2 * node + 1]  # added anew: no error piles up


@compiled
def tree_find(tree: Doubles, mass: float) -> int:
    """The row at which the running sum of priorities first exceeds `mass`; never one of priority zero."""
    node = 1
    while node < len(tree) // 2:
        node *= 2
        if mass >= tree[node] and tree[node + 1] > 0.0:
            mass -= tree[node]
            node += 1
    return node - len(tree) // 2


@compiled
def tree_draw(tree: Doubles, random: Random, n: int, stratified: bool) -> Indices:
    """[n] rows in proportion to their priorities: independent, or one from each of n equal parts of the sum."""
    rows = np.empty(n, np.int64)
    for i in range(n):
        random[0], share = uniform(random[0])
        rows[i] = tree_find(tree, ((i + share) / n if stratified else share) * tree[1])
    return rows
