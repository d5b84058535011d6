"""One environment that has nothing wrong with it, and others that each have one thing wrong.

A cart on a rail is pushed by the action; the task ends where the rail does, and a time limit cuts the rest.
"""

from __future__ import annotations

import sys
import time
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces

Obs = np.ndarray[Any, Any]
HIGH = np.array([9.0, 9.0], np.float32)  # position, velocity


class Cart(gym.Env[Any, Any]):
    """Nothing is wrong with it."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}
    limit = 50

    def __init__(self) -> None:
        self.observation_space: spaces.Space[Any] = spaces.Box(-HIGH, HIGH)
        self.action_space: spaces.Space[Any] = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.state = np.zeros(2)
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.state, self.steps = self.np_random.uniform(-0.5, 0.5, 2), 0
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.steps += 1
        self.move(self.push(action))
        ended = self.has_ended()
        return self.observe(), self.reward(action), ended, not ended and self.steps >= self.limit, {}

    def push(self, action: Any) -> float:
        return float(action[0])

    def move(self, push: float) -> None:
        self.state[1] = 0.9 * self.state[1] + 0.4 * push
        self.state[0] += 0.2 * self.state[1]

    def observe(self) -> Any:
        return self.state.astype(np.float32)

    def reward(self, action: Any) -> Any:
        return float(1.0 - self.state[0] ** 2)

    def has_ended(self) -> Any:
        return bool(abs(self.state[0]) > 1.0)


class Counted(Cart):
    """Nothing is wrong, and it is known which were made and which were closed."""

    made: ClassVar[list[int]] = []
    closed: ClassVar[list[int]] = []

    def __init__(self) -> None:
        super().__init__()
        self.number = len(self.made)
        self.made.append(self.number)

    def close(self) -> None:
        self.closed.append(self.number)


class PushedEitherWay(Cart):
    """Nothing is wrong: two actions."""

    def __init__(self) -> None:
        super().__init__()
        self.action_space = spaces.Discrete(2)

    def push(self, action: Any) -> float:
        return 1.0 if action == 1 else -1.0


class Named(Cart):
    """Nothing is wrong: a Dict of a Box and a Discrete."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Dict({"cart": spaces.Box(-HIGH, HIGH), "side": spaces.Discrete(2)})

    def observe(self) -> Any:
        return {"cart": self.state.astype(np.float32), "side": int(self.state[0] > 0)}


class Windy(Cart):
    """Nothing is wrong: a wind blows by chance."""

    def move(self, push: float) -> None:
        super().move(push + 0.5 * self.np_random.normal())


class StopsAll(Cart):
    def move(self, push: float) -> None:
        super().move(push)
        if self.state[1] > 0.9:
            sys.exit(3)


class Raises(Cart):
    def __init__(self) -> None:
        raise FileNotFoundError("rail.xml")


class OnlyOne(Cart):
    made = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).made += 1
        if self.made > 1:
            raise ConnectionError("port 5000 is taken")


class RaisesAtTheEnd(Cart):
    def close(self) -> None:
        raise BrokenPipeError("the simulator has gone")


class WithoutSpace(Cart):
    def __init__(self) -> None:
        super().__init__()
        del self.observation_space


class WithoutSeed(Cart):
    def reset(self) -> tuple[Any, dict[str, Any]]:  # type: ignore[override]
        return super().reset()


class OldReset(Cart):
    def reset(self, **kwargs: Any) -> Any:
        return super().reset(**kwargs)[0]


class OldStep(Cart):
    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, reward, terminated or truncated, info


class RaisesLater(Cart):
    def move(self, push: float) -> None:
        super().move(push)
        if self.state[1] > 0.9:
            raise ZeroDivisionError("float division by zero")


class NotANumber(Cart):
    def observe(self) -> Any:
        with np.errstate(invalid="ignore"):
            return np.sqrt(self.state + 0.9).astype(np.float32)


class AnotherShape(Cart):
    def observe(self) -> Any:
        return super().observe()[None]


class EndlessReward(Cart):
    def reward(self, action: Any) -> Any:
        return 1.0 / max(0.0, 0.8 - abs(self.state[0])) if abs(self.state[0]) < 0.8 else float("inf")


class NoReward(Cart):
    def reward(self, action: Any) -> Any:
        return None


class AnotherType(Cart):
    def observe(self) -> Any:
        return self.state.copy()


class SuccessInWords(Cart):
    def step(self, action: Any) -> Any:
        return *super().step(action)[:4], {"is_success": "yes"}


class EpisodeInInfo(Cart):
    def step(self, action: Any) -> Any:
        return *super().step(action)[:4], {"episode": self.steps}


class OutOfBounds(Cart):
    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Box(-HIGH / 18, HIGH / 18)


class FlagOfInt(Cart):
    def has_ended(self) -> Any:
        return int(super().has_ended())


class RewardOfArray(Cart):
    def reward(self, action: Any) -> Any:
        return np.array(super().reward(action))


class OneArray(Cart):
    def __init__(self) -> None:
        super().__init__()
        self.array = np.zeros(2, np.float32)

    def observe(self) -> Any:
        self.array[:] = self.state
        return self.array


class AnyStart(Cart):
    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        super().reset(**kwargs)
        self.state = np.random.default_rng().uniform(-0.5, 0.5, 2)
        return self.observe(), {}


class AnyWind(Cart):
    def __init__(self) -> None:
        super().__init__()
        self.wind = np.random.default_rng()

    def move(self, push: float) -> None:
        super().move(push + self.wind.normal())


class KeepsSpeed(Cart):
    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        speed = self.state[1] if self.steps else 0.1
        super().reset(**kwargs)
        self.state[1] = speed
        return self.observe(), {}


class IgnoresActions(Cart):
    def push(self, action: Any) -> float:
        return 0.7


class IdleAction(Cart):
    def __init__(self) -> None:
        super().__init__()
        self.action_space = spaces.Box(-1.0, 1.0, (3,), np.float32)


class Slow(Cart):
    limit = 2

    def move(self, push: float) -> None:
        super().move(push)
        time.sleep(0.06)


class Endless(Cart):
    limit = 10**9

    def move(self, push: float) -> None:
        super().move(push)
        self.state[0] = (self.state[0] + 1) % 2 - 1  # round and round

    def has_ended(self) -> Any:
        return False


class Micrometres(Cart):
    unit = 1e6

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Box(-HIGH * self.unit, HIGH * self.unit)

    def observe(self) -> Any:
        return (self.state * self.unit).astype(np.float32)


class Megametres(Micrometres):
    unit = 1e-6


class Beside(Cart):
    """With a third number."""

    def __init__(self) -> None:
        super().__init__()
        high = np.array([*HIGH, 9.0], np.float32)
        self.observation_space = spaces.Box(-high, high)

    def third(self) -> float:
        raise NotImplementedError

    def observe(self) -> Any:
        return np.array([*self.state, self.third()], np.float32)


class CutSpeed(Cart):
    """Shows speeds up to a half alone."""

    def observe(self) -> Any:
        return np.array([self.state[0], self.state[1].clip(-0.5, 0.5)], np.float32)


class ConstantNumber(Beside):
    def third(self) -> float:
        return 4.0


class SameNumber(Beside):
    def third(self) -> float:
        return float(2.0 - 3.0 * self.state[0])


class NothingToLearn(Cart):
    def reward(self, action: Any) -> Any:
        return 0.0

    def has_ended(self) -> Any:
        self.state[0] = self.state[0].clip(-1.0, 1.0)
        return False


class Cents(Cart):
    def reward(self, action: Any) -> Any:
        return 1e6 * super().reward(action)


class HiddenSpeed(Cart):
    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Box(-9.0, 9.0, (1,), np.float32)

    def observe(self) -> Any:
        return self.state[:1].astype(np.float32)


class Lottery(Cart):
    def reward(self, action: Any) -> Any:
        return super().reward(action) + 3.0 * float(self.np_random.normal())


class PaysForChange(Cart):
    """The reward hangs on the action before, which nobody observes."""

    last = 0.0

    def reward(self, action: Any) -> Any:
        change, self.last = float(action[0]) - self.last, float(action[0])
        return super().reward(action) - 3.0 * change**2

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        self.last = 0.0
        return super().reset(**kwargs)


class SuddenDeath(Cart):
    def has_ended(self) -> Any:
        return bool(self.np_random.random() < 0.05)


class LimitIsAnEnd(Cart):
    def has_ended(self) -> Any:
        self.state[0] = self.state[0].clip(-1.0, 1.0)
        return self.steps >= self.limit


class SeenLimit(Beside):
    """Nothing is wrong: the task ends by the clock, and the clock is observed."""

    def third(self) -> float:
        return self.steps / self.limit

    def has_ended(self) -> Any:
        self.state[0] = self.state[0].clip(-1.0, 1.0)
        return self.steps >= self.limit


GOOD = (Cart, PushedEitherWay, Named, Windy, SeenLimit)
BROKEN = {
    Raises: "environment",
    WithoutSpace: "environment",
    OnlyOne: "second environment",
    WithoutSeed: "reset",
    OldReset: "reset",
    AnotherShape: "reset",
    OldStep: "step",
    RaisesLater: "step",
    StopsAll: "step",
    NotANumber: "step",
    EndlessReward: "step",
    NoReward: "step",
    SuccessInWords: "step",
}
"""What ends the examination, and the finding that says so."""
ODD = {
    AnotherType: "observation dtype",
    OutOfBounds: "observation bounds",
    FlagOfInt: "terminated flag",
    RewardOfArray: "reward type",
    EpisodeInInfo: "info",
    OneArray: "gymnasium's checker",
    AnyStart: "seeding",
    AnyWind: "seeding",
    KeepsSpeed: "reset",
    IgnoresActions: "actions",
    IdleAction: "actions",
    RaisesAtTheEnd: "close",
    Slow: "speed",
    Endless: "episodes",
    Micrometres: "observation scale",
    Megametres: "observation scale",
    ConstantNumber: "constant dimensions",
    SameNumber: "duplicated dimensions",
    NothingToLearn: "reward",
    Cents: "reward scale",
}
"""What some hundred steps show."""
HIDDEN = {
    HiddenSpeed: "Markov state",
    Lottery: "reward learnable",
    PaysForChange: "reward learnable",
    SuddenDeath: "termination learnable",
    LimitIsAnEnd: "time limit",
}
"""What only a world model shows."""
