"""Algorithms made from a run's configuration, and their weights on the disk."""

from __future__ import annotations

import dataclasses
import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import safetensors
import safetensors.torch
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.save_util import recursive_getattr
from stable_baselines3.common.utils import FloatSchedule, LinearSchedule
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

from dyna import files, hyperparameters, registry, spaces
from dyna.config import RunConfig
from dyna.errors import UserError

SUFFIX = ".safetensors"


def make(config: RunConfig, env: VecEnv) -> BaseAlgorithm:
    """The algorithm that a run asks for, seeded; raises UserError where it does not fit."""
    if config.device.startswith("cuda") and not torch.cuda.is_available():  # SB3 would take the CPU and say nothing
        raise UserError(f"torch finds no GPU for device={config.device!r}: use --device cpu, or auto for either")
    cls = registry.find(config.algo, env.action_space)
    registry.refuse_actions(config.algo, cls, config.env, env.action_space)
    registry.refuse_images(config.algo, cls, config.env, env.observation_space, env.action_space)
    arguments = hyperparameters.build(
        cls, config.hyperparameters, observation_space=env.observation_space, action_space=env.action_space
    )
    try:
        model: BaseAlgorithm = cls(env=env, seed=config.seed, device=device(config, env.observation_space), **arguments)
    except UserError:
        raise
    except Exception as error:  # the algorithm's own code: whatever it raises is the user's to read
        what = str(error) or type(error).__name__
        raise UserError(
            f"{config.algo} cannot be made for {config.env} with {dict(config.hyperparameters) or 'its defaults'}: "
            f"{what} (`dyna train --algo {config.algo} --help` shows what can be set)"
        ) from error
    model.observation_space.seed(config.seed)  # SB3 seeds everything else
    return model


def device(config: RunConfig, observed: gymnasium.Space[Any]) -> str:
    """Where networks are computed that see such observations, for torch: those that see numbers are small."""
    parts = observed.spaces.values() if isinstance(observed, gymnasium.spaces.Dict) else (observed,)
    return "cpu" if config.device == "auto" and not any(map(spaces.is_image, parts)) else config.device


def make_player(config: RunConfig, env: VecEnv) -> BaseAlgorithm:
    """The algorithm for playing only, on any device; advice about training settings is for nobody and is not shown."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make(dataclasses.replace(config, device="auto"), env)


def save(model: BaseAlgorithm, path: Path) -> None:
    """Write `path`.zip, SB3's own format, and `path`.safetensors, from which `load` reads; raises OSError."""
    archive = io.BytesIO()
    model.save(archive)
    files.replace(path.with_suffix(".zip"), archive.getvalue())
    normalizer = model.get_vec_normalize_env()
    if normalizer is not None:  # what SB3's users load beside the zip; `load` does not need it
        pickled = path.with_name(f"{path.name}_vecnormalize.pkl")
        temporary = pickled.with_name(f".{pickled.name}.tmp")
        normalizer.save(str(temporary))
        temporary.replace(pickled)
    files.replace(path.with_suffix(SUFFIX), _serialized(weights(model)))


def load(model: BaseAlgorithm, path: Path) -> None:
    """Read what `save` wrote into a model of the same kind, running no code; raises UserError where it does not fit."""
    file = path.with_suffix(SUFFIX)
    try:
        put_weights(model, safetensors.torch.load_file(file))
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{file} cannot be read: {error}") from error
    except (RuntimeError, KeyError) as error:  # torch's list of every tensor that does not fit
        raise UserError(
            f"{file} holds other weights than the configuration describes, or another version of dyna wrote it"
        ) from error


def is_saved(weights: Mapping[str, Tensor], path: Path) -> bool:
    """Whether `path`.safetensors holds these weights, to the last bit."""
    try:
        return path.with_suffix(SUFFIX).read_bytes() == _serialized(weights)
    except OSError:
        return False


def weights(model: BaseAlgorithm) -> dict[str, Tensor]:
    """What plays: a copy of every weight, and of the moments by which observations are normalised."""
    found = {name: value.clone() for name, value in _observation_moments(model).items()}
    for name, module in modules(model).items():
        found |= {f"{name}/{key}": value.cpu().contiguous().clone() for key, value in module.state_dict().items()}
    return found


def put_weights(model: BaseAlgorithm, weights: Mapping[str, Tensor]) -> None:
    """Restore what `weights` returned; raises RuntimeError or KeyError where it does not fit."""
    for name, module in modules(model).items():
        start = f"{name}/"
        module.load_state_dict({key[len(start) :]: t for key, t in weights.items() if key.startswith(start)})
    for name, value in _observation_moments(model).items():
        value.copy_(weights[name])


def modules(model: BaseAlgorithm) -> dict[str, nn.Module]:
    """The networks that an algorithm declares as its own."""
    found = {name: recursive_getattr(model, name) for name in model._get_torch_save_params()[0]}
    return {name: module for name, module in found.items() if isinstance(module, nn.Module)}


def updates(model: BaseAlgorithm) -> dict[str, int]:
    """Gradient updates by what they trained; for SB3's algorithms, counted by their optimisers."""
    counted = getattr(model, "updates", None)
    if counted is not None:
        return dict(counted)
    steps = {name: _optimizer_steps(recursive_getattr(model, name)) for name in model._get_torch_save_params()[0]}
    shared = steps.get("policy.optimizer", 0)
    return {
        "critic": steps.get("critic.optimizer", shared),
        "actor": steps.get("actor.optimizer", shared if isinstance(model.policy, ActorCriticPolicy) else 0),
        "model": 0,
        "distil": 0,
        "plans": 0,
    }


def schedules(model: BaseAlgorithm) -> list[str]:
    """What depends on the share of the run that is done: a learning rate that falls, DQN's exploration."""
    found = {name: value for name, value in vars(model).items() if isinstance(value, (FloatSchedule, LinearSchedule))}
    return [name for name, value in found.items() if len({value(left) for left in (1.0, 0.5, 0.0)}) > 1]


def world_model_metrics(model: BaseAlgorithm) -> dict[str, float]:
    """What a model-based algorithm last measured of its world model; empty for others."""
    return dict(getattr(model, "world_model_metrics", {}))


def ledger(model: BaseAlgorithm) -> dict[str, Any]:
    """What an algorithm sums up of a whole run, a sentence under `in_words`; empty for those that do not."""
    return model.ledger() if hasattr(model, "ledger") else {}


def _optimizer_steps(optimizer: Any) -> int:
    if not isinstance(optimizer, torch.optim.Optimizer):
        return 0
    return max((int(state["step"]) for state in optimizer.state.values() if "step" in state), default=0)


def _serialized(weights: Mapping[str, Tensor]) -> bytes:
    return safetensors.torch.save(dict(weights))


def _observation_moments(model: BaseAlgorithm) -> dict[str, Tensor]:
    """Views of what VecNormalize has measured of the observations; its policy is worth nothing without them."""
    normalizer = model.get_vec_normalize_env()
    if normalizer is None or not normalizer.norm_obs:
        return {}
    moments = normalizer.obs_rms if isinstance(normalizer.obs_rms, dict) else {"": normalizer.obs_rms}
    views: dict[str, Tensor] = {}
    for key, one in moments.items():
        for name in ("mean", "var"):
            array = np.ascontiguousarray(getattr(one, name))
            setattr(one, name, array)
            views[f"obs_rms/{key}/{name}"] = torch.from_numpy(array)
    return views
