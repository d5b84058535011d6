"""What an ensemble's members say about one step together: fused moments, information lost, disagreement.

Pure functions of a `Prediction`. All are computed dimension by dimension, next observation then reward, and do not
depend on the units of a dimension.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from dyna.errors import UserError
from dyna.types import Prediction


class Fused(NamedTuple):
    """The members' Gaussians merged into one estimate of the true step (Frauenknecht et al. 2025, section 4)."""

    mean: Tensor  # [B, S+1] precision-weighted mean of the members
    var: Tensor  # [B, S+1] aleatoric: harmonic mean of the members' variances
    disagreement: Tensor  # [B, S+1] epistemic: mean squared distance of the members' means to `mean`

    @property
    def gain(self) -> Tensor:
        """K [B, S+1] in [0, 1]: how far a member's sample is believed; 1 where the members agree."""
        return self.var / (self.var + self.disagreement)

    @property
    def lost_var(self) -> Tensor:
        """(1 - K) var [B, S+1]: what stays unknown of the true step once a member's sample is known."""
        # var * disagreement / (var + disagreement), which does not cancel when K is close to 1
        return self.gain * self.disagreement


def fuse(prediction: Prediction) -> Fused:
    """Merge the members: Var = (mean_e Var_e^-1)^-1, mu = Var mean_e(Var_e^-1 mu_e); every std must be positive.

    Raises UserError for a single member, which has nobody to disagree with.
    """
    _at_least_two(prediction)
    precision = prediction.std.square().reciprocal()
    var = precision.mean(0).reciprocal()
    mean = var * (precision * prediction.mean).mean(0)
    return Fused(mean, var, (prediction.mean - mean).square().mean(0))


def spread(values: Tensor) -> Tensor:
    """Standard deviation of each column, [B, D] -> [D]; 1 where a column is constant and so has no scale."""
    wide = values.double()  # single floats may find a spread where all are 0.1
    std = wide.std(0, correction=0)
    return torch.where(std > 1e-6 * wide.mean(0).abs(), std, torch.ones_like(std)).to(values)


def information_lost(fused: Fused, scale: Tensor, quantum: float) -> Tensor:
    """Bits [B, S+1] that a step loses: entropy of `lost_var` in bins of `quantum * scale`, at least 0.

    `scale` [S+1] is the spread of each dimension in real data, so that the count does not depend on units.
    Frauenknecht et al. 2025, section 5.
    """
    entropy = 0.5 * torch.log2(2.0 * math.pi * math.e * fused.lost_var / scale.square())
    return (entropy - math.log2(quantum)).clamp_min(0.0)


def geometric_jensen_shannon(prediction: Prediction) -> Tensor:
    """Mean pairwise geometric Jensen-Shannon divergence of the members, summed over dimensions, in nats: [B].

    The dual form at skew 1/2 that MACURA uses (Frauenknecht et al. 2024, section 4), KL(G||p)/2 + KL(G||q)/2 with G
    the normalised geometric mean of p and q; for Gaussians it is the Bhattacharyya distance.
    """
    a, b = torch.triu_indices(*2 * (_at_least_two(prediction),), offset=1, device=prediction.mean.device)
    var = prediction.std.square()
    both = var[a] + var[b]  # [pairs, B, S+1]
    apart = (prediction.mean[a] - prediction.mean[b]).square() / (4.0 * both)
    unlike = 0.5 * torch.log(both / (2.0 * prediction.std[a] * prediction.std[b]))
    return (apart + unlike).sum(-1).mean(0)


def one_vs_rest_kl(prediction: Prediction, member: Tensor) -> Tensor:
    """KL(p_i || rest merged into one Gaussian) in nats [B], with i the `member` [B] int64 of each row.

    Pan et al. 2020 (M2AC), section 4.
    """
    others = _at_least_two(prediction) - 1
    mean = prediction.mean - prediction.mean.mean(0)  # centred, or the squares below would swamp small variances
    var = prediction.std.square()
    second = var + mean.square()
    row = torch.arange(len(member), device=member.device)
    mean_i, var_i = mean[member, row], var[member, row]
    mean_rest = (mean.sum(0) - mean_i) / others
    var_rest = (second.sum(0) - second[member, row]) / others - mean_rest.square()
    return 0.5 * (torch.log(var_rest / var_i) - 1.0 + (var_i + (mean_i - mean_rest).square()) / var_rest).sum(-1)


def _at_least_two(prediction: Prediction) -> int:
    members = prediction.mean.shape[0]
    if members < 2:
        raise UserError(f"disagreement needs an ensemble of at least 2 members, got {members}; train more members")
    return members
