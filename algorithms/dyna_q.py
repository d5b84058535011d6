"""Dyna-Q (Sutton 1990; Sutton & Barto 2018, section 8.2): Q-learning from real steps and from remembered ones."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.type_aliases import GymEnv

from dyna.errors import UserError
from dyna.kernels import tabular
from dyna.tabular import TablePolicy, TabularDyna


class DynaQ(TabularDyna):
    """Q-learning that plans: after each real step it learns from many drawn from a table of what it has seen.

    It needs observations that can be counted: Discrete, MultiDiscrete, MultiBinary, and Tuples and Dicts of these.

    :param planning_steps: Planning updates a real step (n in the book).
    """

    planning_kappa = 0.0
    """Weight of the bonus in planned rewards, which Dyna-Q+ has."""

    def __init__(
        self,
        policy: str | type[TablePolicy] = "TablePolicy",
        env: GymEnv | str | None = None,
        planning_steps: int = 50,
        **tabular_dyna: Any,
    ) -> None:
        if planning_steps < 0:
            raise UserError(f"planning_steps must be at least 0, got {planning_steps}")
        self.planning_steps = planning_steps
        super().__init__(policy, env, **tabular_dyna)

    def observe(self, state: int, action: int, reward: float, next_state: int, learning_rate: float) -> None:
        """The loop of section 8.2, from line (d) on."""
        values, gamma, n = self.policy.values, self.gamma, self.planning_steps
        tabular.learn(values, state, action, reward, next_state, learning_rate, gamma)  # (d)
        self.world_model.remember(state, action, reward, next_state)  # (e)
        tabular.plan(values, self.world_model.arrays, n, learning_rate, gamma, self.planning_kappa, self.random)  # (f)
        self.updates["critic"] += 1 + n
        self.updates["model"] += 1
