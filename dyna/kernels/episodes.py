"""Whole episodes of the tabular family in an environment that is a table, for experiments of thousands of runs.

An agent makes the same calls, step by step: from equal random words both come to equal values.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dyna.kernels.compiling import Doubles, Random, compiled
from dyna.kernels.tabular import (
    Numbers,
    Queue,
    Table,
    assume,
    choose,
    learn,
    longing,
    plan,
    put,
    remember,
    sweep,
)


class World(NamedTuple):
    """A deterministic environment as a table."""

    next_state: Numbers  # [S, A], of which S is the end
    reward: Doubles  # [S, A]


@compiled
def dyna_episode(
    values: Doubles, table: Table, world: World, state: int, limit: int, n: int, learning_rate: float, gamma: float,
    epsilon: float, planning_kappa: float, acting_kappa: float, untried: bool, random: Random,
) -> tuple[int, int]:  # fmt: skip
    """Dyna-Q, and with `untried` Dyna-Q+, until an end or a limit; returns the last state and the steps made.

    Of each pair the last outcome is remembered. `acting_kappa` adds the bonus to the choice of actions instead.
    """
    n_actions = values.shape[1]
    preferences = np.empty(n_actions)
    for step in range(limit):
        for action in range(n_actions):
            bonus = acting_kappa * longing(table, state * n_actions + action)
            preferences[action] = values[state, action] + bonus
        action = choose(preferences, epsilon, random)
        next_state, reward = world.next_state[state, action], world.reward[state, action]
        learn(values, state, action, reward, next_state, learning_rate, gamma)
        if untried:
            assume(table, state)
        table.visits[state * n_actions + action] = 0
        remember(table, state, action, reward, next_state)
        plan(values, table, n, learning_rate, gamma, planning_kappa, random)
        state = next_state
        if state == len(world.next_state):
            return state, step + 1
    return state, limit


@compiled
def sweeping_episode(
    values: Doubles, table: Table, queue: Queue, world: World, state: int, limit: int, n: int, learning_rate: float,
    gamma: float, epsilon: float, theta: float, random: Random,
) -> tuple[int, int, int]:  # fmt: skip
    """Prioritized sweeping until an end or a limit; returns the last state, the steps and the updates made.

    Of each pair the last outcome is remembered.
    """
    n_actions, updates = values.shape[1], 0
    for step in range(limit):
        action = choose(values[state], epsilon, random)
        next_state, pair = world.next_state[state, action], state * n_actions + action
        table.visits[pair] = 0
        remember(table, state, action, world.reward[state, action], next_state)
        put(values, table, queue, pair, gamma, theta)
        updates += sweep(values, table, queue, n, learning_rate, gamma, theta)
        state = next_state
        if state == len(world.next_state):
            return state, step + 1, updates
    return state, limit, updates
