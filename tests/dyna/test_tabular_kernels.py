"""Every kernel of the tabular family does what its plain twin does, step by step and to the last bit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyna.kernels import below, tabular, uniform
from dyna.kernels.tabular import OUTCOMES, Queue
from dyna.transition_table import TransitionTable
from tests.twins import Agent, SplitMix64, Sweeper

STATES, ACTIONS = 7, 3
SEED = 20_240
Step = tuple[int, int, float, int]


def wanderings(seed: int, steps: int) -> Iterator[Step]:
    """Steps of a random walk in an environment whose outcomes, rewards and ends are random, and most of them rare."""
    rng = np.random.default_rng(seed)
    likely = rng.integers(0, STATES + 1, (STATES, ACTIONS))
    state = 0
    for _ in range(steps):
        action = int(rng.integers(ACTIONS))
        next_state = int(likely[state, action] if rng.random() < 0.7 else rng.integers(STATES + 1))
        yield state, action, float(rng.normal()), next_state
        state = next_state if next_state < STATES else int(rng.integers(STATES))


def twin(**settings: float) -> Agent:
    kind = Sweeper if "theta" in settings else Agent
    basis = {"learning_rate": 0.3, "gamma": 0.9, "epsilon": 0.2, "n": 9}
    return kind(STATES, ACTIONS, SplitMix64(SEED), **{**basis, **settings})  # type: ignore[arg-type]


@given(st.integers(0, 2**64 - 1), st.lists(st.integers(1, 2**32 - 1), min_size=1, max_size=20))
def test_random_numbers(state: int, bounds: list[int]) -> None:
    plain, compiled = SplitMix64(state), state
    for bound in bounds:
        compiled, drawn = below(np.uint64(compiled), bound)
        assert drawn == plain.below(bound)
        compiled, share = uniform(np.uint64(compiled))
        assert share == plain.uniform()
    assert compiled == plain.state


@given(st.lists(st.sampled_from([0.0, 1.0, -1.0, 0.5]), min_size=1, max_size=6), st.integers(0, 1000))
def test_choosing(preferences: list[float], seed: int) -> None:
    agent, random = twin(epsilon=0.3), np.array([SEED + seed], np.uint64)
    agent.random.state += seed
    for _ in range(10):
        assert tabular.choose(np.array(preferences), 0.3, random) == agent.act(preferences)
    assert random[0] == agent.random.state


@pytest.mark.parametrize("latest", [False, True])
@pytest.mark.parametrize("untried", [False, True])
@pytest.mark.parametrize("kappa", [0.0, 0.05])
def test_learning_remembering_and_planning(latest: bool, untried: bool, kappa: float) -> None:
    agent = twin(kappa=kappa, untried=untried, latest=latest)
    values, model = np.zeros((STATES + 1, ACTIONS)), TransitionTable(STATES, ACTIONS, latest=latest)
    random = np.array([SEED], np.uint64)
    for step in wanderings(1, 400):
        agent.observe(*step)
        tabular.learn(values, *step, agent.learning_rate, agent.gamma)
        if untried:
            model.assume(step[0])
        model.remember(*step)
        tabular.plan(values, model.arrays, agent.n, agent.learning_rate, agent.gamma, kappa, random)
        assert values.tolist() == agent.q
    known = model.metrics()
    seen = [outcomes for actions in agent.model.outcomes.values() for outcomes in actions.values()]
    assert known["outcomes"] == sum(outcome.count > 0 for outcomes in seen for outcome in outcomes)
    assert known["pairs"] == len(agent.model.tried_at) and known["states"] == len(agent.model.outcomes)
    assert latest or known["outcomes"] > STATES * ACTIONS + 16  # it outgrew its first room


@pytest.mark.parametrize("latest", [False, True])
@pytest.mark.parametrize("learning_rate", [1.0, 0.4])
def test_sweeping(latest: bool, learning_rate: float) -> None:
    agent = twin(learning_rate=learning_rate, latest=latest, theta=1e-3, n=4)
    assert isinstance(agent, Sweeper)
    values, model = np.zeros((STATES + 1, ACTIONS)), TransitionTable(STATES, ACTIONS, latest=latest)
    queue = tabular.new_queue(STATES * ACTIONS)
    for step in wanderings(2, 400):
        agent.observe(*step)
        model.remember(*step)
        pair = step[0] * ACTIONS + step[1]
        tabular.put(values, model.arrays, queue, pair, agent.gamma, agent.theta)
        tabular.sweep(values, model.arrays, queue, agent.n, learning_rate, agent.gamma, agent.theta)
        assert values.tolist() == agent.q
        assert waiting(queue) == {state * ACTIONS + action: p for (state, action), p in agent.queue.items()}


def waiting(queue: Queue) -> dict[int, float]:
    n = queue.length[0]
    return dict(zip(queue.pair[:n].tolist(), queue.priority[:n].tolist(), strict=True))


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 5)), max_size=80), st.integers(0, 40))
def test_a_queue_gives_the_highest_priority_first_and_the_lowest_pair_among_equals(
    pushed: list[tuple[int, int]], taken: int
) -> None:
    queue, expected = tabular.new_queue(31), dict[int, float]()
    for i, (pair, priority) in enumerate(pushed):
        tabular.push(queue, pair, float(priority))
        expected[pair] = max(expected.get(pair, 0.0), float(priority))
        if i == taken:
            assert tabular.pop(queue) == min(expected, key=lambda pair: (-expected[pair], pair))
            del expected[min(expected, key=lambda pair: (-expected[pair], pair))]
    assert waiting(queue) == expected
    order = [tabular.pop(queue) for _ in range(queue.length[0])]
    assert order == sorted(expected, key=lambda pair: (-expected[pair], pair))
    assert (queue.place == -1).all()


def test_when_the_queue_is_empty_no_error_exceeds_theta() -> None:
    """What a skipped predecessor or a forgotten pair would break."""
    for learning_rate in (1.0, 0.3):
        values, model = np.zeros((STATES + 1, ACTIONS)), TransitionTable(STATES, ACTIONS, latest=False)
        queue = tabular.new_queue(STATES * ACTIONS)
        for i, step in enumerate(wanderings(3, 300)):
            model.remember(*step)
            tabular.put(values, model.arrays, queue, step[0] * ACTIONS + step[1], 0.9, 1e-3)
            tabular.sweep(values, model.arrays, queue, 1 if i < 250 else 10_000, learning_rate, 0.9, 1e-3)
            known = model.arrays.pair[: model.arrays.counters[OUTCOMES]]
            errors = {pair: abs(tabular.error(values.ravel(), model.arrays, pair, ACTIONS, 0.9)) for pair in set(known)}
            left = waiting(queue)
            assert all(error <= max(1e-3, left.get(pair, 0.0)) + 1e-12 for pair, error in errors.items())
        assert not left
