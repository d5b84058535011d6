"""Which plans are better than the policy, and who could have known: a run of `planfirst` held against its environment.

    python -m tests.benchmarks.advantage RUN [--which last] [--states 100] [--steps 500]

Plays the policy with a little noise, goes back to some of the states, and from each lets run the policy alone, or
`horizon` actions that differ from its own and then the policy. Prints what states are really worth, what critics say,
and what the world model says that follows the policy for so many steps before it asks the critics; then, for random
deviations and for plans, the advantage over the policy that these foretell beside the true one, and their correlation.
Returns are discounted, and both are held against a policy that answers to every state. "Doubt 2" is a plan for the mean
advantage over members and critics less two of its standard deviations.
"""

from __future__ import annotations

import argparse
import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dyna import agents, envs, runs
from dyna.plan_model import PlanModel
from dyna.plan_scores import propagated_returns
from dyna.plan_seeds import policy_plans
from dyna.planners import mppi
from dyna.resumable import Resumable
from dyna.tree import Tree

LOOKS = (20, 50, 100, 200)  # steps for which the policy is followed in the model
NOISE = 0.1  # of the actions on the way to the states
KEEP_EVERY = 5  # steps, of which some are drawn
DEVIATIONS = (0.1, 0.3, 1.0)
DOUBTS = (0.0, 1.0, 2.0, 4.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--which", default="last", choices=["last", "best"], help="model of the run (last)")
    parser.add_argument("--states", type=int, default=100, help="to start from (100)")
    parser.add_argument("--steps", type=int, default=500, help="for which a true return is followed (500)")
    arguments = parser.parse_args()
    run = runs.open(arguments.run)
    config = dataclasses.replace(run.config, device="cpu")
    env = Resumable(envs.make_one(config))
    agent: Any = agents.make(config, envs.make_evaluation(config))
    agents.load(agent, run.path / f"{arguments.which}_model")
    report(agent, env, arguments.states, arguments.steps)


@torch.no_grad()
def report(agent: Any, env: Resumable, states: int, steps: int) -> None:
    """Print it all."""
    rng = torch.Generator().manual_seed(0)
    obs, places = collected(agent, env, states)
    model, horizon = PlanModel(agent.world_model), agent.horizon
    own = policy_plans(model, obs, agent.reply, 1, horizon)[:, 0]  # [B, H, A]
    really = partial(true_returns, agent, env, places, steps=steps)
    alone, known = really(own[:, :0]), foretold(agent, model, obs, own[:, :0])
    said = {"critics": agent.value(obs).mean(0), **{f"{look} steps": known[look] for look in (horizon, *LOOKS)}}
    print(f"states are worth {alone.mean():.0f} +- {alone.std():.0f}; said, and correlation: ", end="")
    print(
        ", ".join(f"{name} {told.mean():.0f} ({correlation(told, alone):.2f})" for name, told in said.items()),
        end="\n\n",
    )
    print("| what differs | true | its spread | " + " | ".join(f"{look} steps" for look in (horizon, *LOOKS)) + " |")
    print("|---|---:|---:|" + "---:|" * (1 + len(LOOKS)))
    for name, actions in deviations(agent, model, obs, own, rng).items():
        gain, told = really(actions) - alone, foretold(agent, model, obs, actions)
        cells = [
            f"{(told[look] - known[look]).mean():.1f} ({correlation(told[look] - known[look], gain):.2f})"
            for look in (horizon, *LOOKS)
        ]
        print(f"| {name} | {gain.mean():.1f} | {gain.std():.1f} | " + " | ".join(cells) + " |", flush=True)


def collected(agent: Any, env: Resumable, states: int) -> tuple[Tensor, list[dict[str, Tree]]]:
    """Observations [B, S] of states on the policy's way, and what leads back to each."""
    noise, episode = np.random.default_rng(0), 0
    found: list[tuple[Any, dict[str, Tree]]] = []
    while len(found) < 2 * states:
        obs, _ = env.reset(seed=episode)
        episode, step, over = episode + 1, 0, False
        while not over:
            if step % KEEP_EVERY == 0:
                found.append((obs, env.state()))
            action = agent.reply(as_rows(obs)).numpy()[0]
            varied = np.clip(action + NOISE * noise.standard_normal(action.shape), -1.0, 1.0)
            obs, _, terminated, truncated, _ = env.step(agent.policy.unscale_action(varied))
            step, over = step + 1, terminated or truncated
    chosen = [found[i] for i in noise.choice(len(found), states, replace=False)]
    return torch.cat([as_rows(obs) for obs, _ in chosen]), [place for _, place in chosen]


def as_rows(obs: Any) -> Tensor:
    return torch.as_tensor(np.asarray(obs), dtype=torch.float32)[None]


def true_returns(agent: Any, env: Resumable, places: list[dict[str, Tree]], actions: Tensor, *, steps: int) -> Tensor:
    """What came [B] of actions [B, H, A] and then of the policy, from each of the places; H may be 0."""
    returns = []
    for place, first in zip(places, actions, strict=True):
        if difference := env.restore(place):
            raise SystemExit(difference)
        earned, weight = 0.0, 1.0
        for step in range(steps):
            action = first[step] if step < len(first) else agent.reply(as_rows(env.obs))[0]
            _, reward, terminated, _, _ = env.step(agent.policy.unscale_action(action.numpy()))
            earned, weight = earned + weight * float(reward), weight * agent.gamma
            if terminated:
                break
        returns.append(earned)
    return torch.tensor(returns)


def foretold(agent: Any, model: PlanModel, obs: Tensor, actions: Tensor) -> dict[int, Tensor]:
    """What members say of actions [B, H, A] and then of the policy, by the steps before critics are asked: [B] each."""
    state = obs.expand(model.members, -1, -1)
    earned, alive = torch.zeros(state.shape[:2]), torch.ones(state.shape[:2])
    told, looks = {}, {agent.horizon, *LOOKS}
    for step in range(max(looks)):
        if step < actions.shape[1]:
            action = actions[:, step].expand(model.members, -1, -1)
        else:
            action = agent.reply(state.flatten(0, 1)).view(*state.shape[:2], -1)
        after = model.next_mean(state, action)
        reward, ends = model.outcome(state, action, after)
        earned = earned + agent.gamma**step * alive * reward
        state, alive = after, alive * (1 - ends)
        if step + 1 in looks:
            worth = agent.value(state.flatten(0, 1)).mean(0).view(state.shape[:2])
            told[step + 1] = (earned + agent.gamma ** (step + 1) * alive * worth).mean(0)
    return told


def deviations(agent: Any, model: PlanModel, obs: Tensor, own: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
    """Actions [B, H, A] that differ from the policy's by name."""
    found = {
        f"noise of {size}": (own + size * torch.randn(own.shape, generator=rng)).clamp(-1, 1) for size in DEVIATIONS
    }
    found["the agent's plan"] = agent.plan(obs, torch.zeros_like(own), rng, in_play=True).actions
    returns = partial(propagated_returns, model, obs, gamma=agent.gamma, value=agent.value)
    policy = returns(own[:, None])
    for doubt in DOUBTS:

        def score(plans: Tensor, doubt: float = doubt) -> Tensor:
            gain = returns(plans) - policy
            return gain.mean(0) - doubt * gain.std(0, correction=0)

        start = torch.zeros_like(own), torch.full_like(own, 0.5)
        found[f"doubt {doubt:g}"] = mppi(
            score, *start, n=104, elites=16, iterations=3, seeds=own[:, None], rng=rng
        ).actions
    return found


def correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])


if __name__ == "__main__":
    main()
