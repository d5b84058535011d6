"""Exact ends of Gymnasium's tasks, for comparisons of a learned end with a given one."""

from __future__ import annotations

from torch import Tensor


def hopper_fallen(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """Hopper-v5's end: [B, 11], [B, 3], [B, 11] -> bool [B] (gymnasium.envs.mujoco.hopper_v5, `is_healthy`)."""
    height, angle, others = next_obs[:, 0], next_obs[:, 1], next_obs[:, 2:]
    return ~((height > 0.7) & (angle.abs() < 0.2) & (others.abs() < 100.0).all(dim=1))
