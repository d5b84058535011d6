"""The tabular family in plain Python, with dictionaries and in the words of the book, to hold the kernels against.

From equal random words a twin and its kernels come to equal numbers, to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

MASK = (1 << 64) - 1


@dataclass
class SplitMix64:
    """Steele, Lea, Flood 2014, figure 13."""

    state: int

    def word(self) -> int:
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        word = self.state
        word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & MASK
        return word ^ (word >> 31)

    def below(self, n: int) -> int:
        """Lemire 2019, with 32 bits."""
        product = (self.word() >> 32) * n
        while product & 0xFFFFFFFF < (1 << 32) % n:
            product = (self.word() >> 32) * n
        return product >> 32

    def uniform(self) -> float:
        return (self.word() >> 11) * 2.0**-53


@dataclass
class Outcome:
    """What followed a pair: the next state, how often, and with which mean reward."""

    next_state: int
    count: int = 0
    reward: float = 0.0


@dataclass
class Model:
    """What was seen; `latest` forgets all but what followed last."""

    latest: bool
    clock: int = 0
    outcomes: dict[int, dict[int, list[Outcome]]] = field(
        default_factory=dict
    )  # of a state, of an action, newest first
    tried_at: dict[tuple[int, int], int] = field(default_factory=dict)

    def assume(self, state: int, n_actions: int) -> None:
        actions = self.outcomes.setdefault(state, {})
        for action in range(n_actions):
            actions.setdefault(action, [Outcome(state)])

    def remember(self, state: int, action: int, reward: float, next_state: int) -> None:
        self.clock += 1
        self.tried_at[state, action] = self.clock
        seen = self.outcomes.setdefault(state, {}).setdefault(action, [])
        if self.latest or (seen and seen[0].count == 0):
            seen.clear()
        found = next((outcome for outcome in seen if outcome.next_state == next_state), None)
        if found is None:
            found = Outcome(next_state)
            seen.insert(0, found)
        found.count += 1
        found.reward += (reward - found.reward) / found.count

    def longing(self, state: int, action: int) -> float:
        return math.sqrt(self.clock - self.tried_at.get((state, action), 0))


@dataclass
class Agent:
    """Section 8.2's box, line by line; with a kappa section 8.3's."""

    n_states: int
    n_actions: int
    random: SplitMix64
    learning_rate: float
    gamma: float
    epsilon: float
    n: int
    kappa: float = 0.0
    untried: bool = False
    latest: bool = False

    def __post_init__(self) -> None:
        self.q = [[0.0] * self.n_actions for _ in range(self.n_states + 1)]
        self.model = Model(self.latest)

    def act(self, preferences: Sequence[float]) -> int:
        if self.random.uniform() < self.epsilon:
            return self.random.below(len(preferences))
        best = [action for action, value in enumerate(preferences) if value == max(preferences)]
        return best[self.random.below(len(best))] if len(best) > 1 else best[0]

    def learn(self, state: int, action: int, reward: float, next_state: int) -> None:
        error = reward + self.gamma * max(self.q[next_state]) - self.q[state][action]
        self.q[state][action] += self.learning_rate * error

    def observe(self, state: int, action: int, reward: float, next_state: int) -> None:
        self.learn(state, action, reward, next_state)
        if self.untried:
            self.model.assume(state, self.n_actions)
        self.model.remember(state, action, reward, next_state)
        for _ in range(self.n):
            self.plan()

    def plan(self) -> None:
        states = list(self.model.outcomes)
        state = states[self.random.below(len(states))]
        actions = list(self.model.outcomes[state])
        action = actions[self.random.below(len(actions))]
        outcome = self.drawn(self.model.outcomes[state][action])
        reward = outcome.reward + self.kappa * self.model.longing(state, action)
        self.learn(state, action, reward, outcome.next_state)

    def drawn(self, outcomes: Sequence[Outcome]) -> Outcome:
        if len(outcomes) == 1:
            return outcomes[0]
        drawn = self.random.below(sum(outcome.count for outcome in outcomes))
        for outcome in outcomes:
            drawn -= outcome.count
            if drawn < 0:
                return outcome
        raise AssertionError


@dataclass
class Sweeper(Agent):
    """Section 8.4's box, with expected updates; whose error a learning rate below 1 leaves waits again."""

    theta: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        self.queue: dict[tuple[int, int], float] = {}

    def error(self, state: int, action: int) -> float:
        outcomes = self.model.outcomes[state][action]
        targets = [outcome.reward + self.gamma * max(self.q[outcome.next_state]) for outcome in outcomes]
        if len(outcomes) == 1:
            return targets[0] - self.q[state][action]
        total = 0.0
        for outcome, target in zip(outcomes, targets, strict=True):
            total += outcome.count * target
        return total / sum(outcome.count for outcome in outcomes) - self.q[state][action]

    def push(self, pair: tuple[int, int], priority: float) -> None:
        if priority > self.theta:
            self.queue[pair] = max(priority, self.queue.get(pair, 0.0))

    def observe(self, state: int, action: int, reward: float, next_state: int) -> None:
        self.model.remember(state, action, reward, next_state)
        self.push((state, action), abs(self.error(state, action)))
        for _ in range(self.n):
            if self.queue:
                self.sweep()

    def sweep(self) -> None:
        state, action = min(self.queue, key=lambda pair: (-self.queue[pair], pair))
        del self.queue[state, action]
        error, value = self.error(state, action), max(self.q[state])
        self.q[state][action] += self.learning_rate * error
        self.push((state, action), (1.0 - self.learning_rate) * abs(error))
        for pair in self.predecessors(state) if max(self.q[state]) != value else ():
            self.push(pair, abs(self.error(*pair)))

    def predecessors(self, state: int) -> list[tuple[int, int]]:
        return [
            (before, action)
            for before, actions in self.model.outcomes.items()
            for action, outcomes in actions.items()
            if any(outcome.next_state == state for outcome in outcomes)
        ]
