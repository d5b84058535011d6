"""What a plan costs for one state: PETS' with mbrl-lib's sizes, PlanFirst's with its defaults and with the sizes of
TD-MPC2 cut for a CPU, and the scores of 216 candidates of 20 steps.

    python -m tests.benchmarks.planning [--threads 1] [--repeats 9]

Prints wall and processor time as medians of interleaved repeats, with float32 and with bfloat16 networks, and beside
them the time of 20 products of matrices of 512, which is 5.4 GFLOP. Sizes are Hopper's. mbrl-lib does not install with
today's packages; on two cores of the kind that the targets were set on its plan took 1.84 s.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable

import torch
from torch import Tensor

from dyna import training
from dyna.algorithms.planfirst import PlanFirst
from dyna.plan_model import PlanModel
from dyna.plan_scores import mean_propagation, trajectory_sampling
from dyna.planners import cem, mppi
from dyna.types import Transitions
from dyna.world_model import EnsembleSettings, GaussianEnsemble
from tests.benchmarks.timing import interleaved, machine, products

OBS, ACTION = 11, 3
MBRL_LIB = EnsembleSettings(members=7, elites=5, width=200, depth=4, target="delta")
FORMATS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch (all cores)")
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    jobs: dict[str, Callable[[], object]] = {}
    for name, dtype in FORMATS.items():
        jobs[f"PETS' plan, reward and end given, {name}"] = pets(ensemble(MBRL_LIB, given=True), dtype)
        jobs[f"PETS' plan, reward and end learned, {name}"] = pets(ensemble(MBRL_LIB), dtype)
        jobs[f"MPPI plan, {name}"] = policy_seeded(ensemble(EnsembleSettings(target="delta")), dtype)
        jobs[f"216 candidates of 20 steps, {name}"] = scored(ensemble(EnsembleSettings(target="delta")), dtype)
        jobs[f"20 matrix products of 512, {name}"] = products(dtype)
    jobs["PlanFirst's plan, float32"] = planfirst()
    measured = interleaved(jobs, arguments.repeats)
    print(f"{machine()}\n\n| what | wall ms | lowest | processor ms | lowest |")
    print("|---|---|---|---|---|")
    for name, (wall, processor) in measured.items():
        cells = [statistics.median(wall), min(wall), statistics.median(processor), min(processor)]
        print(f"| {name} | {' | '.join(f'{1e3 * cell:,.1f}' for cell in cells)} |")


def ensemble(settings: EnsembleSettings, *, given: bool = False) -> GaussianEnsemble:
    """Untrained, in the units of random data: what it says is of no matter here."""
    model = GaussianEnsemble(OBS, ACTION, settings)
    if given:
        model.reward_fn, model.termination_fn = speed, fallen
    obs, action = torch.randn(2_000, OBS), torch.rand(2_000, ACTION) * 2 - 1
    data = Transitions(obs, action, obs[:, 0], obs + 0.1 * torch.randn(2_000, OBS), (obs[:, 0] > 2).float())
    training.set_units(model, data, data.reward)
    return model


def speed(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return next_obs[:, 5] + 1 - 1e-3 * action.square().sum(1)


def fallen(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return next_obs[:, 0] < -5


def pets(world_model: GaussianEnsemble, dtype: torch.dtype) -> Callable[[], object]:
    """350 candidates, 15 steps, 5 iterations, 20 particles."""
    obs, rng = torch.randn(1, OBS), torch.Generator().manual_seed(0)
    mean, std = torch.zeros(1, 15, ACTION), torch.full((1, 15, ACTION), 0.5)

    def plan() -> object:
        score = trajectory_sampling(PlanModel(world_model, dtype=dtype), obs, particles=20, rng=rng)
        return cem(score, mean, std, n=350, elites=35, iterations=5, rng=rng)

    return plan


def planfirst() -> Callable[[], object]:
    """What an agent with the default settings does at each step of Hopper-v5."""
    agent = PlanFirst(env="Hopper-v5", device="cpu")
    obs, rng = torch.randn(1, OBS), torch.Generator().manual_seed(0)
    return lambda: agent.plan(obs, torch.zeros(1, agent.horizon, ACTION), rng)


def policy_seeded(world_model: GaussianEnsemble, dtype: torch.dtype) -> Callable[[], object]:
    """256 candidates, 24 of them a policy's, 5 steps, 4 iterations, 32 elites, a value at the end."""
    obs, rng = torch.randn(1, OBS), torch.Generator().manual_seed(0)
    mean, std = torch.zeros(1, 5, ACTION), torch.full((1, 5, ACTION), 2.0)
    critic = torch.nn.Sequential(torch.nn.Linear(OBS, 128), torch.nn.SiLU(), torch.nn.Linear(128, 1))
    seeds = torch.rand(1, 24, 5, ACTION) * 2 - 1
    model = PlanModel(world_model, dtype=dtype)  # made once after a fit

    def plan() -> object:
        score = mean_propagation(model, obs, pessimism=0.5, value=lambda last: critic(last).squeeze(1))
        return mppi(score, mean, std, seeds=seeds, rng=rng)

    return plan


def scored(world_model: GaussianEnsemble, dtype: torch.dtype) -> Callable[[], object]:
    obs, plans = torch.randn(1, OBS), torch.rand(1, 216, 20, ACTION) * 2 - 1
    score = mean_propagation(PlanModel(world_model, dtype=dtype), obs)

    @torch.no_grad()
    def job() -> object:
        return score(plans)

    return job


if __name__ == "__main__":
    main()
