"""Whether what an environment returns is what Gymnasium promises.

What would end a run ends the examination (`Broken`); what a run gets along with is counted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, cast

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from dyna.doctor.findings import Broken, Finding
from dyna.guard import MONITORS, EnvironmentFailed, Guarded, shown

Step = tuple[Any, float, bool, bool, dict[str, Any]]
REMEDIES = {
    "reset": "let `reset(self, *, seed=None, options=None)` return obs, info as its spaces say",
    "step": "let `step(self, action)` return obs, reward, terminated, truncated, info as its spaces say",
}


class Watched(gym.Wrapper[Any, Any, Any, Any]):
    """An environment whose answers are judged, each of them; raises Broken where a run would fail."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        self._raw = _Remembering(env)
        super().__init__(Guarded(self._raw))
        self._steps = 0
        self._odd: dict[str, list[tuple[str, str]]] = {}

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Gymnasium's reset."""
        try:
            obs, info = self.env.reset(**kwargs)
        except EnvironmentFailed as failure:
            raise Broken("reset", str(failure), REMEDIES["reset"]) from failure
        self._judge_observation(obs)
        return obs, info

    def step(self, action: Any) -> Step:
        """Gymnasium's step."""
        try:
            result = cast("Step", self.env.step(action))
        except EnvironmentFailed as failure:
            raise Broken("step", str(failure), REMEDIES["step"]) from failure
        self._steps += 1
        self._judge_observation(result[0])
        _, reward, terminated, truncated, info = self._raw.result
        for name, flag in (("terminated", terminated), ("truncated", truncated)):
            if not isinstance(flag, (bool, np.bool_)):
                self.note(f"{name} flag", f"{flag!r:.40} is a {type(flag).__name__}", f"return bool({name})")
        if isinstance(reward, bool) or not isinstance(reward, (int, float, np.floating, np.integer)):
            self.note("reward type", f"{reward!r:.40} is a {type(reward).__name__}", "return float(reward)")
        told = info.get(MONITORS)
        if told is not None and not (terminated or truncated):
            remedy = "rename it: SB3 expects its monitor's there, and a run leaves yours out"
            self.note("info", f"info[{MONITORS!r}] is {shown(told)} before the episode's end", remedy)
        return result

    def close(self) -> None:
        """Gymnasium's close; what it raises is told where the examination ends."""
        with contextlib.suppress(Exception):
            self.env.close()

    def note(self, name: str, seen: str, remedy: str) -> None:
        """Count something that is odd."""
        self._odd.setdefault(name, []).append((seen, remedy))

    def oddities(self) -> list[Finding]:
        """A warning for each kind, with its first case."""
        return [
            Finding(name, "warning", f"{cases[0][0]} (the first of {len(cases)} in {self._steps} steps)", cases[0][1])
            for name, cases in self._odd.items()
        ]

    def _judge_observation(self, obs: Any) -> None:
        for name, box, value in _boxes(self.observation_space, obs, "obs"):
            array = np.asarray(value)
            if not np.can_cast(array.dtype, box.dtype):
                remedy = f"np.asarray({name}, np.{box.dtype}), or set the space's dtype"
                self.note("observation dtype", f"{name} is {array.dtype}, its space has {box.dtype}", remedy)
            outside = (array < box.low) | (array > box.high)
            if outside.any():
                at = tuple(map(int, np.argwhere(outside)[0]))
                bounds = f"[{box.low[at]:.4g}, {box.high[at]:.4g}]"
                seen = f"{name}[{','.join(map(str, at))}] = {array[at]:.5g} is not in its space's {bounds}"
                self.note("observation bounds", seen, "widen observation_space, or clip the observation")


class _Remembering(gym.Wrapper[Any, Any, Any, Any]):
    """Keeps what the last step returned, as it was."""

    result: Any = None

    def step(self, action: Any) -> Any:
        self.result = self.env.step(action)
        return self.result


def _boxes(space: spaces.Space[Any], value: Any, name: str) -> Iterator[tuple[str, spaces.Box, Any]]:
    """Every Box in a space, with its value in an observation that has its structure."""
    if isinstance(space, spaces.Box):
        yield name, space, value
    elif isinstance(space, spaces.Dict):
        for key, inner in space.spaces.items():
            yield from _boxes(inner, value[key], f"{name}[{key!r}]")
    elif isinstance(space, spaces.Tuple):
        for i, inner in enumerate(space.spaces):
            yield from _boxes(inner, value[i], f"{name}[{i}]")
