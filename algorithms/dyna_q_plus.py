"""Dyna-Q+ (Sutton 1990; Sutton & Barto 2018, section 8.3): Dyna-Q that longs for what it has not tried for long."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from stable_baselines3.common.type_aliases import GymEnv

from dyna import limits
from dyna.algorithms.dyna_q import DynaQ
from dyna.errors import UserError
from dyna.kernels import Doubles
from dyna.kernels.tabular import CLOCK
from dyna.tabular import TablePolicy


class DynaQPlus(DynaQ):
    """Dyna-Q with a bonus of kappa * sqrt(steps since an action was tried), for environments that change.

    Actions that were never tried in a known state are planned too, as if they led back to it with reward 0.

    :param kappa: Weight of the bonus, in units of reward.
    :param bonus: Where it counts: in the rewards of planning, or (exercise 8.4) in the choice of actions alone.
    """

    def __init__(
        self,
        policy: str | type[TablePolicy] = "TablePolicy",
        env: GymEnv | str | None = None,
        kappa: float = 1e-4,
        bonus: Literal["planning", "acting"] = "planning",
        **dyna_q: Any,
    ) -> None:
        if kappa < 0.0:
            raise UserError(f"kappa must be at least 0, got {kappa}")
        limits.word("bonus", bonus, ("planning", "acting"))
        self.planning_kappa = kappa if bonus == "planning" else 0.0
        self.acting_kappa = kappa if bonus == "acting" else 0.0
        super().__init__(policy, env, **dyna_q)

    def observe(self, state: int, action: int, reward: float, next_state: int, learning_rate: float) -> None:
        """Dyna-Q's, which may plan any action of the state from now on."""
        self.world_model.assume(state)
        super().observe(state, action, reward, next_state, learning_rate)

    def preferences(self, state: int) -> Doubles:
        """The action values, and the bonus where it counts in acting."""
        table, first = self.world_model.arrays, state * self.world_model.actions
        waited = table.counters[CLOCK] - table.tried_at[first : first + self.world_model.actions]
        preferences: Doubles = super().preferences(state) + self.acting_kappa * np.sqrt(waited)
        return preferences
