"""Agents that Stable-Baselines3's own `save` wrote. Loading one can run code that somebody put into it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from dyna import evaluate, registry
from dyna.config import RunConfig
from dyna.errors import UserError
from dyna.evaluate import Evaluation
from dyna.progress import say


def evaluate_file(path: Path, config: RunConfig, episodes: int = 10, **how: Any) -> Evaluation:
    """As `evaluate.evaluate`, with the agent in a file; it can run any code that the file holds. Raises UserError.

    Where a VecNormalize lies beside the agent, as SB3 or RL Zoo names it, observations are normalised as it says.
    """
    path = path.absolute()  # an environment may go into another folder
    return evaluate.evaluate(config, lambda env: _load(path, config, env), episodes, **how)


def _load(path: Path, config: RunConfig, env: VecEnv) -> BaseAlgorithm:
    cls, normalizer = registry.find(config.algo, env.action_space), _normalizer(path, config.env)
    if normalizer is not None:
        with _told(f"{normalizer} beside the agent does not fit {config.env}, move it away to play without it"):
            env = VecNormalize.load(str(normalizer), env)
            env.training = env.norm_reward = False
        say(f"observations are normalised by {normalizer}")
    with _told(f"{path} cannot be loaded as {config.algo} for {config.env}"):
        model = cls.load(path, env=env)
    return model


def _normalizer(path: Path, env_id: str) -> Path | None:
    """What SB3's `save`, its CheckpointCallback or RL Zoo wrote beside an agent, if anything."""
    own = re.sub(r"(_\d+_steps)?$", r"_vecnormalize\1.pkl", path.name.removesuffix(".zip"), count=1)
    places = (path.with_name(own), path.parent / env_id / "vecnormalize.pkl", path.with_name("vecnormalize.pkl"))
    return next((place for place in places if place.is_file()), None)


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever a pickle raises
        raise UserError(f"{what}: {type(error).__name__}: {' '.join(str(error).split())}") from error
