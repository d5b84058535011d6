"""Environments: found by name, guarded, recorded and vectorised."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import gymnasium as gym
from gymnasium.wrappers import FlattenObservation, TimeLimit
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.monitor import Monitor, ResultsWriter
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from dyna import numbering, registry, spaces
from dyna.config import RunConfig
from dyna.errors import UserError, unknown
from dyna.guard import ENDS, Guarded
from dyna.imports import user_module
from dyna.restarts import Restarting
from dyna.resumable import Resumable

_Layer = TypeVar("_Layer", bound="gym.Wrapper[Any, Any, Any, Any]")


def check_id(env_id: str) -> None:
    """Raise UserError where no environment has that name; its module is imported, the environment is not made."""
    _find(env_id)


def reward_threshold(env_id: str) -> float | None:
    """The return at which Gymnasium calls an environment solved, where it names one; raises UserError as `check_id`."""
    found = _find(env_id)
    return gym.spec(found).reward_threshold if isinstance(found, str) else None


def action_space(config: RunConfig) -> gym.Space[Any]:
    """The actions of an environment, which is made for it; raises UserError as `make_one`."""
    with closing(make_one(config)) as env:
        return env.action_space


def learner(config: RunConfig) -> type[BaseAlgorithm]:
    """The class of the algorithm, of several the one that takes the environment's actions; raises UserError."""
    only, *others = registry.classes(config.algo)
    return registry.find(config.algo, action_space(config)) if others else only


def make(config: RunConfig) -> VecEnv:
    """The training environments: resumable, monitored, and normalised where the run asks for it; raises UserError."""
    envs = [_failing(Monitor(Resumable(_learnable(make_one(config), config))), config) for _ in range(config.n_envs)]
    for i, env in enumerate(envs):  # SB3 seeds the environments, and of the spaces the first one's actions
        env.action_space.seed(config.seed + i)
        env.observation_space.seed(config.seed + i)
    return _normalized(_vectorized(envs), config, training=True)


def make_evaluation(config: RunConfig, render_mode: str | None = None) -> VecEnv:
    """One environment to evaluate in; its returns are in the environment's own units; raises UserError."""
    env = _failing(Monitor(_learnable(make_one(config, render_mode), config)), config)
    return _normalized(_vectorized([env]), config, training=False)


def make_one(config: RunConfig, render_mode: str | None = None) -> gym.Env[Any, Any]:
    """The bare environment; raises UserError where it cannot be made or no algorithm could use it.

    `max_episode_steps` among the arguments sets a time limit, to a class as `gymnasium.make` does to an id.
    """
    found = _find(config.env)
    kwargs = dict(config.env_kwargs) | ({"render_mode": render_mode} if render_mode else {})
    try:
        env = gym.make(found, **kwargs) if isinstance(found, str) else _made(found, **kwargs)
    except ENDS as error:  # the environment's own code: whatever it raises is the user's to read
        raise UserError(
            f"{config.env} cannot be made with {kwargs or 'no arguments'}: {type(error).__name__}: {error}"
        ) from error
    _check(env, config.env, render_mode)
    return env


def recorders(env: VecEnv) -> list[Resumable]:
    """The resumable layer of each training environment."""
    return layers(env, Resumable)


def monitors(env: VecEnv) -> list[Monitor[Any, Any]]:
    """The monitor of each environment that this module made."""
    return layers(env, Monitor)


def layers(env: VecEnv, kind: type[_Layer]) -> list[_Layer]:
    """The outermost wrapper of a kind in each environment that this module made and that has one."""
    vectorized = env.unwrapped
    found = [_layer(each, kind) for each in vectorized.envs] if isinstance(vectorized, DummyVecEnv) else []
    return [layer for layer in found if layer is not None]


def observation_names(env: VecEnv) -> list[str]:
    """What each number of an observation is called; of an image, nothing."""
    space = layers(env, Guarded)[0].observation_space
    return [] if spaces.is_image(space) else spaces.names(space)


def before_flattening(env: VecEnv | None, space: gym.Space[Any]) -> gym.Space[Any]:
    """What was observed before it became a vector of `space`; `space` itself where no wrapper tells."""
    layer = next(iter(layers(env, FlattenObservation)), None) if env is not None else None
    return layer.env.observation_space if layer is not None and layer.observation_space.shape == space.shape else space


def log_episodes(env: VecEnv, folder: Path, *, append: bool) -> None:
    """Write finished episodes to `monitor.csv`, those of further environments to `1.monitor.csv` and so on."""
    for i, monitor in enumerate(monitors(env)):
        path = folder / (f"{i}.{Monitor.EXT}" if i else Monitor.EXT)
        name = monitor.spec.id if monitor.spec else type(monitor.unwrapped).__name__
        header: dict[str, float | str] = {"t_start": monitor.t_start, "env_id": name}
        monitor.results_writer = ResultsWriter(str(path), header, override_existing=not (append and path.exists()))


def _made(cls: type[gym.Env[Any, Any]], **kwargs: Any) -> gym.Env[Any, Any]:
    if "max_episode_steps" not in kwargs or "max_episode_steps" in inspect.signature(cls).parameters:
        return cls(**kwargs)
    limit = kwargs.pop("max_episode_steps")
    return TimeLimit(cls(**kwargs), limit)


def _learnable(env: gym.Env[Any, Any], config: RunConfig) -> gym.Env[Any, Any]:
    """The environment with its border guarded and actions counted from 0; an observation is one vector.

    To an algorithm that keeps a table it is what the environment says it is, or one number where that has parts.
    """
    guarded = Guarded(env)
    if registry.is_tabular(registry.find(config.algo)):
        return numbering.numbered(spaces.counted_from_zero(guarded))
    return spaces.learnable(guarded)


def _failing(env: Monitor[Any, Any], config: RunConfig) -> gym.Env[Any, Any]:
    """The environment with what the run asks for where it fails."""
    return Restarting(env) if config.on_env_error == "restart" else env


def _vectorized(envs: list[gym.Env[Any, Any]]) -> DummyVecEnv:
    made = iter(envs)
    return DummyVecEnv([lambda: next(made)] * len(envs))


def _normalized(env: VecEnv, config: RunConfig, *, training: bool) -> VecEnv:
    if not config.normalize:
        return env
    settings = dict(config.normalize) if isinstance(config.normalize, Mapping) else {}
    if "gamma" in config.hyperparameters:  # returns are normalised with the discount that is learnt with (RL Zoo)
        settings.setdefault("gamma", config.hyperparameters["gamma"])
    if not training:
        settings |= {"training": False, "norm_reward": False}
    try:
        return VecNormalize(env, **settings)
    except (TypeError, ValueError, AssertionError) as error:
        raise UserError(f"normalize={config.normalize} does not fit {config.env}: {error}") from error


def _find(env_id: str) -> str | type[gym.Env[Any, Any]]:
    """An id that Gymnasium knows, or a class."""
    module_name, colon, name = env_id.rpartition(":")
    module = user_module(module_name, f"the environment {env_id!r}") if colon else None
    if name in registry.environments():
        return name
    if module is None:
        raise unknown("environment", name, registry.environments(), see="`dyna list environments`")
    found = getattr(module, name, None)
    if not (inspect.isclass(found) and issubclass(found, gym.Env)):
        there = [key for key, value in vars(module).items() if inspect.isclass(value) and issubclass(value, gym.Env)]
        if found is not None:
            raise UserError(f"{env_id!r} must be a gymnasium.Env class, got {found!r:.80}; there is {there or 'none'}")
        raise unknown("environment", env_id, (f"{module_name}:{key}" for key in there), see=_origin(module))
    return found


def _origin(module: ModuleType) -> str:
    return getattr(module, "__file__", None) or module.__name__


def _check(env: gym.Env[Any, Any], env_id: str, render_mode: str | None) -> None:
    if render_mode and env.render_mode != render_mode:
        modes = env.metadata.get("render_modes") or "none"
        raise UserError(f"{env_id} has no render mode {render_mode!r}, it has {modes}")
    for kind in ("observation_space", "action_space"):
        if not isinstance(getattr(env, kind, None), gym.Space):
            raise UserError(f"{env_id} has no {kind}: set it to a gymnasium space in __init__")
    spaces.refuse(env_id, env.observation_space, env.action_space)


def _layer(env: gym.Env[Any, Any], kind: type[_Layer]) -> _Layer | None:
    """The outermost wrapper of a kind."""
    while isinstance(env, gym.Wrapper):
        if isinstance(env, kind):
            return env
        env = env.env
    return None
