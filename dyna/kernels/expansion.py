"""What lies between two networks of an imagined step, forwards and backwards: loops over rows.

Arrays are float32: `obs` [H+1, B, S], `action` and `noise` [H+1, B, A], `log_prob` [H+1, B], `reward` and `end` [H, B];
`t` is the step. `x` [B, S+A] is what the state networks see, `z` [B, S+A+3S] what the outcome networks see.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from dyna.kernels.compiling import Flags, Floats, compiled

ONE, HALF = np.float32(1), np.float32(0.5)
LOG_SQRT_2PI = np.float32(0.5 * math.log(2 * math.pi))
MARGIN = np.float32(1e-6)  # keeps the density of an action at its bound finite
MIN_LOG_STD, MAX_LOG_STD = np.float32(-20), np.float32(2)  # SB3's


class Units(NamedTuple):
    """How a world model scales what it sees and says."""

    x_mean: Floats  # [S+A]
    x_std: Floats  # [S+A]
    y_mean: Floats  # [S+1]
    y_std: Floats  # [S+1]
    low: Floats  # [S] the box of living states
    high: Floats  # [S]
    edge: Floats  # [S] how near to it small distances are told apart
    edge_mean: Floats  # [2S] of what is said of these distances
    span: np.float32  # what the logarithm of a distance is divided by
    least: np.float32  # variance of a normalised target
    most: np.float32  # another one
    surplus: np.float32  # of terminal rows in training batches, log odds
    carried: Flags  # [S] of which the state networks say a change, or nothing


@compiled
def draw_action(t: int, head: Floats, noise: Floats, action: Floats, log_prob: Floats) -> None:
    """Squash mean and log-deviation, head [H+1, B, 2A], with noise into an action and its log-density."""
    rows, size = action.shape[1:]
    for row in range(rows):
        density = np.float32(0)
        for i in range(size):
            log_std = min(max(head[t, row, size + i], MIN_LOG_STD), MAX_LOG_STD)
            drawn = noise[t, row, i]
            act = np.float32(math.tanh(head[t, row, i] + math.exp(log_std) * drawn))
            action[t, row, i] = act
            density -= HALF * drawn * drawn + log_std + LOG_SQRT_2PI + math.log(ONE - act * act + MARGIN)
        log_prob[t, row] = density


@compiled
def draw_action_back(
    t: int, head: Floats, noise: Floats, action: Floats, by_action: Floats, by_log_prob: Floats, by_head: Floats
) -> None:
    rows, size = action.shape[1:]
    for row in range(rows):
        of_density = by_log_prob[t, row]
        for i in range(size):
            act, raw = action[t, row, i], head[t, row, size + i]
            room = ONE - act * act
            slope = (by_action[t, row, i] + of_density * (act + act) / (room + MARGIN)) * room
            by_head[t, row, i] = slope
            free = MIN_LOG_STD <= raw <= MAX_LOG_STD
            by_head[t, row, size + i] = slope * math.exp(raw) * noise[t, row, i] - of_density if free else np.float32(0)


@compiled
def enter(t: int, obs: Floats, action: Floats, units: Units, x: Floats) -> None:
    """What the state networks see."""
    rows, size = obs.shape[1:]
    for row in range(rows):
        for i in range(x.shape[1]):
            raw = obs[t, row, i] if i < size else action[t, row, i - size]
            x[row, i] = (raw - units.x_mean[i]) / units.x_std[i]


@compiled
def enter_back(t: int, by_x: Floats, by_z: Floats, units: Units, by_obs: Floats, by_action: Floats) -> None:
    """Both networks saw x: its gradient, [B, S+A] and the first columns of that of z, goes on to where it came from."""
    rows, size = by_obs.shape[1:]
    for row in range(rows):
        for i in range(by_x.shape[1]):
            slope = (by_x[row, i] + by_z[row, i]) / units.x_std[i]
            if i < size:
                by_obs[t, row, i] += slope
            else:
                by_action[t, row, i - size] += slope


@compiled
def arrive(t: int, head: Floats, noise: Floats, x: Floats, units: Units, led: bool, obs: Floats, z: Floats) -> None:
    """Draw the next observation from the state networks' head [B, 2S].

    The outcome networks see the expected one, or that which is reached where rollouts are `led` along real steps.
    """
    rows, size = obs.shape[1:]
    seen = x.shape[1]
    for row in range(rows):
        for i in range(seen):
            z[row, i] = x[row, i]
        for i in range(size):
            mean = head[row, i] * units.y_std[i] + units.y_mean[i]
            if units.carried[i]:
                mean += obs[t, row, i]
            variance = units.least + units.most / (ONE + math.exp(-head[row, size + i]) * units.most)
            obs[t + 1, row, i] = mean + math.sqrt(variance) * units.y_std[i] * noise[t, row, i]
            there = obs[t + 1, row, i] if led else mean
            z[row, seen + i] = (there - units.x_mean[i]) / units.x_std[i]
            over = math.asinh((there - units.high[i]) / units.edge[i]) / units.span
            under = math.asinh((units.low[i] - there) / units.edge[i]) / units.span
            z[row, seen + size + i] = over - units.edge_mean[i]
            z[row, seen + 2 * size + i] = under - units.edge_mean[size + i]


@compiled
def arrive_back(t: int, by_z: Floats, units: Units, by_obs: Floats, by_mean: Floats) -> None:
    """From the gradients of what followed to that of the state networks' means [B, S]; noise has none, nor an edge."""
    rows, size = by_obs.shape[1:]
    seen = by_z.shape[1] - 3 * size
    for row in range(rows):
        for i in range(size):
            slope = by_obs[t + 1, row, i] + by_z[row, seen + i] / units.x_std[i]
            by_mean[row, i] = slope * units.y_std[i]
            if units.carried[i]:
                by_obs[t, row, i] += slope


@compiled
def conclude(t: int, head: Floats, units: Units, reward: Floats, end: Floats) -> None:
    """Reward and probability of the end from the outcome networks' head [B, 3]."""
    for row in range(head.shape[0]):
        reward[t, row] = head[row, 0] * units.y_std[-1] + units.y_mean[-1]
        end[t, row] = ONE / (ONE + math.exp(units.surplus - head[row, 2]))


@compiled
def conclude_back(t: int, by_reward: Floats, by_end: Floats, end: Floats, units: Units, by_head: Floats) -> None:
    for row in range(by_head.shape[0]):
        by_head[row, 0] = by_reward[t, row] * units.y_std[-1]
        by_head[row, 1] = np.float32(0)
        by_head[row, 2] = by_end[t, row] * end[t, row] * (ONE - end[t, row])
