"""What to begin with: an algorithm, and settings that were found on an environment of like size."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
from gymnasium.spaces import Discrete, Space, utils

from dyna import plain, presets, registry
from dyna.config import RunConfig
from dyna.doctor.costs import Cost
from dyna.doctor.findings import Finding
from dyna.runs import called

LIKE = 2.0  # how many times more dimensions, of observations times of actions, an environment of like size may have
STEPS = 20_000  # where no preset is near: what a small locomotion task takes


def recommend(costs: list[Cost], observations: Space[Any], actions: Space[Any]) -> Finding | None:
    """Of the algorithms that could be trained, the first registered one that learns a world model, else the first."""
    trained = [each for each in costs if each.milliseconds is not None]
    trained.sort(key=lambda cost: _rank(cost.settings.algo, observations))  # equals stay in the registry's order
    if not trained:
        return None
    best = trained[0].settings
    changes, why = _settings(best, observations, actions)
    steps = changes.pop("steps", best.steps)
    minutes = steps * (trained[0].milliseconds or 0) / 60_000
    command = f"{called('dyna')} train {' '.join(_words(best, steps, changes))}"
    return Finding("start with", "ok", f"{why}; about {minutes:.3g} minutes here, evaluations aside", command)


def _rank(algo: str, observations: Space[Any]) -> tuple[bool, bool]:
    """What comes first: world models, and tables where states are numbers."""
    cls = registry.find(algo)
    return not registry.is_model_based(cls), isinstance(observations, Discrete) != registry.is_tabular(cls)


def _settings(best: RunConfig, observations: Space[Any], actions: Space[Any]) -> tuple[dict[str, Any], str]:
    """What to set besides the environment and the algorithm, and why."""
    blocks = presets.blocks_of(best.algo)
    if best.env in blocks:
        return {}, f"{best.algo} has a preset for it"
    sizes = {name: _distance(name, observations, actions) for name in blocks}
    near = min(sizes, key=lambda name: sizes[name], default=None)
    if near is None or sizes[near] > math.log(LIKE) + 1e-9:
        return {"steps": STEPS}, f"{best.algo} in its default settings"
    return dict(blocks[near]), f"the preset of {near}, which is about as large"


def _distance(env_id: str, observations: Space[Any], actions: Space[Any]) -> float:
    """How unlike in size an environment is; infinite where there is none of that name, or its actions are others."""
    try:
        env = gym.make(env_id)
    except gym.error.Error:  # `default`, or a package that is not installed
        return math.inf
    env.close()
    if type(env.action_space) is not type(actions):
        return math.inf
    pairs = ((env.observation_space, observations), (env.action_space, actions))
    return sum(abs(math.log(utils.flatdim(theirs) / utils.flatdim(ours))) for theirs, ours in pairs)


def _words(best: RunConfig, steps: int, changes: Mapping[str, Any]) -> list[str]:
    """The flags; numbers of evaluations follow the steps."""
    words = ["--env", shlex.quote(best.env)]
    if best.env_kwargs:
        words += ["--env-kwargs", *_assignments(best.env_kwargs)]
    words += ["--algo", best.algo, "-n", str(steps)]
    for name, value in changes.items():
        if name == "hyperparameters":
            words += ["-p", *_assignments(value)]
        else:
            words += [f"--{name.replace('_', '-')}", shlex.quote(plain.shown(value))]
    return words


def _assignments(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    found: list[str] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            found += _assignments(value, f"{prefix}{key}.")
        else:
            found.append(shlex.quote(f"{prefix}{key}={plain.shown(value).replace(', ', ',')}"))
    return found
