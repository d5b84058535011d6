"""What a run of `mbpo` or `dhmbpo` believes, held against what happens: model error by depth, ends, values, rewards.

    python -m tests.benchmarks.diagnosis RUN [--which last] [--episodes 10] [--deterministic]

Plays episodes with the policy of a run, on seeds that training did not see, and prints how far the world model is off
when it replays their actions, how well it knows their ends, how long episodes go on from their states and what steps
earn when the policy acts in the model, and what the critics said of the steps, in all and by the steps to the end,
beside the discounted return that followed, entropy included. Steps whose return was cut by a time limit are left out.
Values of `dhmbpo` hold its curiosity, too: as long as that pays, they are above what comes.
"""

from __future__ import annotations

import argparse
import csv
import itertools
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from stable_baselines3 import SAC
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from dyna import actor_critic, agents, envs, generators, runs
from dyna.imagination import horizon_error
from dyna.segments import Segments
from dyna.types import Transitions
from dyna.value_expansion import expand

DEPTHS = (1, 5, 20)
TO_END = (0, 3, 10, 40, 160, 1_000)  # steps, from which to before which values are told
FORGOTTEN = 0.01  # a return is whole where what was cut off weighs less


class Played(NamedTuple):
    """Steps of whole episodes, in order."""

    steps: Transitions  # [B, .]
    log_prob: Tensor  # [B] nats, of the actions
    last: Tensor  # [B] whether an episode ends with the step, by itself or by a time limit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--which", default="last", choices=["last", "best"], help="model of the run (last)")
    parser.add_argument("--episodes", type=int, default=10, help="to play (10)")
    parser.add_argument("--deterministic", action="store_true", help="play the mean action; values are of sampled ones")
    arguments = parser.parse_args()
    run = runs.open(arguments.run)
    env = envs.make_evaluation(run.config)
    agent: Any = agents.make_player(run.config, env)
    agents.load(agent, run.path / f"{arguments.which}_model")
    env.seed(generators.stream(run.config.seed, 7))
    torch.manual_seed(0)
    played = play(agent, env, arguments.episodes, arguments.deterministic)
    print(f"{run.path}: {int(played.last.sum())} episodes, {len(played.last)} steps, ", end="")
    print(f"mean return {float(played.steps.reward.sum() / played.last.sum()):.1f}\n")
    model_error(agent, played)
    ends(agent, played)
    survival(agent, played)
    earned(agent, played)
    values(agent, played, temperature(run.path))


def temperature(path: Path) -> float:
    """The newest weight of the entropy, which belongs to training and is not in a saved model."""
    with (path / "progress.csv").open(newline="") as file:
        told = [row.get("train/ent_coef") for row in csv.DictReader(file)]
    return float([value for value in told if value][-1])


@torch.no_grad()
def play(agent: SAC, env: VecEnv, episodes: int, deterministic: bool) -> Played:
    """Whole episodes in one environment."""
    rows: list[tuple[Tensor, ...]] = []
    log_probs, last = [], []
    obs = torch.as_tensor(env.reset(), dtype=torch.float32)
    while sum(last) < episodes:
        noise = torch.zeros(1, env.action_space.shape[0]) if deterministic else None  # type: ignore[index]
        action, log_prob = actor_critic.sample_action(agent.actor, obs, noise)
        told, rewards, dones, infos = env.step(agent.policy.unscale_action(action.numpy()))
        info = infos[0]
        after = torch.as_tensor(info["terminal_observation"] if dones[0] else told[0], dtype=torch.float32)
        ended = bool(dones[0]) and not info.get("TimeLimit.truncated", False)
        rows.append((obs[0], action[0], torch.tensor(float(rewards[0])), after, torch.tensor(float(ended))))
        log_probs.append(log_prob[0])
        last.append(bool(dones[0]))
        obs = torch.as_tensor(told, dtype=torch.float32)
    return Played(Transitions(*map(torch.stack, zip(*rows, strict=True))), torch.stack(log_probs), torch.tensor(last))


def model_error(agent: Any, played: Played) -> None:
    """Prints the open-loop error by depth, in standard deviations of what really happened."""
    print("| depth | state error | reward error | coverage of 90 % | reward, real | reward, imagined |")
    print("|---:|---:|---:|---:|---:|---:|")
    for depth in DEPTHS:
        rows = played.steps.windows(depth) if depth > 1 else torch.arange(len(played.last)).unsqueeze(1)
        if not len(rows):
            continue
        window = Transitions(*(part[rows] for part in played.steps))
        error = horizon_error(agent.world_model, window)
        cells = [float(part[-1]) for part in error]
        real, imagined = float(window.reward[:, -1].mean()), float(replayed_reward(agent, window).mean())
        print(f"| {depth} | " + " | ".join(f"{cell:.3f}" for cell in [*cells, real, imagined]) + " |")
    print()


@torch.no_grad()
def replayed_reward(agent: Any, window: Transitions) -> Tensor:
    """What the model pays [W] for the last of the actions of real windows [W, L, .], replayed from their start."""
    obs, reward = window.obs[:, 0], window.reward[:, 0]
    for action in window.action.unbind(1):
        mean = agent.world_model.predict(obs, action).mean.mean(0)
        obs, reward = mean[:, :-1], mean[:, -1]
    return reward


@torch.no_grad()
def ends(agent: Any, played: Played) -> None:
    """Prints how many ends the model saw coming, a step ahead, and how often it cried wolf."""
    real = played.steps.terminated > 0
    told = agent.world_model.predict(played.steps.obs, played.steps.action).p_terminated.mean(0) > 0.5
    hits = int((real & told).sum())
    f1 = 2 * hits / max(1, int(real.sum()) + int(told.sum()))
    print(f"ends: {int(real.sum())} real, {int(told.sum())} foretold, {hits} of them rightly, F1 {f1:.2f}\n")


@torch.no_grad()
def survival(agent: Any, played: Played) -> None:
    """Prints how many episodes go on from their states, in the environment and where the policy acts in the model.

    Each member takes rows of its own through all steps. Where a time limit comes first is left out.
    """
    model, start = agent.world_model, played.steps.obs
    members = model.settings.members
    to_end, by_itself = remaining(played)
    known = by_itself | (to_end >= max(DEPTHS))
    real = {depth: 1 - float((to_end[known] < depth).float().mean()) for depth in DEPTHS}
    rows = known.nonzero().squeeze(1)
    rows = rows[torch.randperm(len(rows))[: len(rows) - len(rows) % members]]
    obs, alive = start[rows], torch.ones(len(rows))
    if not len(rows):
        return
    print("going on, real and imagined: ", end="")
    for depth in range(1, max(DEPTHS) + 1):
        action, _ = actor_critic.sample_action(agent.actor, obs)
        prediction = model.predict_own(*(part.view(members, -1, part.shape[1]) for part in (obs, action)))
        mean, std, p_terminated = (part.flatten(0, 1) for part in prediction)
        alive *= 1 - p_terminated
        obs = mean[:, :-1] + std[:, :-1] * torch.randn(obs.shape)
        if depth in DEPTHS:
            print(f"{real[depth]:.3f} and {float(alive.mean()):.3f} after {depth}", end="  ")
    print("\n")


@torch.no_grad()
def earned(agent: Any, played: Played) -> None:
    """Prints what a step earns after as many of the policy's, really and in the model, with drawn and inferred noise.

    What rises with the depth in the model alone, the policy has found in what the model errs. Told are steps of which
    20 went on, and those that are more likely to go on in the model; actions are sampled.
    """
    model, longest = agent.world_model, max(DEPTHS)
    rows = played.steps.windows(longest)
    rows = rows[torch.randperm(len(rows))[: len(rows) - len(rows) % model.settings.members]].T  # [H, B]
    if not rows.numel():
        return
    obs, action, reward, next_obs, _ = (part[rows] for part in played.steps)
    segments = Segments(obs, action, next_obs, torch.ones_like(rows, dtype=torch.bool))
    told = [reward.mean(1)]
    rng = torch.Generator().manual_seed(0)
    for noise in (None, segments.noise(model)):
        led = expand(
            model, partial(actor_critic.sample_action, agent.actor), segments.start, longest, noise=noise, rng=rng
        )
        living = led.alive[:-1] > 0.5
        told.append((led.reward * living).sum(1) / living.sum(1))
    for depth in DEPTHS:
        real, drawn, inferred = (float(each[depth - 1]) for each in told)
        print(f"step {depth} earns {real:.3f}, imagined {drawn:.3f} with drawn noise, {inferred:.3f} with inferred")
    print()


def remaining(played: Played) -> tuple[Tensor, Tensor]:
    """Steps [B] that follow in each step's episode, and whether it then ended by itself [B]."""
    last = played.last.nonzero().squeeze(1)
    which = torch.searchsorted(last, torch.arange(len(played.last)))
    return last[which] - torch.arange(len(played.last)), played.steps.terminated[last[which]] > 0


@torch.no_grad()
def values(agent: Any, played: Played, alpha: float) -> None:
    """Prints the critics' values beside the discounted returns that followed, entropy weighed by `alpha`."""
    gamma = agent.gamma
    value = agent.critic(played.steps.obs, played.steps.action)
    said = torch.stack(value).squeeze(-1)  # [critics, B]
    found, whole = torch.zeros(len(played.last)), torch.zeros(len(played.last), dtype=torch.bool)
    following, weight = 0.0, 0.0  # of the next step: soft return, and what a cut before it weighs
    for i in reversed(range(len(played.last))):
        if played.last[i]:
            following, weight = 0.0, 0.0 if played.steps.terminated[i] else 1.0
        else:
            following -= alpha * float(played.log_prob[i + 1])
        found[i] = following = float(played.steps.reward[i]) + gamma * following
        weight *= gamma
        whole[i] = weight < FORGOTTEN
    to_end, by_itself = remaining(played)
    for begin, stop in itertools.pairwise(TO_END):
        rows = whole & by_itself & (begin <= to_end) & (to_end < stop)
        if rows.any():
            told, came = float(said[:, rows].mean()), float(found[rows].mean())
            print(f"{begin} to {stop} steps before an end: said {told:.0f}, found {came:.0f}")
    said, found = said[:, whole], found[whole]
    if len(found) < 2:
        print("values: no step whose return is whole")
        return
    mean = said.mean(0)
    print(
        f"values of {len(found)} steps: said {mean.mean():.1f}, lower of all critics {said.amin(0).mean():.1f}, ",
        end="",
    )
    print(f"found {found.mean():.1f}, correlation {torch.corrcoef(torch.stack([mean, found]))[0, 1]:.2f}, ", end="")
    print(f"root mean squared error {(mean - found).square().mean().sqrt():.1f}, temperature {alpha:.4f}")


if __name__ == "__main__":
    main()
