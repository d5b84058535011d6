"""Agents that Stable-Baselines3's own `save` wrote. Loading one can run code that somebody put into it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from dyna import evaluate, registry
from dyna.config import RunConfig
from dyna.errors import UserError
from dyna.evaluate import Evaluation


def evaluate_file(path: Path, config: RunConfig, episodes: int = 10, **how: Any) -> Evaluation:
    """As `evaluate.evaluate`, with the agent in a file; it can run any code that the file holds. Raises UserError."""
    return evaluate.evaluate(config, lambda env: _load(path, config, env), episodes, **how)


def _load(path: Path, config: RunConfig, env: VecEnv) -> BaseAlgorithm:
    cls = registry.find(config.algo, env.action_space)
    try:
        return cls.load(path, env=env)
    except Exception as error:  # whatever a pickle raises
        what = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(f"{path} cannot be loaded as {config.algo} for {config.env}: {what}") from error
