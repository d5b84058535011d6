"""An environment whose running episode can be brought about again in another process.

At an episode's start an environment carries its random generators and its counters, and nothing else that most
environments have. Both are recorded before each reset, the actions after it; played back, they lead to the same place.
An environment that carries more may define `get_state() -> tree` and `set_state(tree)`, which are used instead.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import PassiveEnvChecker

from dyna import fingerprint, generators
from dyna.errors import UserError
from dyna.guard import ENDS, EnvironmentFailed, raised
from dyna.progress import say
from dyna.tree import ATOMS, Tree, is_plain, same

_ADVICE = (
    "(an environment that carries more from one episode to the next than counters and random generators needs "
    "get_state and set_state)"
)
LONG = 100_000
"""Steps of an episode whose playing back is told, for it may take a while."""


class Resumable(gym.Wrapper[Any, Any, Any, Any]):
    """Records the running episode; `state()` is plain data and `restore(state)` plays it back."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self._stateful: Any = env.unwrapped if _tells_its_state(env.unwrapped) else None
        self._known = False
        self._draws_globally = True
        self._before: dict[str, Tree] = {}
        self._reset: dict[str, Any] = {}
        self._actions = Actions()
        self._obs: Any = None
        self.steps = 0
        """Since the last reset."""

    @property
    def obs(self) -> Any:
        """The newest observation."""
        return self._obs

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Gymnasium's reset; raises UserError for a `get_state` that returns anything but plain data."""
        self._before = {"layers": carried(self.env), "host": generators.of_host() if self._draws_globally else None}
        self._reset = kwargs
        self._actions.clear()
        self.steps = 0
        self._obs, info = self.env.reset(**kwargs)
        if not self._known:
            self._know()
        return self._obs, info

    def _know(self) -> None:
        """See, once, what this environment needs."""
        self._draws_globally = not same(self._before["host"], generators.of_host())
        if self._stateful is not None and not is_plain(self._get_state()):
            raise UserError(
                f"{type(self._stateful).__name__}.get_state must return numbers, strings, arrays and containers of "
                f"them, got {self._get_state()!r:.80}"
            )
        self._known = True

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Gymnasium's step."""
        if self._stateful is None:
            self._actions.add(action)  # before the step, which may change the array in place
        try:
            result = self.env.step(action)
        except BaseException:
            if self._stateful is None:
                self._actions.drop_last()
            raise
        self._obs, self.steps = result[0], self.steps + 1
        return result

    def state(self, *, drop: bool = False) -> dict[str, Tree]:
        """What `restore` needs; with `drop`, to start a new episode."""
        return {
            "dropped": drop,
            "before": self._before,
            "reset": {key: value for key, value in self._reset.items() if is_plain(value)},
            "actions": self._actions.chunks(),
            "steps": self.steps,
            "obs": self._obs,
            "after": carried(self.env),
            "held": _held(self.env),
            "own": self._get_state() if self._stateful is not None and not drop else None,
        }

    def restore(self, state: dict[str, Tree]) -> str | None:
        """Bring the recorded episode about again; where that fails, start a new one and return what differed."""
        if state["dropped"]:
            put_carried(self.env, state["after"])
            self.reset()
            return "the episode in which the environment failed was dropped"
        put_carried(self.env, state["before"]["layers"])
        if state["before"]["host"] is not None:
            generators.set_host(state["before"]["host"])
        self.reset(**state["reset"])
        self._before = state["before"]  # before the very first reset there was less than there is now
        if state["own"] is not None and self._stateful is not None:
            return self._put_own(state)
        return self._play_back(state)

    def _put_own(self, state: dict[str, Tree]) -> str | None:
        called = f"{type(self._stateful).__name__}.set_state"
        try:
            self._stateful.set_state(state["own"])
        except ENDS as error:  # the environment's own code
            self.reset()
            return f"{called} {raised(error)}, so a new episode starts"
        put_carried(self.env, state["after"])
        self._obs, self.steps = state["obs"], state["steps"]
        return None if same(self._get_state(), state["own"]) else f"{called} does not put back what get_state returned"

    def _play_back(self, state: dict[str, Tree]) -> str | None:
        if state["steps"] >= LONG:
            say(f"playing back the {state['steps']:,} steps of the running episode (get_state and set_state would do)")
        try:
            ended = any(any(self.step(action)[2:4]) for action in Actions(state["actions"]))
        except EnvironmentFailed as failure:
            self.reset()
            return f"the recorded actions lead to a failure, so a new episode starts: {failure}"
        if ended or not same(self._obs, state["obs"]):
            self.reset()
            return f"the recorded actions lead to another observation {_ADVICE}"
        return _difference(self.env, state["held"])

    def _get_state(self) -> Tree:
        try:
            return self._stateful.get_state()
        except ENDS as error:  # the environment's own code
            raise EnvironmentFailed(f"{type(self._stateful).__name__}.get_state {raised(error)}") from error


class Actions:
    """The actions of one episode, packed into arrays that keep the type in which each was given."""

    def __init__(self, chunks: list[np.ndarray] | None = None) -> None:
        self._full: list[np.ndarray] = list(chunks or ())
        self._last = np.empty(0)
        self._used = 0

    def __len__(self) -> int:
        return sum(map(len, self._full)) + self._used

    def __iter__(self) -> Iterator[Any]:
        for chunk in self.chunks():
            yield from chunk.copy()  # an environment may change what it is given

    def add(self, action: Any) -> None:
        """Append a copy of an action."""
        value = np.asarray(action)
        last = self._last
        if self._used == len(last) or value.dtype != last.dtype or value.shape != last.shape[1:]:
            self._full += [last[: self._used]] if self._used else []
            self._last = last = np.empty((max(64, 2 * self._used), *value.shape), value.dtype)
            self._used = 0
        last[self._used] = value
        self._used += 1

    def drop_last(self) -> None:
        """Forget the action that was added last."""
        self._used -= 1

    def chunks(self) -> list[np.ndarray]:
        """The actions in order, one array for those in a row that are alike: where they were cut does not show."""
        parts = [*self._full, self._last[: self._used]] if self._used else self._full
        alike = itertools.groupby(parts, key=lambda part: (part.dtype, part.shape[1:]))
        return [np.concatenate(list(group)) for _, group in alike]

    def clear(self) -> None:
        """Forget all; the newest array is used again."""
        self._full.clear()
        self._used = 0


def _tells_its_state(env: gym.Env[Any, Any]) -> bool:
    """Whether it has `get_state()` and `set_state(state)`; MuJoCo's, of two arguments, is another method."""
    get_state, set_state = (getattr(env, name, None) for name in ("get_state", "set_state"))
    return _takes(get_state, 0) and _takes(set_state, 1) and not _takes(set_state, 0)


def _takes(method: Any, arguments: int) -> bool:
    try:
        inspect.signature(method).bind(*[None] * arguments)
    except (TypeError, ValueError):  # it takes others, or is no method; one of compiled code does not tell
        return False
    return True


def carried(env: gym.Env[Any, Any]) -> list[dict[str, Tree]]:
    """Generators and counters of an environment and each of its wrappers."""
    return [_layer(layer) for layer in _layers(env)]


def put_carried(env: gym.Env[Any, Any], states: list[dict[str, Tree]]) -> None:
    """Restore what `carried` returned."""
    for layer, state in zip(_layers(env), states, strict=True):
        vars(layer).update(state["counters"])
        for name, generator_state in state["generators"].items():
            vars(layer)[name] = generators.restored(vars(layer).get(name), generator_state)


def _layers(env: gym.Env[Any, Any]) -> list[gym.Env[Any, Any]]:
    """All but Gymnasium's checker of first calls: what it carries belongs to observations that it keeps."""
    found = [env]
    while isinstance(env, gym.Wrapper):
        env = env.env
        found.append(env)
    return [layer for layer in found if not isinstance(layer, PassiveEnvChecker)]


def _layer(layer: gym.Env[Any, Any]) -> dict[str, Tree]:
    counters: dict[str, Tree] = {}
    states: dict[str, Tree] = {}
    for name, value in vars(layer).items():  # at each reset: one pass, the common types first
        if type(value) in ATOMS or isinstance(value, np.generic):
            counters[name] = value
        elif isinstance(value, generators.KINDS):
            states[name] = generators.of(value)
    return {"counters": counters, "generators": states}


def _held(env: gym.Env[Any, Any]) -> list[dict[str, str]]:
    return [fingerprint.of(layer) for layer in _layers(env)]


def _difference(env: gym.Env[Any, Any], expected: list[dict[str, str]]) -> str | None:
    """What an environment evidently holds that it did not hold then, or the other way round."""
    for layer, then, now in zip(_layers(env), expected, _held(env), strict=True):
        for name in sorted(then.keys() | now.keys()):
            if then.get(name) != now.get(name):
                return f"{type(layer).__name__}.{name} has another value {_ADVICE}"
    return None
