"""Gymnasium's Hopper-v5 and Walker2d-v5 with the velocities that they have.

Gymnasium cuts the velocities that it shows at 10. Walker2d moves its legs faster: what is seen then does not tell what
a step leads to, and a world model cannot learn it. Published results of DHMBPO are for whole velocities (4kubo/erl_lib,
`envs/gym`).
"""

from __future__ import annotations

import numpy as np
from gymnasium.envs.mujoco.hopper_v5 import HopperEnv
from gymnasium.envs.mujoco.walker2d_v5 import Walker2dEnv
from numpy.typing import NDArray


class HopperUncut(HopperEnv):
    """Hopper-v5 with all that its velocities are; same arguments, rewards and ends."""

    def _get_obs(self) -> NDArray[np.float64]:
        return _whole(self)


class Walker2dUncut(Walker2dEnv):
    """Walker2d-v5 with all that its velocities are; same arguments, rewards and ends."""

    def _get_obs(self) -> NDArray[np.float64]:
        return _whole(self)


def _whole(env: HopperEnv | Walker2dEnv) -> NDArray[np.float64]:
    """Positions, the way forward left out unless it was asked for, and velocities."""
    first = 1 if env._exclude_current_positions_from_observation else 0
    return np.concatenate([env.data.qpos.flatten()[first:], env.data.qvel.flatten()])
