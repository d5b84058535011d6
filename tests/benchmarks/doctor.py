"""How often `dyna doctor` is wrong: false alarms in environments that are fine, misses where a fault was put in.

python tests/benchmarks/doctor.py --seeds 3 [--only Pendulum-v1 ...]
"""

from __future__ import annotations

import argparse
import functools
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from dyna.config import RunConfig
from dyna.doctor import checkers, episodes, heldout, learnability, replays, values
from dyna.doctor.examination import STEPS
from dyna.doctor.findings import Finding
from dyna.doctor.sampling import Sample, collect
from dyna.envs import make_one

Env = gym.Env[Any, Any]
Make = Callable[[], Env]

GOOD = (
    "Pendulum-v1 CartPole-v1 MountainCarContinuous-v0 Hopper-v5 InvertedPendulum-v5 Acrobot-v1 "
    "Walker2d-v5 HalfCheetah-v5 Swimmer-v5 InvertedDoublePendulum-v5 Reacher-v5 FrozenLake-v1 MountainCar-v0"
).split()
TRUE = {"InvertedDoublePendulum-v5": "constant dimensions"}
"""The force of its rail's end is 0 until it is reached."""
SEEN = {
    "Pendulum-v1": [0, 1],
    "CartPole-v1": [0, 2],
    "MountainCarContinuous-v0": [0],
    "Hopper-v5": [0, 1, 2, 3, 4],
    "InvertedPendulum-v5": [0, 1],
    "Acrobot-v1": [0, 1, 2, 3],
}
"""What is left when the velocities are hidden."""


class Hidden(gym.ObservationWrapper[Any, Any, Any]):
    """Some dimensions only."""

    def __init__(self, env: Env, seen: list[int]) -> None:
        super().__init__(env)
        space = env.observation_space
        assert isinstance(space, gym.spaces.Box)
        self.seen = seen
        self.observation_space = gym.spaces.Box(space.low[seen], space.high[seen], dtype=space.dtype.type)

    def observation(self, observation: Any) -> Any:
        return observation[self.seen]


class Delayed(gym.Wrapper[Any, Any, Any, Any]):
    """Each action acts one step late."""

    def reset(self, **kwargs: Any) -> Any:
        self.action = np.zeros(self.action_space.shape, np.float32)
        return self.env.reset(**kwargs)

    def step(self, action: Any) -> Any:
        late, self.action = self.action, action
        return self.env.step(late)


class OtherReward(gym.Wrapper[Any, Any, Any, Any]):
    """The reward has a part that nobody observes: noise, or the change of the action."""

    def __init__(self, env: Env, change: float, noise: float) -> None:
        super().__init__(env)
        self.change, self.noise, self.last = change, noise, np.zeros(1)

    def reset(self, **kwargs: Any) -> Any:
        self.last = np.zeros(1)
        return self.env.reset(**kwargs)

    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, info = self.env.step(action)
        hidden = self.change * float(((action - self.last) ** 2).sum()) + self.noise * float(self.np_random.normal())
        self.last = np.asarray(action)
        return obs, float(reward) - hidden, terminated, truncated, info


class OtherEnd(gym.Wrapper[Any, Any, Any, Any]):
    """The task ends by chance, or by the clock."""

    def __init__(self, env: Env, chance: float, limit: int) -> None:
        super().__init__(env)
        self.chance, self.limit, self.steps = chance, limit, 0

    def reset(self, **kwargs: Any) -> Any:
        self.steps = 0
        return self.env.reset(**kwargs)

    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.steps += 1
        ended = self.steps >= self.limit or bool(self.np_random.random() < self.chance)
        return obs, reward, terminated or ended, truncated, info


def cases() -> Iterator[tuple[str, Make, str | None]]:
    """Name, environment, and the finding that it should trigger."""

    def made(env_id: str) -> Env:
        return make_one(RunConfig(env=env_id))

    for name in GOOD:
        yield name, functools.partial(made, name), TRUE.get(name)
    for name, seen in SEEN.items():
        yield f"{name} without velocities", lambda n=name, s=seen: Hidden(made(n), s), "Markov state"
    yield "Pendulum-v1, action one step late", lambda: Delayed(made("Pendulum-v1")), "Markov state"
    yield "Pendulum-v1, reward noise 4", lambda: OtherReward(made("Pendulum-v1"), 0, 4), "reward learnable"
    yield "Pendulum-v1, action change", lambda: OtherReward(made("Pendulum-v1"), 3, 0), "reward learnable"
    yield "Hopper-v5, reward noise 2", lambda: OtherReward(made("Hopper-v5"), 0, 2), "reward learnable"
    yield "Pendulum-v1, ends by chance", lambda: OtherEnd(made("Pendulum-v1"), 0.02, 10**9), "termination learnable"
    yield (
        "HalfCheetah-v5, ends by chance",
        lambda: OtherEnd(made("HalfCheetah-v5"), 0.02, 10**9),
        "termination learnable",
    )
    yield "Pendulum-v1, limit is an end", lambda: OtherEnd(made("Pendulum-v1"), 0, 150), "time limit"
    yield "HalfCheetah-v5, limit is an end", lambda: OtherEnd(made("HalfCheetah-v5"), 0, 500), "time limit"
    yield "CartPole-v1, limit 30 is an end", lambda: OtherEnd(made("CartPole-v1"), 0, 30), "time limit"


def examined(make: Make, seed: int) -> tuple[list[Finding], str]:
    """The findings, and the figures behind those of the world model."""
    env = make()
    sample = collect(env, steps=STEPS, seconds=60.0, seed=seed)
    now = heldout.foresee(sample, seed, history=False)
    past = heldout.foresee(sample, seed, history=True)
    found = [*sample.odd, *replays.examine(make, seed, sample.seconds / sample.steps)]
    found += [*checkers.examine(make, known=bool(found[:-3])), episodes.speed(sample), *values.examine(sample)]
    found += [episodes.ends(sample, env.spec.max_episode_steps if env.spec else None)]
    found += [learnability.state(now, past, sample), learnability.reward(now, past, sample)]
    return [*found, learnability.termination(now, sample)], figures(now, past, sample)


def figures(now: heldout.Foreseen, past: heldout.Foreseen, sample: Sample) -> str:
    data = sample.transitions
    gain, left = learnability.hidden(now.state_error(data, past.rows), past.state_error(data, past.rows))
    least = float(left[gain > learnability.SMALL_GAIN].amin()) if (gain > learnability.SMALL_GAIN).any() else 1.0
    ends = int(data.terminated.sum())
    f1 = now.termination_f1(data) if ends else float("nan")
    return f"gain {float(gain.max()):6.3f}   left {least:4.2f}   R2 {now.reward_r2(data):6.3f}   F1 {f1:5.2f} of {ends}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=[])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    wrong = {"false alarms": 0, "misses": 0}
    total = {"false alarms": 0, "misses": 0}
    for name, make, expected in cases():
        if arguments.only and not any(word in name for word in arguments.only):
            continue
        for seed in range(arguments.seeds):
            began = time.perf_counter()
            found, told = examined(make, seed)
            alarms = [each.name for each in found if each.verdict in ("warning", "error")]
            total["false alarms"] += 1
            wrong["false alarms"] += any(each != expected for each in alarms)
            if expected:
                total["misses"] += 1
                wrong["misses"] += expected not in alarms
            seconds = time.perf_counter() - began
            print(f"{name:43} seed {seed}  {told:56} {seconds:5.1f} s  {', '.join(alarms)}", flush=True)
    for kind, count in wrong.items():
        print(f"{kind}: {count} of {total[kind]} examinations")


if __name__ == "__main__":
    main()
