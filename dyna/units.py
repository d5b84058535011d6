"""The units in which a learner sees and values: the environment's own, unless these lie far from 1.

Networks begin with weights for numbers around 1, and Adam's steps are as large whatever the loss, so that a learner is
lost among millions and millionths. What lies near 1 stays as it is: a learner without need is its base algorithm.
"""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import Tensor, nn

NEAR_OBS = (1e-2, 1e2)
"""From the least standard deviation to the greatest distance from 0 of a dimension that a network takes as it is."""
NEAR_REWARD = (1e-2, 1e3)
"""Between these the greatest reward, whatever its sign, is taken as it is."""
NEWEST = 100_000
"""Rewards that tell what is usual."""
NEAR_SPREAD = (0.1, 100.0)
"""Between these the spread of usual rewards lets entropy begin with the weight that it is given."""


class Standardised(FlattenExtractor):
    """Observations in units of the data's spread, [B, S] -> [B, S]; as they are until `moments` are set."""

    mean: Tensor  # [S]
    std: Tensor  # [S]
    known: Tensor  # [] whether they were set

    def __init__(self, observation_space: spaces.Space[Any]) -> None:
        super().__init__(observation_space)
        self.register_buffer("mean", torch.zeros(self.features_dim))
        self.register_buffer("std", torch.ones(self.features_dim))
        self.register_buffer("known", torch.tensor(False))

    def forward(self, observations: Tensor) -> Tensor:
        return (super().forward(observations) - self.mean) / self.std


@torch.no_grad()
def standardise_far(policy: nn.Module, mean: Tensor, std: Tensor) -> None:
    """See the dimensions in units of their spread that lie far from 1: mean and std [S] of the data."""
    far = (std < NEAR_OBS[0]) | (mean.abs() + 3 * std > NEAR_OBS[1])
    for module in policy.modules():
        if isinstance(module, Standardised):
            module.mean.copy_(torch.where(far, mean, 0.0))
            module.std.copy_(torch.where(far, std, 1.0))
            module.known.fill_(True)


def reward_unit(reward: Tensor) -> float:
    """What to divide rewards [B] by: 1, or where they lie far from it their spread, a tenth of their mean at least."""
    greatest = float(reward.abs().max())
    if greatest == 0.0 or NEAR_REWARD[0] <= greatest <= NEAR_REWARD[1]:
        return 1.0
    return max(float(reward.double().std(correction=0)), 0.1 * abs(float(reward.double().mean())))


def usual_rewards(reward: Tensor) -> tuple[float, float]:
    """The middle of usual rewards [B], 1 to 99 % of the newest, and how far they lie apart.

    That is half of what they span, or their deviation where rare ones make it more; 1 until one is paid.
    """
    newest = reward[-NEWEST:]
    least, most = (float(torch.quantile(newest, share)) for share in (0.01, 0.99))
    centre, half = (least + most) / 2, (most - least) / 2
    return centre, max(half, float(newest.std()), 0.1 * abs(centre), 1e-6) if newest.any() else 1.0
