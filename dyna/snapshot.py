"""A training that can go on elsewhere: everything that an SB3 algorithm and its environments carry, as one tree.

It is taken, and put back, between two rollouts: at `on_rollout_start`, where SB3 holds no state in local variables.
What is plain data among the algorithm's attributes is taken whatever its name; what else there is, is taken by kind. An
algorithm that holds more (a model, buffers or generators of its own) returns it from `extra_state()` and takes it back
in `load_extra_state(state)`; one that holds something of the running episode of an environment, which a resumption
may have to leave for a new one, drops it in `leave_episode(i)`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import ActionNoise, VectorizedActionNoise
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize, VecTransposeImage, unwrap_vec_wrapper
from torch import Tensor

from dyna import envs, generators, restarts
from dyna.restarts import Restarting
from dyna.tree import Tree, is_plain

_OF_THIS_PROCESS = {"start_time", "_num_timesteps_at_start", "_total_timesteps", "tensorboard_log", "verbose"}
_OF_THE_EPISODE = ("rewards", "needs_reset", "episode_returns", "episode_lengths", "episode_times", "total_steps")


def take(model: BaseAlgorithm, *, mid_rollout: bool = False) -> dict[str, Tree]:
    """Everything that the training needs to go on; arrays are not copied, so write or copy them before it does.

    In the midst of a rollout, where an environment has failed, the running episodes are left out: new ones will start.
    """
    env = model.get_env()
    assert env is not None  # a training has one
    return {
        "device": model.device.type,
        "attributes": _attributes(model, _OF_THIS_PROCESS),
        "parameters": model.get_parameters(),
        "noise": [_attributes(noise) for noise in _noises(model)],
        "exploration": [_attributes(distribution) for distribution in _distributions(model)],
        "replay": _replay_state(model),
        "extra": model.extra_state() if hasattr(model, "extra_state") else None,
        "logger": {name: _plain(getattr(model.logger, name)) for name in _LOGGER},
        "normalizer": _normalizer_state(model.get_vec_normalize_env()),
        "episodes": [_monitor_state(monitor) for monitor in envs.monitors(env)],
        "environments": [recorder.state(drop=mid_rollout) for recorder in envs.recorders(env)],
        "failures": [layer.state() for layer in envs.layers(env, Restarting)],
        "spaces": [generators.of_space(space) for space in _spaces(model)],
        "generators": generators.of_process(),
    }


def restore(model: BaseAlgorithm, state: dict[str, Tree]) -> list[str]:
    """Put back what `take` returned; return what differed of each environment that does not go on bitwise the same."""
    env = model.get_env()
    assert env is not None
    model.set_parameters(state["parameters"], exact_match=True, device=model.device)
    _put_attributes(model, state["attributes"])
    for noise, noise_state in zip(_noises(model), state["noise"], strict=True):
        _put_attributes(noise, noise_state)
    for distribution, distribution_state in zip(_distributions(model), state["exploration"], strict=True):
        _put_attributes(distribution, distribution_state)
    _put_replay(model, state["replay"])
    if state["extra"] is not None:
        model.load_extra_state(state["extra"])  # type: ignore[attr-defined]
    for name in _LOGGER:
        getattr(model.logger, name).update(state["logger"][name])
    _put_normalizer(model.get_vec_normalize_env(), state["normalizer"])
    for monitor, episode in zip(envs.monitors(env), state["episodes"], strict=True):
        _put_monitor(monitor, episode)
    differences = _put_environments(model, state["environments"])
    failures = state.get("failures") or [None] * env.num_envs  # a run that stopped at the first may go on otherwise
    for layer, recorder, failed in zip(envs.layers(env, Restarting), envs.recorders(env), failures, strict=False):
        layer.restore(failed, recorder.obs)
    before = state.get("device", model.device.type)
    if before != model.device.type:  # other generators, and sums in another order
        differences.append(f"it was trained on {before} and goes on on {model.device.type}")
    for space, space_state in zip(_spaces(model), state["spaces"], strict=True):
        generators.set_space(space, space_state)
    generators.set_process(state["generators"])  # last: all of the above may have drawn
    return differences


_LOGGER = ("name_to_value", "name_to_count", "name_to_excluded")


def _plain(values: Mapping[str, Any]) -> dict[str, Tree]:
    return {name: value for name, value in values.items() if is_plain(value)}


def _attributes(owner: object, but: set[str] | None = None) -> dict[str, Tree]:
    return {name: value for name, value in _plain(vars(owner)).items() if name not in (but or ())}


def _put_attributes(owner: object, state: dict[str, Tree]) -> None:
    for name, value in state.items():
        vars(owner)[name] = _put(vars(owner).get(name), value)


def _put(existing: Any, saved: Tree) -> Any:
    """The saved value, written into the tensors that exist: optimisers and averages hold on to them."""
    if isinstance(existing, Tensor) and isinstance(saved, Tensor) and existing.shape == saved.shape:
        existing.data.copy_(saved)
        return existing
    if isinstance(existing, (list, tuple)) and isinstance(saved, (list, tuple)) and len(existing) == len(saved):
        items = map(_put, existing, saved)
        return type(existing)(*items) if hasattr(existing, "_fields") else type(existing)(items)
    return saved


def _noises(model: BaseAlgorithm) -> list[ActionNoise]:
    noise = model.action_noise
    if isinstance(noise, VectorizedActionNoise):
        return list(noise.noises)
    return [noise] if noise is not None else []


def _distributions(model: BaseAlgorithm) -> list[StateDependentNoiseDistribution]:
    """gSDE's exploration matrices live outside the modules' state (SB3, distributions.py)."""
    found = (getattr(module, "action_dist", None) for module in model.policy.modules())
    return [distribution for distribution in found if isinstance(distribution, StateDependentNoiseDistribution)]


def _replay_state(model: BaseAlgorithm) -> Tree:
    buffer = getattr(model, "replay_buffer", None)
    if buffer is None:
        return None
    if hasattr(buffer, "state_dict"):
        return buffer.state_dict()
    return {name: _rows(value, buffer) for name, value in _attributes(buffer).items()}


def _rows(value: Tree, buffer: ReplayBuffer) -> Tree:
    """The part of an array that has been written; with shared observations, the next one lies one row further."""
    if isinstance(value, dict):
        return {key: _rows(item, buffer) for key, item in value.items()}
    if isinstance(value, np.ndarray) and value.ndim and len(value) == buffer.buffer_size and not buffer.full:
        return value[: buffer.pos + 1]
    return value


def _put_replay(model: BaseAlgorithm, state: Tree) -> None:
    buffer = getattr(model, "replay_buffer", None)
    if buffer is None:
        return
    if hasattr(buffer, "load_state_dict"):
        buffer.load_state_dict(state)
        return
    for name, value in state.items():
        vars(buffer)[name] = _put_rows(vars(buffer).get(name), value)


def _put_rows(existing: Any, saved: Tree) -> Any:
    if isinstance(existing, dict) and isinstance(saved, dict):
        return {key: _put_rows(existing.get(key), item) for key, item in saved.items()}
    if isinstance(existing, np.ndarray) and isinstance(saved, np.ndarray) and existing.shape[1:] == saved.shape[1:]:
        existing[: len(saved)] = saved
        return existing
    return saved


def _normalizer_state(normalizer: VecNormalize | None) -> Tree:
    if normalizer is None:
        return None
    return {**_attributes(normalizer, {"render_mode"}), "moments": _moments(normalizer)}


def _moments(normalizer: VecNormalize) -> Tree:
    found = {"ret_rms": normalizer.ret_rms, "obs_rms": getattr(normalizer, "obs_rms", None)}
    return {
        name: {key: dict(vars(one)) for key, one in (value.items() if isinstance(value, dict) else [("", value)])}
        for name, value in found.items()
        if value is not None
    }


def _put_normalizer(normalizer: VecNormalize | None, state: Tree) -> None:
    if normalizer is None:
        return
    for name, moments in state["moments"].items():
        value: RunningMeanStd | dict[str, RunningMeanStd] = getattr(normalizer, name)
        for key, saved in moments.items():
            vars(value[key] if isinstance(value, dict) else value).update(saved)
    vars(normalizer).update({name: value for name, value in state.items() if name != "moments"})


def _monitor_state(monitor: Monitor[Any, Any]) -> dict[str, Tree]:
    return {
        **{name: getattr(monitor, name) for name in _OF_THE_EPISODE},
        "seconds": time.time() - monitor.t_start,
        "current_reset_info": _plain(monitor.current_reset_info),
    }


def _put_monitor(monitor: Monitor[Any, Any], state: dict[str, Tree]) -> None:
    vars(monitor).update({name: value for name, value in state.items() if name != "seconds"})
    monitor.t_start = time.time() - state["seconds"]


def _put_environments(model: BaseAlgorithm, states: list[dict[str, Tree]]) -> list[str]:
    env = model.get_env()
    assert env is not None
    differences = []
    for i, (recorder, state) in enumerate(zip(envs.recorders(env), states, strict=True)):
        difference = recorder.restore(state)
        if difference is not None:
            differences.append(difference)
            if recorder.steps == 0:
                _start_episode(model, i, recorder.obs)
    return differences


def _start_episode(model: BaseAlgorithm, i: int, obs: Any) -> None:
    """Put the first observation of a new episode where the algorithm expects the one that could not be reached."""
    if hasattr(model, "leave_episode"):
        model.leave_episode(i)
    for noise in _noises(model)[i : i + 1]:
        noise.reset()
    envs.monitors(model.get_env())[i].rewards = []  # type: ignore[arg-type]
    buffer = restarts.replay_of(model)
    if buffer is not None and (buffer.pos or buffer.full):
        restarts.cut(buffer, (buffer.pos - 1) % buffer.buffer_size, i)
    normalizer, env = model.get_vec_normalize_env(), model.get_env()
    seen = normalizer.normalize_obs(obs) if normalizer is not None else obs
    transposed = unwrap_vec_wrapper(env, VecTransposeImage) if env is not None else None
    if isinstance(transposed, VecTransposeImage):
        seen = transposed.transpose_observations(seen)
    for name, value in (("_last_original_obs", obs), ("_last_obs", seen)):
        last = getattr(model, name)
        if last is not None:
            last[i] = value
    if model._last_episode_starts is not None:
        model._last_episode_starts[i] = True


def _spaces(model: BaseAlgorithm) -> list[Any]:
    env = model.get_env()
    assert env is not None
    spaces = [model.action_space, model.observation_space]
    for recorder in envs.recorders(env):
        for layer in (recorder, recorder.unwrapped):
            spaces += [layer.action_space, layer.observation_space]
    return spaces
