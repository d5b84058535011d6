"""Scales of observations and rewards, and dimensions that say nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from dyna.doctor.findings import Finding
from dyna.doctor.sampling import Sample

# Inputs of a plain network should be about 1. At a hundred, its first layer starts a hundred times too loud; at a
# thousandth, Adam's steps of 3e-4 need thousands of updates until a weight has grown enough to hear the dimension.
# Model-based algorithms here bring far dimensions to one size themselves, and refuse VecNormalize.
LOUD, QUIET = 1e2, 1e-3
ALIKE = 1e-9  # below 1 that a correlation of copies may be: float32 costs 1e-14, the sine of a small angle 1e-6
# Under 4,000 random actions one of 11 of Gymnasium's tasks leads to an edge more often: Walker2d-v5, whose velocities
# are cut at 10, in 79 of a hundred steps.
CUT = 0.05
FEW = 20  # steps at a bound that are no coincidence
NORMALIZE = "divide in the environment, or --normalize true with an algorithm that learns no world model"


def examine(sample: Sample) -> list[Finding]:
    """Of the observations, their dimensions, and the rewards."""
    obs = torch.cat([sample.transitions.obs, sample.transitions.next_obs[-1:]]).double()
    return [observations(obs, sample), dimensions(obs, sample), *cuts(sample), rewards(sample)]


def observations(obs: Tensor, sample: Sample) -> Finding:
    """Spread and size of each dimension: obs [B, S]."""
    std, size = obs.std(0, correction=0), obs.square().mean(0).sqrt()
    varied = (std > 0) & sample.continuous
    loud = [i for i in varied.nonzero().flatten().tolist() if size[i] > LOUD]
    quiet = [i for i in varied.nonzero().flatten().tolist() if std[i] < QUIET and i not in loud]
    for what, values, found in (("root mean square", size, loud), ("standard deviation", std, quiet)):
        if found:
            seen = _listed([f"{sample.names[i]} {values[i]:.3g}" for i in found])
            return Finding("observation scale", "warning", f"{what} {seen}", NORMALIZE)
    if not varied.any():
        return Finding("observation scale", "ok", "numbers of a list, told one-hot")
    low, high = float(std[varied].min()), float(std[varied].max())
    return Finding("observation scale", "ok", f"standard deviations from {low:.3g} to {high:.3g}")


def dimensions(obs: Tensor, sample: Sample) -> Finding:
    """Dimensions that never change, and copies of others."""
    std = obs.std(0, correction=0)
    constant = (sample.continuous & (std <= 1e-9 * obs.abs().amax(0))).nonzero().flatten().tolist()
    if constant:
        seen = f"never changed: {_listed([f'{sample.names[i]} = {obs[0, i]:.4g}' for i in constant])}"
        return Finding("constant dimensions", "warning", seen, "leave them out, unless they change in other episodes")
    boxes = sample.continuous.nonzero().flatten().tolist()
    copies = _copies(obs[:, boxes], [sample.names[i] for i in boxes])
    if copies:
        return Finding(
            "duplicated dimensions", "warning", f"the same numbers: {_listed(copies)}", "leave one of each out"
        )
    return Finding("dimensions", "ok", f"{obs.shape[1]}, all of them change, none is a copy of another")


def cuts(sample: Sample) -> list[Finding]:
    """Numbers that steps often lead to the edge of what was seen, as if what lies beyond had been cut off."""
    arrived = sample.transitions.next_obs
    names, at_edge = [], torch.zeros(len(arrived), dtype=torch.bool)
    for i in sample.continuous.nonzero().flatten().tolist():
        edges = [arrived[:, i] == bound for bound in arrived[:, i].aminmax()]
        inside = arrived[~(edges[0] | edges[1]), i]
        has_many_values = len(torch.unique_consecutive(inside.sort().values)) > len(inside) / 2
        often = [edge for edge in edges if edge.sum() >= FEW]
        if often and len(inside) and has_many_values:
            names.append(sample.names[i])
            at_edge |= torch.stack(often).any(0)
    share = float(at_edge.double().mean())
    if share < CUT:
        return []
    seen = f"{share:.0%} of the steps lead to the edge of a number: {_listed(names)}"
    return [Finding("cut numbers", "note", seen, "if more lies beyond, show it: what is cut off cannot be foreseen")]


def rewards(sample: Sample) -> Finding:
    """Size of the rewards, and whether there is anything to learn from."""
    reward, terminated = sample.transitions.reward.double(), sample.transitions.terminated
    size, spread = float(reward.square().mean().sqrt()), float(reward.std(correction=0))
    if spread <= 1e-9 * size and not terminated.any():
        seen = f"always {reward[0]:.4g} under random actions, and no step ended the task"
        remedy = "reward progress too, or begin some episodes near the goal"
        # a price on each step is how tasks are posed that a goal ends; no reward at all is more often a mistake
        return Finding("reward", "note" if size else "warning", seen, remedy)
    if size > LOUD or 0 < size < QUIET:
        remedy = f"divide by about {size:.1g} in the environment"
        return Finding("reward scale", "warning", f"root mean square {size:.3g}", remedy)
    seen = f"mean {float(reward.mean()):.3g}, from {float(reward.min()):.3g} to {float(reward.max()):.3g}"
    return Finding("reward", "ok", seen)


def _copies(obs: Tensor, names: list[str]) -> list[str]:
    """Pairs of columns that hold the same number, or its negative, up to an offset and a unit."""
    if not names:  # states are numbered, and torch warns of what it is asked about no column
        return []
    standard = (obs - obs.mean(0)) / obs.std(0, correction=0).clamp_min(1e-300)
    alike = standard.T @ standard / len(obs)
    pairs = (alike.abs() > 1 - ALIKE).triu(1).nonzero().tolist()
    return [f"{names[i]} and {names[j]}" for i, j in pairs]


def _listed(items: list[str]) -> str:
    return ", ".join(items[:5]) + (f" and {len(items) - 5} more" if len(items) > 5 else "")
