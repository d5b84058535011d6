"""The world model's speed at mbrl-lib's setting: 7 members of 4x200, batch 256, Hopper's sizes.

    python -m tests.benchmarks.world_model [--threads 2]

Prints training steps a second and imagined one-step transitions a second, as medians of interleaved repeats, of three:
the world model whole (next state, and networks of their own for reward and termination); one stacked network for next
state and reward, which is all that mbrl-lib has; the same as a plain loop over members. Beside them the matrix products
a second that the processor reaches meanwhile. mbrl-lib does not install with today's packages; on two cores of the kind
that the targets were set on it made 48 training steps and 0.2 million transitions a second.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dyna import training
from dyna.lessons import normalised
from dyna.networks import EnsembleMLP, silu
from dyna.scoring import gaussian_loss
from dyna.types import Transitions
from dyna.world_model import EnsembleSettings, GaussianEnsemble, bounded
from tests.benchmarks.timing import PRODUCT_FLOP, interleaved, machine, products

OBS, ACTION, ROWS = 11, 3, 50_000
SETTINGS = EnsembleSettings(members=7, elites=5, width=200, depth=4, batch_size=256, target="delta")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch (all cores)")
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    rng = torch.Generator().manual_seed(0)
    model = GaussianEnsemble(OBS, ACTION, SETTINGS)
    obs, action = torch.randn(ROWS, OBS), torch.rand(ROWS, ACTION) * 2 - 1
    data = Transitions(obs, action, torch.randn(ROWS), obs + torch.randn(ROWS, OBS), torch.zeros(ROWS))
    rows, adam = normalised(model, data, rng), training.optimiser(model)
    stacked, loop = Stacked(), Loop()

    def dream(chunk: int = 5_000) -> None:
        for block in range(0, ROWS, chunk):
            model.sample_step(obs[block : block + chunk], action[block : block + chunk], rng=rng)

    jobs: dict[str, tuple[float, Callable[[], object]]] = {
        "training steps a second": (20, lambda: training.update(model, rows, adam, 20, rng)),
        "training steps a second, one network": (20, lambda: stacked.train(20)),
        "training steps a second, one network, loop over members": (5, lambda: loop.train(5)),
        "imagined transitions a second": (ROWS, dream),
        "imagined transitions a second, one network": (ROWS, lambda: stacked.dream(obs, action)),
        "imagined transitions a second, one network, loop over members": (ROWS, lambda: loop.dream(obs, action)),
        "float32 matrix products, GFLOP/s": (PRODUCT_FLOP / 1e9, products()),
    }
    measured = interleaved({name: job for name, (_, job) in jobs.items()}, arguments.repeats)
    print(f"{machine()}\n\n| what | median | lowest | highest |\n|---|---|---|---|")
    for name, (amount, _) in jobs.items():
        rates = [amount / seconds for seconds in measured[name].wall]
        print(f"| {name} | {statistics.median(rates):,.0f} | {min(rates):,.0f} | {max(rates):,.0f} |")


class Stacked:
    """One network a member for next state and reward, as mbrl-lib has it, stacked."""

    def __init__(self) -> None:
        hidden = [SETTINGS.width] * SETTINGS.depth
        self.network = EnsembleMLP(SETTINGS.members, OBS + ACTION, hidden, 2 * (OBS + 1), silu)
        self.parameters = list(self.network.parameters())
        self.adam = torch.optim.Adam(self.parameters, 1e-3, fused=True)
        self.x, self.y = torch.randn(7, 256, OBS + ACTION), torch.randn(7, 256, OBS + 1)

    def train(self, updates: int) -> None:
        for _ in range(updates):
            mean, log_var = self.network(self.x).chunk(2, dim=-1)
            loss = gaussian_loss(mean, bounded(log_var), self.y).mean()
            for parameter, grad in zip(self.parameters, torch.autograd.grad(loss, self.parameters), strict=True):
                parameter.grad = grad
            self.adam.step()

    @torch.no_grad()
    def dream(self, obs: Tensor, action: Tensor) -> None:
        rows = ROWS - ROWS % SETTINGS.members
        x = torch.cat([obs, action], 1)[:rows].view(SETTINGS.members, -1, OBS + ACTION)
        mean, log_var = self.network(x).chunk(2, dim=-1)
        torch.normal(mean, (0.5 * bounded(log_var)).exp())


class Loop:
    """The same, one `nn.Sequential` a member, as a first version would have it."""

    def __init__(self) -> None:
        sizes = [OBS + ACTION] + [SETTINGS.width] * SETTINGS.depth
        self.members = [
            nn.Sequential(
                *(part for a, b in zip(sizes, sizes[1:], strict=False) for part in (nn.Linear(a, b), nn.SiLU())),
                nn.Linear(SETTINGS.width, 2 * (OBS + 1)),
            )
            for _ in range(SETTINGS.members)
        ]
        self.adam = torch.optim.Adam([p for member in self.members for p in member.parameters()], 1e-3)

    def train(self, updates: int) -> None:
        for _ in range(updates):
            x, y = torch.randn(7, 256, OBS + ACTION), torch.randn(7, 256, OBS + 1)
            loss: Tensor = torch.zeros(())
            for member, inputs, target in zip(self.members, x, y, strict=True):
                mean, log_var = member(inputs).chunk(2, dim=-1)
                loss = loss + F.gaussian_nll_loss(mean, target, log_var.exp())
            self.adam.zero_grad()
            loss.backward()
            self.adam.step()

    @torch.no_grad()
    def dream(self, obs: Tensor, action: Tensor) -> None:
        for member, x in zip(self.members, torch.cat([obs, action], 1).chunk(SETTINGS.members), strict=True):
            mean, log_var = member(x).chunk(2, dim=-1)
            torch.normal(mean, (0.5 * log_var).exp())


if __name__ == "__main__":
    main()
