"""Q-learning (Watkins 1989; Sutton & Barto 2018, section 6.5)."""

from __future__ import annotations

from dyna.kernels import tabular
from dyna.tabular import TabularAlgorithm


class QLearning(TabularAlgorithm):
    """A table of action values, learned from real steps alone.

    It needs observations that can be counted: Discrete, MultiDiscrete, MultiBinary, and Tuples and Dicts of these.
    """

    def observe(self, state: int, action: int, reward: float, next_state: int, learning_rate: float) -> None:
        """The last line of section 6.5's loop."""
        tabular.learn(self.policy.values, state, action, reward, next_state, learning_rate, self.gamma)
        self.updates["critic"] += 1
