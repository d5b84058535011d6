"""Loops over tables of action values: learning, remembering, planning and sweeping (Sutton & Barto 2018, chapter 8).

`values` [S + 1, A] holds the action values. All ends of the task are one state, number S, whose row stays zero, so that
no update asks whether it was the last. A pair of a state and an action is the number state * A + action.

What was seen is a sparse matrix from pairs to states, with a row of linked outcomes for each pair and a column of them
for each state: a row gives what may follow, a column what may lead there.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dyna.kernels.compiling import Doubles, Indices, Random, compiled
from dyna.kernels.random import below, uniform

Numbers = npt.NDArray[np.int32]  # of states, pairs and outcomes: half the memory is half the time

NONE = -1
Index = np.uintp  # numba asks of each signed index whether it is negative, which halves the speed of the loops below
AT_ONCE = 64  # planned steps that are drawn before they are learnt from: the processor overlaps what is alike
CLOCK, STATES, OUTCOMES = 0, 1, 2  # places in `counters`


class Table(NamedTuple):
    """What was seen of an environment; K outcomes have room, a link to none is -1."""

    visits: Numbers  # [S * A] times that the pair was tried, as far as is remembered
    tried_at: Indices  # [S * A] the clock when it was tried last
    first: Numbers  # [S * A] its newest outcome
    known: Numbers  # [S] the states that were left, in the order in which they were
    pairs: Numbers  # [S * A] the known pairs of a state, side by side from state * A on
    n_pairs: Numbers  # [S] how many those are
    into: Numbers  # [S + 1] the newest outcome that leads there
    pair: Numbers  # [K] whose outcome it is
    next_state: Numbers  # [K]
    reward: Doubles  # [K] mean
    seen: Numbers  # [K] how many times; 0 where it was only assumed
    after: Numbers  # [K] the next outcome of the same pair
    beside: Numbers  # [K] the next outcome that leads to the same state
    counters: Indices  # [3] steps made, states known, outcomes used


class Queue(NamedTuple):
    """A binary heap of pairs, the highest priority first, among equal ones the lowest number."""

    pair: Numbers  # [S * A] in heap order
    priority: Doubles  # [S * A] in heap order
    place: Numbers  # [S * A] where in the heap a pair lies, or -1
    length: Indices  # [1]


def new_table(states: int, actions: int, outcomes: int) -> Table:
    """A table in which nothing was seen, with room for a number of outcomes."""
    pairs = states * actions
    return Table(
        visits=_zeros(pairs),
        tried_at=np.zeros(pairs, np.int64),
        first=_links(pairs),
        known=_zeros(states),
        pairs=_zeros(pairs),
        n_pairs=_zeros(states),
        into=_links(states + 1),
        pair=_zeros(outcomes),
        next_state=_zeros(outcomes),
        reward=np.zeros(outcomes),
        seen=_zeros(outcomes),
        after=_links(outcomes),
        beside=_links(outcomes),
        counters=np.zeros(3, np.int64),
    )


def new_queue(pairs: int) -> Queue:
    """An empty queue for the pairs below a number."""
    return Queue(_zeros(pairs), np.zeros(pairs), _links(pairs), np.zeros(1, np.int64))


def _zeros(n: int) -> Numbers:
    return np.zeros(n, np.int32)


def _links(n: int) -> Numbers:
    return np.full(n, NONE, np.int32)


# Acting and learning


@compiled
def choose(preferences: Doubles, epsilon: float, random: Random) -> int:
    """A uniform action with probability epsilon, else one of the highest preferences [A], ties broken at random."""
    state, share = uniform(random[0])
    n, wanted = len(preferences), np.int64(0)
    if share < epsilon:
        random[0], drawn = below(state, n)
        return int(drawn)
    highest, ties = preferences[0], 1
    for action in range(1, n):
        if preferences[action] > highest:
            highest, ties = preferences[action], 1
        elif preferences[action] == highest:
            ties += 1
    if ties > 1:
        state, wanted = below(state, ties)
    random[0] = state
    for action in range(n):
        if preferences[action] == highest:
            if wanted == 0:
                return action
            wanted -= 1
    return 0  # no preference is a number


@compiled
def value(q: Doubles, state: int, n_actions: int) -> float:
    """The highest action value of a state; q is `values`, flat."""
    first, n = Index(state) * Index(n_actions), Index(n_actions)
    highest = q[first]
    for pair in range(first + Index(1), first + n):
        highest = q[pair] if q[pair] > highest else highest  # max() would branch
    return float(highest)


@compiled
def learn(
    values: Doubles, state: int, action: int, reward: float, next_state: int, learning_rate: float, gamma: float
) -> None:
    """Q-learning's update from one step (Watkins 1989)."""
    q, n_actions = values.reshape(-1), values.shape[1]
    pair = state * n_actions + action
    q[pair] += learning_rate * (reward + gamma * value(q, next_state, n_actions) - q[pair])


# The model


@compiled
def _link(table: Table, outcome: int, next_state: int) -> None:
    table.next_state[outcome] = next_state
    table.beside[outcome] = table.into[next_state]
    table.into[next_state] = outcome


@compiled
def _unlink(table: Table, outcome: int) -> None:
    state = table.next_state[outcome]
    before = table.into[state]
    if before == outcome:
        table.into[state] = table.beside[outcome]
        return
    while table.beside[before] != outcome:
        before = table.beside[before]
    table.beside[before] = table.beside[outcome]


@compiled
def _new_outcome(table: Table, pair: int, next_state: int) -> int:
    outcome = table.counters[OUTCOMES]
    table.counters[OUTCOMES] += 1
    table.pair[outcome], table.reward[outcome], table.seen[outcome] = pair, 0.0, 0
    table.after[outcome] = table.first[pair]
    table.first[pair] = outcome
    _link(table, outcome, next_state)
    return int(outcome)


@compiled
def _know(table: Table, state: int, pair: int, next_state: int) -> int:
    """The first outcome of a pair, which is known from now on, and its state with it."""
    if table.n_pairs[state] == 0:
        table.known[table.counters[STATES]] = state
        table.counters[STATES] += 1
    n_actions = len(table.pairs) // len(table.known)
    table.pairs[state * n_actions + table.n_pairs[state]] = pair
    table.n_pairs[state] += 1
    return _new_outcome(table, pair, next_state)


@compiled
def assume(table: Table, state: int) -> None:
    """Let each unknown action of a state lead back to it with reward 0, until it is tried; A outcomes need room.

    Sutton & Barto 2018, section 8.3, footnote 1.
    """
    n_actions = len(table.pairs) // len(table.known)
    for pair in range(state * n_actions, (state + 1) * n_actions):
        if table.first[pair] == NONE:
            _know(table, state, pair, state)


@compiled
def remember(table: Table, state: int, action: int, reward: float, next_state: int) -> None:
    """Count a step, which takes the place of what was only assumed; one outcome needs room.

    Where `visits` of the pair is put to 0 before, the step takes the place of its one outcome.
    """
    pair = state * (len(table.pairs) // len(table.known)) + action
    outcome = table.first[pair]
    if outcome == NONE:
        outcome = _know(table, state, pair, next_state)
    elif table.visits[pair] == 0:
        table.seen[outcome], table.reward[outcome] = 0, 0.0
        if table.next_state[outcome] != next_state:
            _unlink(table, outcome)
            _link(table, outcome, next_state)
    else:
        while outcome != NONE and table.next_state[outcome] != next_state:
            outcome = table.after[outcome]
        if outcome == NONE:
            outcome = _new_outcome(table, pair, next_state)
    table.counters[CLOCK] += 1
    table.tried_at[pair] = table.counters[CLOCK]
    table.visits[pair] += 1
    table.seen[outcome] += 1
    table.reward[outcome] += (reward - table.reward[outcome]) / table.seen[outcome]


@compiled
def longing(table: Table, pair: int) -> float:
    """The square root of the steps since a pair was tried (Sutton & Barto 2018, section 8.3)."""
    return float(np.sqrt(float(table.counters[CLOCK] - table.tried_at[pair])))


# Planning


@compiled
def plan(
    values: Doubles, table: Table, n: int, learning_rate: float, gamma: float, kappa: float, random: Random
) -> None:
    """Q-learning from n remembered steps: a uniform known state, a uniform known action, an outcome by its count.

    Each reward has the bonus kappa * `longing`. Sutton & Barto 2018, sections 8.2 and 8.3.
    """
    q, n_actions = values.reshape(-1), values.shape[1]
    drawn = np.empty(min(n, AT_ONCE), np.int32)
    for done in range(0, n, AT_ONCE):
        some = min(n - done, AT_ONCE)
        _draw_outcomes(table, drawn[:some], n_actions, random)
        for i in range(some):
            outcome = Index(drawn[i])
            pair, reward = Index(table.pair[outcome]), table.reward[outcome]
            if kappa != 0.0:
                reward += kappa * longing(table, pair)
            q[pair] += learning_rate * (reward + gamma * value(q, table.next_state[outcome], n_actions) - q[pair])


@compiled
def _draw_outcomes(table: Table, drawn: Numbers, n_actions: int, random: Random) -> None:
    state, n_states = random[0], table.counters[STATES]
    for k in range(len(drawn)):
        state, i = below(state, n_states)
        s = Index(table.known[Index(i)])
        state, i = below(state, table.n_pairs[s])
        outcome = table.first[Index(table.pairs[s * Index(n_actions) + Index(i)])]
        if table.after[Index(outcome)] != NONE:
            state, i = below(state, table.visits[table.pair[outcome]])
            while i >= table.seen[outcome]:
                i -= table.seen[outcome]
                outcome = table.after[outcome]
        drawn[k] = outcome
    random[0] = state


@compiled
def error(q: Doubles, table: Table, pair: int, n_actions: int, gamma: float) -> float:
    """How far a known pair lies below the expectation over its outcomes; q is `values`, flat."""
    outcome, total = table.first[pair], 0.0
    if table.after[outcome] == NONE:
        return float(table.reward[outcome] + gamma * value(q, table.next_state[outcome], n_actions) - q[pair])
    while outcome != NONE:
        target = table.reward[outcome] + gamma * value(q, table.next_state[outcome], n_actions)
        total += table.seen[outcome] * target
        outcome = table.after[outcome]
    return float(total / table.visits[pair] - q[pair])


@compiled
def sweep(values: Doubles, table: Table, queue: Queue, n: int, learning_rate: float, gamma: float, theta: float) -> int:
    """Up to n expected updates, each of the pair in the queue with the largest error; returns how many there were.

    A pair waits in the queue while its error may exceed theta: predecessors are looked at when the value of the state
    has changed, and a pair that a learning rate below 1 leaves with an error waits again. Sutton & Barto 2018, section
    8.4, where such a pair is forgotten.
    """
    q, n_actions = values.reshape(-1), values.shape[1]
    for done in range(n):
        if queue.length[0] == 0:
            return done
        pair = pop(queue)
        state, off = pair // n_actions, error(q, table, pair, n_actions, gamma)
        before = value(q, state, n_actions)
        q[pair] += learning_rate * off
        left = (1.0 - learning_rate) * abs(off)
        if left > theta:
            push(queue, pair, left)
        if value(q, state, n_actions) == before:
            continue
        outcome = table.into[state]
        while outcome != NONE:
            off = abs(error(q, table, table.pair[outcome], n_actions, gamma))
            if off > theta:
                push(queue, table.pair[outcome], off)
            outcome = table.beside[outcome]
    return n


@compiled
def put(values: Doubles, table: Table, queue: Queue, pair: int, gamma: float, theta: float) -> None:
    """Put a known pair into the queue, if its error exceeds theta."""
    off = abs(error(values.reshape(-1), table, pair, values.shape[1], gamma))
    if off > theta:
        push(queue, pair, off)


# The queue


@compiled
def push(queue: Queue, pair: int, priority: float) -> None:
    """Add a pair, or raise its priority; a lower one changes nothing."""
    at = queue.place[pair]
    if at == NONE:
        at = queue.length[0]
        queue.length[0] += 1
    elif priority <= queue.priority[at]:
        return
    while at > 0:
        above = (at - 1) >> 1
        if not _goes_first(priority, pair, queue.priority[above], queue.pair[above]):
            break
        _lay(queue, at, queue.pair[above], queue.priority[above])
        at = above
    _lay(queue, at, pair, priority)


@compiled
def pop(queue: Queue) -> int:
    """Take out the pair of the highest priority; there must be one."""
    first = queue.pair[0]
    queue.place[first] = NONE
    queue.length[0] -= 1
    n, at, below_it = queue.length[0], 0, 1
    pair, priority = queue.pair[n], queue.priority[n]
    while below_it < n:
        other = below_it + 1
        if other < n and _goes_first(
            queue.priority[other], queue.pair[other], queue.priority[below_it], queue.pair[below_it]
        ):
            below_it = other
        if _goes_first(priority, pair, queue.priority[below_it], queue.pair[below_it]):
            break
        _lay(queue, at, queue.pair[below_it], queue.priority[below_it])
        at, below_it = below_it, 2 * below_it + 1
    if n > 0:
        _lay(queue, at, pair, priority)
    return int(first)


@compiled
def _goes_first(priority: float, pair: int, other_priority: float, other_pair: int) -> bool:
    return priority > other_priority or (priority == other_priority and pair < other_pair)


@compiled
def _lay(queue: Queue, at: int, pair: int, priority: float) -> None:
    queue.pair[at], queue.priority[at], queue.place[pair] = pair, priority, at
