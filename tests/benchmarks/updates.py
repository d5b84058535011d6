"""What an update costs: the soft actor-critic update beside SB3's, and a training step of DHMBPO by part.

    python -m tests.benchmarks.updates [--threads 1] [--repeats 7] [--steps 1000] [--device cpu]

First table: updates a second of SB3's SAC and of ours at equal sizes (Hopper's, two critics, 2x256, batches of 256) and
at the size that `mbpo` has by default. Second table: milliseconds of an environment step of `dhmbpo` in Hopper-v5 by
part, the floating-point operations of its matrix products, and what share of its time these would take at the rate
of products of matrices of 512 measured meanwhile. That rate is the processor's, so there is no share on a GPU, where
every part waits until the one before is done.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import pytest
import torch
from stable_baselines3 import SAC
from torch.utils.flop_counter import FlopCounterMode

from dyna import actor_critic
from dyna.algorithms.dhmbpo import DHMBPO
from dyna.algorithms.mbpo import MBPO
from dyna.segments import NEWEST
from tests.benchmarks.timing import PRODUCT_FLOP, interleaved, machine, products

ENV, RANDOM_STEPS, UPDATES = "Hopper-v5", 1_000, 50
PARTS = ACTING, ENVIRONMENT, FIT, TRAINING, EVALUATION, ACTOR, CRITIC, REST = (
    "acting",
    "the environment",
    "fit of the world model",
    "training rollout, forward",
    "rollouts that critics learn from, and their values",
    "actor, backward and step",
    "critics, backward and step",
    "all else: losses, target networks, temperature",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="of torch (1)")
    parser.add_argument("--repeats", type=int, default=7, help="of the first table (7)")
    parser.add_argument("--steps", type=int, default=1_000, help="environment steps of the second table (1000)")
    parser.add_argument("--device", default="cpu", help="of torch (cpu)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{machine()}\n")
    soft_actor_critic(arguments.repeats, arguments.device)
    print()
    training_step(arguments.steps, arguments.device)


def soft_actor_critic(repeats: int, device: str) -> None:
    """Updates a second, all on the same kind of data, in turns."""
    same: dict[str, Any] = {"learning_starts": RANDOM_STEPS, "batch_size": 256, "device": device, "seed": 0}
    agents = {
        "SB3's SAC, 2x256": SAC("MlpPolicy", gym.make(ENV), **same),
        "dyna, 2x256": MBPO(env=gym.make(ENV), real_share=1.0, policy_kwargs={"net_arch": [256, 256]}, **same),
        "dyna, 2x128": MBPO(env=gym.make(ENV), real_share=1.0, **same),
    }
    for agent in agents.values():
        agent.learn(RANDOM_STEPS)
    measured = interleaved({name: updates(agent) for name, agent in agents.items()}, repeats)
    print("| soft actor-critic | updates a second | lowest | highest | of SB3's |\n|---|---:|---:|---:|---:|")
    rates = {name: [UPDATES / wall for wall in seconds.wall] for name, seconds in measured.items()}
    base = statistics.median(rates["SB3's SAC, 2x256"])
    for name, rate in rates.items():
        middle = statistics.median(rate)
        print(f"| {name} | {middle:.0f} | {min(rate):.0f} | {max(rate):.0f} | {middle / base:.2f} |")


def updates(agent: SAC) -> Callable[[], object]:
    def run() -> None:
        agent.train(UPDATES, batch_size=256)
        now(agent.device)

    return run


def now(device: torch.device) -> float:
    """Seconds, when the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def training_step(steps: int, device: str) -> None:
    """A table of where the time of `steps` environment steps goes, once rollouts are led."""
    agent = DHMBPO(env=gym.make(ENV), model_growth=0.0, device=device, seed=0)
    agent.learn(NEWEST)
    steps += -steps % agent.model_every  # so that both runs fit equally often
    seconds = spent(agent, steps, lambda: now(agent.device))
    with FlopCounterMode(display=False) as counter:  # a run of its own: counting is slow
        flop = spent(agent, steps, lambda: float(counter.get_total_flops()))
    rate = PRODUCT_FLOP / statistics.median(interleaved({"products": products()}, 20)["products"].wall)
    print(f"dhmbpo in {ENV}, {steps} steps, on {device}; a core's products reach {rate / 1e9:.0f} GFLOP/s\n")
    print("| part | ms a step | MFLOP a step | share of its time at that rate |\n|---|---:|---:|---:|")
    for part, taken in seconds.items():
        told = agent.device.type == "cpu" and flop[part] >= 1e5
        share = f"{flop[part] / rate / taken:.0%}" if told else "-"
        print(f"| {part} | {1e3 * taken:.2f} | {flop[part] / 1e6:,.1f} | {share} |")


def spent(agent: DHMBPO, steps: int, clock: Callable[[], float]) -> dict[str, float]:
    """What `clock` counts in `steps` more environment steps, a step, by part and in all.

    Where one part is within another, the outer counts.
    """
    parts = dict.fromkeys(PARTS, 0.0)
    within: list[str] = []

    def watched(call: Callable[..., Any], part: Callable[..., str]) -> Callable[..., Any]:
        def watching(*args: Any, **kwargs: Any) -> Any:
            if within:
                return call(*args, **kwargs)
            within.append(part(*args))
            began = clock()
            result = call(*args, **kwargs)
            parts[within.pop()] += clock() - began
            return result

        return watching

    def of_optimiser(optimiser: torch.optim.Optimizer, _: object) -> str:
        return ACTOR if optimiser is agent.actor.optimizer else CRITIC

    began = clock()
    with pytest.MonkeyPatch.context() as patch:
        for owner, name, part in (
            (agent, "_sample_action", lambda *_: ACTING),
            (agent.get_env(), "step", lambda *_: ENVIRONMENT),
            (agent, "fit_world_model", lambda *_: FIT),
            (agent, "_rollout", lambda *_: TRAINING),
            (agent, "_evaluate", lambda *_: EVALUATION),
            (actor_critic, "step", of_optimiser),
        ):
            patch.setattr(owner, name, watched(getattr(owner, name), part))
        agent.learn(steps, reset_num_timesteps=False)
    whole = clock() - began
    parts[REST] = whole - sum(parts.values())
    return {part: value / steps for part, value in {**parts, "all": whole}.items()}


if __name__ == "__main__":
    main()
