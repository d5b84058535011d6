"""Worlds so small that the right answer is known: analytic world models, and environments that probe one part each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from dyna.types import Outcome, Prediction, Transitions

PerRow = Callable[[Tensor], Tensor]
"""Observations [B, S] -> one number a row [B]."""


def ones(obs: Tensor) -> Tensor:
    return torch.ones(len(obs))


def zeros(obs: Tensor) -> Tensor:
    return torch.zeros(len(obs))


@dataclass
class WalkModel:
    """Every member says next_obs = obs + 1 and reward = sum of the action, plus an offset of its own, in float32."""

    offset: Tensor  # [E, S+1] what each member adds to the mean
    std: Tensor  # [E, S+1] aleatoric standard deviation
    doubt: PerRow = ones  # factor on the offsets: where the members disagree
    ends: PerRow = zeros  # probability that the task ends
    exact_reward: PerRow | None = None  # of next_obs; replaces the learned reward
    version: int = 0

    @property
    def seen(self) -> Tensor:
        return torch.ones(self.offset.shape[1] - 1, dtype=torch.bool)

    def fit(self, data: Transitions, *, rng: torch.Generator) -> dict[str, float]:
        self.version += 1
        return {}

    def predict(self, obs: Tensor, action: Tensor) -> Prediction:
        mean = torch.cat([obs + 1.0, action.sum(1, keepdim=True)], 1)
        members = len(self.offset)
        return Prediction(
            mean + self.offset.unsqueeze(1) * self.doubt(obs).unsqueeze(1),
            self.std.unsqueeze(1).expand(members, *mean.shape),
            self.ends(obs).expand(members, len(obs)),
        )

    def predict_elites(self, obs: Tensor, action: Tensor) -> Prediction:
        return self.predict(obs, action)

    def sample(self, prediction: Prediction, *, rng: torch.Generator) -> Outcome:
        members, rows, _ = prediction.mean.shape
        member, row = torch.randint(members, (rows,), generator=rng), torch.arange(rows)
        drawn = torch.normal(prediction.mean[member, row], prediction.std[member, row], generator=rng)
        ended = torch.rand(rows, generator=rng) < prediction.p_terminated[member, row]
        return Outcome(drawn[:, :-1], drawn[:, -1], ended.float())

    def sample_step(self, obs: Tensor, action: Tensor, *, rng: torch.Generator) -> Outcome:
        return self.sample(self.predict(obs, action), rng=rng)

    def known(self, obs: Tensor, action: Tensor, outcome: Outcome) -> Outcome:
        if self.exact_reward is None:
            return outcome
        return outcome._replace(reward=self.exact_reward(outcome.next_obs))


@dataclass
class InOtherUnits:
    """A world model seen in other units: each dimension of observation and reward is multiplied by a factor."""

    model: WalkModel
    factor: Tensor  # [S+1]

    @property
    def version(self) -> int:
        return self.model.version

    def fit(self, data: Transitions, *, rng: torch.Generator) -> dict[str, float]:
        return self.model.fit(data, rng=rng)

    def predict(self, obs: Tensor, action: Tensor) -> Prediction:
        mean, std, ended = self.model.predict(obs / self.factor[:-1], action)
        return Prediction(mean * self.factor, std * self.factor, ended)

    def predict_elites(self, obs: Tensor, action: Tensor) -> Prediction:
        return self.predict(obs, action)

    def sample(self, prediction: Prediction, *, rng: torch.Generator) -> Outcome:
        return self.model.sample(prediction, rng=rng)

    def sample_step(self, obs: Tensor, action: Tensor, *, rng: torch.Generator) -> Outcome:
        return self.sample(self.predict(obs, action), rng=rng)

    def known(self, obs: Tensor, action: Tensor, outcome: Outcome) -> Outcome:
        return outcome


class ProbeEnv(gym.Env[np.ndarray, np.ndarray]):
    """One observation and one action, both in [-1, 1]; subclasses say what a step does."""

    metadata = {"render_modes": []}
    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    limit = 20  # steps, a time limit

    def __init__(self) -> None:
        self.obs = np.zeros(1, np.float32)
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.steps = 0
        self.obs = self.first_obs()
        return self.obs.copy(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps += 1
        reward, terminated = self.outcome(float(action[0]))
        return self.obs.copy(), reward, terminated, self.steps >= self.limit and not terminated, {}

    def first_obs(self) -> np.ndarray:
        return np.zeros(1, np.float32)

    def outcome(self, action: float) -> tuple[float, bool]:
        """Reward and termination of one step; may change `self.obs`."""
        raise NotImplementedError


class OneStepEnv(ProbeEnv):
    """Reward 1, then the task ends: the value is 1 everywhere, with no bootstrapping."""

    def outcome(self, action: float) -> tuple[float, bool]:
        return 1.0, True


class TwoStepEnv(ProbeEnv):
    """Observation 0, reward 0; then observation 1, reward 1 and the end: V(0) = gamma, V(1) = 1."""

    def outcome(self, action: float) -> tuple[float, bool]:
        first = self.steps == 1
        self.obs = np.ones(1, np.float32)
        return float(not first), not first


class ConstantRewardEnv(ProbeEnv):
    """Reward 1 for ever, cut by a time limit only: V = 1 / (1 - gamma), if time limits bootstrap."""

    def outcome(self, action: float) -> tuple[float, bool]:
        return 1.0, False


class ActionRewardEnv(ProbeEnv):
    """One step, a random observation o, reward -(action - o)^2: the best action is the observation, its value is 0."""

    def first_obs(self) -> np.ndarray:
        return self.np_random.uniform(-1.0, 1.0, 1).astype(np.float32)

    def outcome(self, action: float) -> tuple[float, bool]:
        return -((action - float(self.obs[0])) ** 2), True


class TerminationEnv(ProbeEnv):
    """Reward 1 a step, and a positive action ends the task: Q = 1 for a > 0, else 1 + gamma V; acting below 0 pays."""

    def outcome(self, action: float) -> tuple[float, bool]:
        return 1.0, action > 0.0


PROBES: tuple[type[ProbeEnv], ...] = (OneStepEnv, TwoStepEnv, ConstantRewardEnv, ActionRewardEnv, TerminationEnv)


class AnyEnv(gym.Env[Any, Any]):
    """A point that the action moves, observed through a Dict of every kind of space; the action's bounds are uneven.

    The reward is how near to 0 the point is; the task ends where it leaves [-3, 3], a time limit cuts after 9 steps.
    """

    metadata = {"render_modes": []}
    observation_space: Any = spaces.Dict(
        {
            "place": spaces.Box(-10.0, 10.0, (1, 1)),
            "half": spaces.Box(-10.0, 10.0, (1,), np.float16),
            "steps": spaces.Box(-(2**40), 2**40, (), np.int64),
            "map": spaces.Box(0, 255, (2, 2), np.uint8),
            "side": spaces.Discrete(2, start=-1),
            "near": spaces.Tuple((spaces.MultiBinary(1), spaces.MultiDiscrete([4]))),
        }
    )
    action_space: spaces.Space[Any] = spaces.Box(np.float32([-0.5, 10.0]), np.float32([1.5, 11.0]))
    limit = 9

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.place, self.steps = float(self.np_random.uniform(-2.0, 2.0)), 0
        return self.obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        assert self.action_space.contains(action)
        self.steps += 1
        self.place += self.moved(action) + 0.01 * float(self.np_random.normal())
        return self.obs(), -abs(self.place), abs(self.place) > 3.0, self.steps == self.limit, {}

    def moved(self, action: Any) -> float:
        return float(action[0]) - 0.5

    def obs(self) -> Any:
        near = np.array([abs(self.place) < 1.0], np.int8), np.array([min(3, int(abs(self.place)))])
        return {
            "place": np.array([[self.place]], np.float32),
            "half": np.array([self.place], np.float16),
            "steps": np.int64(self.steps),
            "map": np.full((2, 2), int(10 * abs(self.place)), np.uint8),
            "side": int(self.place > 0) - 1,
            "near": near,
        }


class AnyDiscreteEnv(AnyEnv):
    """The same, moved by one of three numbers that do not begin at 0."""

    action_space = spaces.Discrete(3, start=5)

    def moved(self, action: Any) -> float:
        return float(action) - 6.0


class FailingEnv(ProbeEnv):
    """A point that the action moves: next_obs = obs + action / 4, reward = next_obs; one step in twenty fails.

    By turns it raises, and returns NaN, infinity and a wrong shape.
    """

    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    limit = 30
    share = 0.05

    def first_obs(self) -> np.ndarray:
        return self.np_random.uniform(-1.0, 1.0, 1).astype(np.float32)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        if self.np_random.random() < self.share:
            self.obs += 100.0  # whoever kept a reference sees something false
            self.failures = getattr(self, "failures", 0) + 1
            return self.fail(self.failures % 4)
        return super().step(action)

    def fail(self, kind: int) -> Any:
        if kind == 0:
            raise RuntimeError("the link is down")
        obs = (np.full(1, np.nan, np.float32), np.full(1, np.inf, np.float32), np.zeros(2, np.float32))[kind - 1]
        return obs, 0.0, False, False, {}

    def outcome(self, action: float) -> tuple[float, bool]:
        self.obs = (self.obs + np.float32(action) / 4).astype(np.float32)
        return float(self.obs[0]), False


class CategoriesEnv(AnyDiscreteEnv):
    """The same, but what cannot be counted is not observed: a table may hold the rest."""

    observation_space = spaces.Dict({key: AnyEnv.observation_space[key] for key in ("side", "near")})

    def obs(self) -> Any:
        return {key: value for key, value in super().obs().items() if key in ("side", "near")}


class TalkativeEnv(AnyEnv):
    """The same, with an info that has every key to which SB3 or the trainer gives a meaning."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        *rest, _ = super().step(action)
        named = ("episode", "episode_dropped", "terminal_observation", "TimeLimit.truncated")
        return *rest, {name: "third" for name in named} | {"is_success": None}


class EndlessEnv(AnyEnv):
    """The same, drawn back to the middle: it never ends and has no time limit."""

    limit = -1

    def moved(self, action: Any) -> float:
        return super().moved(action) - 0.8 * self.place


class UnevenEnv(AnyEnv):
    """Remembers what it was handed; one small whole number is all it observes, the reward is the second action."""

    observation_space = spaces.Box(0, 200, (1,), np.uint8)

    def __init__(self) -> None:
        self.handed: list[Any] = []

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        self.handed.append(np.array(action))
        obs, _, *rest = super().step(action)
        return obs, float(action[1]), *rest

    def obs(self) -> Any:
        return np.array([int(100 + 10 * self.place)], np.uint8)


class ImageEnv(AnyDiscreteEnv):
    """The same, seen as a picture."""

    observation_space = spaces.Box(0, 255, (36, 36, 3), np.uint8)

    def obs(self) -> Any:
        return np.full((36, 36, 3), int(128 + 10 * self.place), np.uint8)
