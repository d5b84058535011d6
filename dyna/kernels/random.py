"""Random numbers for compiled loops.

They come from SplitMix64 (Steele, Lea, Flood 2014, figure 13), whose whole state is one word, kept in `random` [1]
uint64: a NumPy generator costs more to hand to compiled code than the 256 rows that it would draw.
"""

from __future__ import annotations

import numpy as np

from dyna.kernels.compiling import Indices, Random, compiled

U1, U11, U27, U30, U31, U32 = (np.uint64(n) for n in (1, 11, 27, 30, 31, 32))
GAMMA, MIX_A, MIX_B = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
LOW_32 = np.uint64(0xFFFFFFFF)
DOUBLE_ULP = 2.0**-53


@compiled
def mix(word: np.uint64) -> np.uint64:
    """The random word that belongs to a state of the generator; the next state lies GAMMA further."""
    word = (word ^ (word >> U30)) * MIX_A
    word = (word ^ (word >> U27)) * MIX_B
    mixed: np.uint64 = word ^ (word >> U31)
    return mixed


@compiled
def below(state: np.uint64, n: int) -> tuple[np.uint64, np.int64]:
    """The next state, and an unbiased uniform integer in [0, n), n < 2^32 (Lemire 2019, 1805.10941, algorithm 5)."""
    bound = np.uint64(n)
    state += GAMMA
    product = (mix(state) >> U32) * bound
    if product & LOW_32 < bound:
        threshold = ((U1 << U32) - bound) % bound
        while product & LOW_32 < threshold:
            state += GAMMA
            product = (mix(state) >> U32) * bound
    return state, np.int64(product >> U32)


@compiled
def uniform(state: np.uint64) -> tuple[np.uint64, np.float64]:
    """The next state, and a uniform double in [0, 1)."""
    state += GAMMA
    return state, np.float64(mix(state) >> U11) * DOUBLE_ULP


@compiled
def draw(random: Random, n: int, bound: int) -> Indices:
    """[n] uniform integers in [0, bound), with replacement."""
    out, state = np.empty(n, np.int64), random[0]  # kept in a register
    for i in range(n):
        state, out[i] = below(state, bound)
    random[0] = state
    return out


@compiled
def draw_distinct(random: Random, n: int, bound: int) -> Indices:
    """[n] different uniform integers in [0, bound), n <= bound, in random order.

    A Fisher-Yates shuffle that keeps the swaps in a hash table: it costs O(n), however large the bound.
    """
    slots = 4
    while slots < 4 * n:
        slots *= 2
    keys, values = np.full(slots, -1, np.int64), np.empty(slots, np.int64)
    out, state = np.empty(n, np.int64), random[0]
    for i in range(n):
        state, further = below(state, bound - i)
        j = i + further
        at_j, at_i = _slot(keys, j), _slot(keys, i)
        out[i] = values[at_j] if keys[at_j] == j else j
        displaced = values[at_i] if keys[at_i] == i else i
        keys[at_j], values[at_j] = j, displaced
    random[0] = state
    return out


@compiled
def _slot(keys: Indices, key: int) -> np.int64:
    """Where `key` lies, or would lie, in an open-addressing hash table whose size is a power of two."""
    mask = len(keys) - 1
    slot: np.int64 = np.int64((np.uint64(key) * GAMMA) >> U32) & mask
    while keys[slot] != -1 and keys[slot] != key:
        slot = (slot + 1) & mask
    return slot
