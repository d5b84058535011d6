"""Prioritized sweeping (Moore & Atkeson 1993; Peng & Williams 1993; Sutton & Barto 2018, section 8.4)."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.type_aliases import GymEnv, Schedule

from dyna.errors import UserError
from dyna.kernels import tabular
from dyna.kernels.tabular import Queue
from dyna.tabular import TablePolicy, TabularDyna
from dyna.transition_table import Arrays


class PrioritizedSweeping(TabularDyna):
    """Planning where it matters most: the pair with the largest expected error first, then what leads to its state.

    An update is the expectation over all that followed, by their counts, so that a learning rate of 1 suits random
    environments too. It needs observations that can be counted: Discrete, MultiDiscrete, MultiBinary, and Tuples and
    Dicts of these.

    :param planning_steps: Planning updates a real step at most (n in the book).
    :param theta: Least error of a pair that is worth an update.
    """

    queue: Arrays[Queue]

    def __init__(
        self,
        policy: str | type[TablePolicy] = "TablePolicy",
        env: GymEnv | str | None = None,
        learning_rate: float | Schedule = 1.0,
        planning_steps: int = 50,
        theta: float = 1e-4,
        **tabular_dyna: Any,
    ) -> None:
        if planning_steps < 0:
            raise UserError(f"planning_steps must be at least 0, got {planning_steps}")
        if theta < 0.0:
            raise UserError(f"theta must be at least 0, got {theta}")
        self.planning_steps, self.theta = planning_steps, theta
        super().__init__(policy, env, learning_rate=learning_rate, **tabular_dyna)

    def observe(self, state: int, action: int, reward: float, next_state: int, learning_rate: float) -> None:
        """The loop of section 8.4, from line (d) on."""
        self.world_model.remember(state, action, reward, next_state)  # (d)
        values, table, queue = self.policy.values, self.world_model.arrays, self.queue.arrays
        tabular.put(values, table, queue, state * values.shape[1] + action, self.gamma, self.theta)  # (e), (f)
        n, rate = self.planning_steps, learning_rate
        self.updates["critic"] += tabular.sweep(values, table, queue, n, rate, self.gamma, self.theta)  # (g)
        self.updates["model"] += 1

    def _setup_model(self) -> None:
        super()._setup_model()
        self.queue = Arrays(tabular.new_queue(self.action_values.size))

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        names, tensors = super()._get_torch_save_params()
        return [*names, "queue"], tensors
