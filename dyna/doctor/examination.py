"""The whole examination on one page: an environment goes in, findings come out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import gymnasium as gym
import torch
from gymnasium.spaces import Box, Space, utils

from dyna import config, envs, registry, spaces
from dyna.config import RunConfig
from dyna.doctor import advice, checkers, costs, episodes, learnability, replays, values
from dyna.doctor.findings import Broken, Finding
from dyna.doctor.sampling import Sample, collect
from dyna.errors import UserError
from dyna.guard import ENDS

STEPS = 4_000
SAMPLING_SECONDS = 20.0  # after which the steps that there are must do
WIDE = 1_000  # numbers in an observation beyond which a world model of them is no matter of a minute
Show = Callable[[str], None]


def examine(run: RunConfig, *, steps: int = STEPS, show: Show = lambda text: None) -> Iterator[Finding]:
    """Look at the environment of a run, one finding after the other; those that end it are errors.

    `show` is told what is being done. What the environment raises becomes a finding.
    """
    if run.threads:
        torch.set_num_threads(run.threads)
    show("making the environment")
    try:
        env = envs.make_one(run)
    except UserError as error:
        yield Finding("environment", "error", str(error), "mend it, then call the doctor again")
        return
    try:
        yield Finding(
            "environment", "ok", f"observes {_told(env.observation_space)}, acts in {_told(env.action_space)}"
        )
        yield from _behaviour(run, env, steps, show)
        yield from _training(run, env, show)
    except Broken as broken:
        yield broken.finding
    except UserError as error:  # from making another
        yield Finding("second environment", "error", str(error), "let two exist at once: training needs both")
    yield from _closed(env)


def _closed(env: gym.Env[Any, Any]) -> list[Finding]:
    try:
        env.close()
    except ENDS as error:  # the environment's own code
        return [
            Finding("close", "warning", f"close() raised {type(error).__name__}: {error}", "every run ends with it")
        ]
    return []


def _behaviour(run: RunConfig, env: gym.Env[Any, Any], steps: int, show: Show) -> Iterator[Finding]:
    """What it does under random actions, and what a world model learns from that."""
    show(f"playing {steps} random actions")
    sample = collect(env, steps=steps, seconds=SAMPLING_SECONDS, seed=run.seed)
    show("playing the same seeds again")
    found = [*sample.odd, *replays.examine(lambda: envs.make_one(run), run.seed, sample.seconds / sample.steps)]
    yield from found
    known = any(finding.verdict == "warning" for finding in found)
    show("calling Gymnasium's and SB3's checkers")
    yield from checkers.examine(lambda: envs.make_one(run), known=known)
    yield episodes.speed(sample)
    yield episodes.ends(sample, env.spec.max_episode_steps if env.spec else None)
    yield from _numbers(sample, env.observation_space, run.seed, show)


def _numbers(sample: Sample, space: Space[Any], seed: int, show: Show) -> Iterator[Finding]:
    if spaces.is_image(space) or utils.flatdim(space) > WIDE:
        seen = f"{utils.flatdim(space)} numbers, too many to look at each of them"
        yield Finding("observation", "note", seen, "a world model here reads vectors of up to some hundred numbers")
        return
    yield from values.examine(sample)
    show("fitting world models on a half, asking them about the other")
    yield from learnability.examine(sample, seed)


def _training(run: RunConfig, env: gym.Env[Any, Any], show: Show) -> Iterator[Finding]:
    """What a step of training costs, and what to begin with."""
    base: Mapping[str, Any] = {"env": run.env, "env_kwargs": run.env_kwargs, "seed": run.seed, "threads": run.threads}
    measured = []
    for name in registry.names():
        try:
            accepts = type(env.action_space).__name__ in registry.action_spaces(*registry.classes(name))
        except UserError:  # its package is not installed
            continue
        if accepts:
            show(f"training a moment with {name}")
            measured.append(costs.measure(config.resolve({**base, "algo": name})))
    yield costs.judge(measured)
    start = advice.recommend(measured, env.observation_space, env.action_space)
    if start is not None:
        yield start


def _told(space: Space[Any]) -> str:
    shape = list(space.shape) if isinstance(space, Box) else utils.flatdim(space)
    return f"{type(space).__name__} of {shape}"
