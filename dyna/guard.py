"""The border to an environment: what comes from it and what goes to it is what its spaces say."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from dyna.errors import RunFailed
from dyna.progress import say

FLOAT32 = float(np.finfo(np.float32).max)
_SAFE_SQUARE = 1e76  # the sum of squares up to which every number is finite in float32
_ROUNDING = 1e-6  # of an action's bounds: scaling to them and back costs that much in float32
ENDS = Exception, SystemExit
"""What may come out of an environment's code; some drivers stop by sys.exit."""
MONITORS = "episode"
"""The key of an info in which SB3 expects what its monitor says where an episode has ended."""


class EnvironmentFailed(RunFailed):
    """An environment raised, or returned what no learner can use."""


class Interrupted(KeyboardInterrupt):
    """An environment raised KeyboardInterrupt: for all that is known there it may be Ctrl-C."""


class ActionRefused(EnvironmentFailed):
    """An environment was handed an action outside its space, which a new episode does not mend."""


class Guarded(gym.Wrapper[Any, Any, Any, Any]):
    """Raises EnvironmentFailed, with the values, where the environment raises or returns what no learner can use.

    That is NaN, infinity and what is infinite in float32; a shape that the space does not have; what its dtype does not
    hold. An action that misses its bounds by rounding is put on them; for any other outside the space, ActionRefused.
    Whoever comes behind writes into a copy of the info, without the environment's own MONITORS.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self._observations, self._actions = env.observation_space, env.action_space

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Gymnasium's reset."""
        try:
            result = self.env.reset(**kwargs)
            wrong = _misshapen(result, "obs, info") or fault(self._observations, result[0])
        except (*ENDS, KeyboardInterrupt) as error:
            raise self._raised("reset", error) from error
        if wrong:
            raise self._failed("reset", f"returned {wrong}")
        return self._own(result[0]), result[1]

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Gymnasium's step."""
        action = self._admitted(action)
        try:
            result = self.env.step(action)
            wrong = _misshapen(result, "obs, reward, terminated, truncated, info") or _bad_reward(result[1])
            wrong = wrong or fault(self._observations, result[0]) or _bad_success(*result[2:])
            if not wrong:
                obs, reward, terminated, truncated, info = result
                told = {key: value for key, value in info.items() if key != MONITORS}
                return self._own(obs), float(reward), bool(terminated), bool(truncated), told
        except (*ENDS, KeyboardInterrupt) as error:
            raise self._raised(f"step({shown(action)})", error) from error
        raise self._failed(f"step({shown(action)})", f"returned {wrong}")

    def render(self) -> Any:
        """Gymnasium's render; with rgb_array a picture [height, width, 3]."""
        try:
            frame = self.env.render()
        except (*ENDS, KeyboardInterrupt) as error:
            raise self._raised("render", error) from error
        if self.render_mode == "rgb_array" and not (isinstance(frame, np.ndarray) and frame.ndim == 3):
            raise self._failed("render", f"returned {type(frame).__name__}, where rgb_array asks for a picture")
        return frame

    def close(self) -> None:
        """Gymnasium's close; what it raises is said, for nothing depends on it any more."""
        try:
            self.env.close()
        except ENDS as error:
            say(f"{type(self.unwrapped).__name__}.close {raised(error)}")

    def _own(self, obs: Any) -> Any:
        """A copy: some environments write the next observation, or that of the next episode, into the same array."""
        return np.array(obs) if isinstance(self._observations, spaces.Box) else copy.deepcopy(obs)

    def _admitted(self, action: Any) -> Any:
        space = self._actions
        if isinstance(space, spaces.Box):
            found = np.asarray(action)
            if found.shape == space.shape:
                if ((found >= space.low) & (found <= space.high)).all():
                    return action
                clipped = found.clip(space.low, space.high).astype(found.dtype)
                allowed = _ROUNDING * (abs(space.low) + abs(space.high))
                if (abs(clipped - found) <= allowed).all():
                    return clipped
        elif space.contains(action):
            return action
        name = type(self.unwrapped).__name__
        raise ActionRefused(f"{name} was handed the action {shown(action)}, which is not in its action_space {space}")

    def _raised(self, call: str, error: BaseException) -> BaseException:
        """What is raised in the place of what the environment's own code raised."""
        failed = self._failed(call, raised(error))
        return Interrupted(str(failed)) if isinstance(error, KeyboardInterrupt) else failed

    def _failed(self, call: str, what: str) -> EnvironmentFailed:
        return EnvironmentFailed(f"{type(self.unwrapped).__name__}.{call} {what}")


def fault(space: spaces.Space[Any], obs: Any, name: str = "") -> str | None:
    """What is wrong with an observation of a space, as in `returned ...`; None where nothing is."""
    if isinstance(space, spaces.Box):
        return _box_fault(space, obs, name)
    if isinstance(space, spaces.Dict):
        if not isinstance(obs, Mapping) or obs.keys() != space.spaces.keys():
            keys = list(obs) if isinstance(obs, Mapping) else type(obs).__name__
            return f"{_called(name)} with {keys}, but its space has {list(space.spaces)}"
        inside = ((inner, obs[key], f"{name}.{key}" if name else str(key)) for key, inner in space.spaces.items())
    elif isinstance(space, spaces.Tuple):
        if not isinstance(obs, (tuple, list)) or len(obs) != len(space.spaces):
            return f"{_called(name)} {shown(obs)}, but its space is a tuple of {len(space.spaces)}"
        inside = ((inner, obs[i], f"{name}[{i}]") for i, inner in enumerate(space.spaces))
    else:
        return None if space.contains(obs) else f"{_called(name)} {shown(obs)}, which is not in its space {space}"
    return next((wrong for args in inside if (wrong := fault(*args))), None)


def shown(value: Any) -> str:
    """A value in one line."""
    try:
        array = np.asarray(value)
    except ValueError:  # of ragged lists
        return f"{value!r:.80}"
    if array.dtype.kind not in "biufc":
        return f"{value!r:.80}"
    return np.array2string(array, precision=4, threshold=12, separator=", ").replace("\n", "")


def _box_fault(space: spaces.Box, obs: Any, name: str) -> str | None:
    array = np.asarray(obs)
    if array.shape != space.shape:
        return f"{_called(name)} of shape {array.shape}, but its space has {space.shape}"
    if array.dtype.kind == "f" and space.dtype.kind == "f":
        if float(np.vdot(array, array)) <= _SAFE_SQUARE:  # quicker than a test of each number
            return None
        return None if (abs(array) <= FLOAT32).all() else f"{_called(name)} {shown(obs)}"
    if array.dtype.kind not in "biuf":
        return f"{_called(name)} {shown(obs)} of dtype {array.dtype}, but its space has {space.dtype}"
    if space.dtype.kind == "f":
        return None
    with np.errstate(invalid="ignore"):
        held = (array.astype(space.dtype) == array).all()
    return None if held else f"{_called(name)} {shown(obs)}, which its dtype, {space.dtype}, does not hold"


def _called(name: str) -> str:
    return f"the observation's {name}" if name else "the observation"


def _misshapen(result: Any, wanted: str) -> str | None:
    number = len(wanted.split())
    if isinstance(result, tuple) and len(result) == number:
        return None if isinstance(result[-1], dict) else f"the info {result[-1]!r:.80}, which must be a dict"
    got = f"{len(result)} values" if isinstance(result, tuple) else type(result).__name__
    return f"{got}, but Gymnasium's interface has {wanted}"


def _bad_reward(reward: Any) -> str | None:
    if isinstance(reward, np.ndarray) and reward.shape:
        return f"a reward of shape {reward.shape}, which must be one number"
    return None if math.isfinite(reward) and abs(reward) <= FLOAT32 else f"the reward {shown(reward)}"


def _bad_success(terminated: Any, truncated: Any, info: dict[str, Any]) -> str | None:
    success = info.get("is_success") if terminated or truncated else None
    if success is None or np.asarray(success).dtype.kind in "biuf":
        return None
    return f"the info's is_success {shown(success)}, of which SB3 takes the mean: make it a number, or rename it"


def raised(error: BaseException) -> str:
    """What an environment's own code raised, in one line, as in `Env.step raised ...`."""
    return " ".join(f"raised {type(error).__name__}: {error}".split()).removesuffix(":")
