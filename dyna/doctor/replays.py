"""What playing the same thing again shows: seeds, what a reset leaves behind, chance, and whether actions matter.

Everything here is exact: the same numbers to the last bit, or not. No threshold can be wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from dyna.doctor.contract import Watched
from dyna.doctor.findings import Finding
from dyna.doctor.sampling import Numbers, flatten

EPISODES = 5  # played each time
STEPS = range(2, 101)  # of an episode, as many as are quickly made
SECONDS = 5.0  # for all of them, about
SEEDING = "draw every random number from self.np_random, after super().reset(seed=seed) in reset()"
Make = Callable[[], gym.Env[Any, Any]]


class Played(NamedTuple):
    """One episode."""

    first: Numbers  # [S] what reset returned
    steps: Numbers  # [T, S+3] what each step returned: observation, reward, terminated, truncated

    def equals(self, other: Played) -> bool:
        """Whether both are the same to the last bit."""
        return np.array_equal(self.first, other.first) and np.array_equal(self.steps, other.steps)


def examine(make: Make, seed: int, step_seconds: float) -> list[Finding]:
    """Play the same seeds and actions again and again; raises Broken."""
    seeds = range(seed, seed + EPISODES)
    steps = int(SECONDS / (8 * EPISODES * max(step_seconds, 1e-6)))
    steps = min(max(steps, STEPS[0]), STEPS[-1])
    with closing(Watched(make())) as env, closing(Watched(make())) as fresh:
        actions = {each: _actions(env.action_space, each, steps) for each in seeds}
        before, again, elsewhere = (
            [play(player, each, actions[each]) for each in seeds] for player in (env, env, fresh)
        )
        seeding = judge_seeding(before, again, elsewhere)
        if seeding.verdict != "ok":  # what follows asks for the same numbers too
            return [seeding]
        swapped = [play(fresh, each, actions[each], swap=True) for each in seeds]
        return [seeding, judge_chance(before, swapped), _actions_matter(fresh, seeds, actions, before)]


def play(env: gym.Env[Any, Any], seed: int, actions: Sequence[Any], *, swap: bool = False) -> Played:
    """One episode from a seed; with `swap`, what is drawn after the reset is drawn from another generator."""
    space = env.observation_space
    first = flatten(space, env.reset(seed=seed)[0])
    if swap:
        env.unwrapped.np_random = np.random.default_rng(seed + 1_000_003)
    steps = []
    for action in actions:
        obs, reward, terminated, truncated, _ = env.step(action)
        steps.append(np.append(flatten(space, obs), [reward, terminated, truncated]))
        if terminated or truncated:
            break
    return Played(first, np.array(steps))


def judge_seeding(before: list[Played], again: list[Played], elsewhere: list[Played]) -> Finding:
    """The same seeds in the same environment twice, and in a new one: `again` followed `before` in one object."""
    if any(not np.array_equal(a.first, b.first) for a, b in zip(before, elsewhere, strict=True)):
        seen = "reset(seed=k) returned another observation in a second environment"
        return Finding("seeding", "warning", seen, SEEDING)
    if any(not a.equals(b) for a, b in zip(before, elsewhere, strict=True)):
        seen = "the same seed and actions went another way in a second environment"
        return Finding("seeding", "warning", seen, SEEDING)
    if any(not a.equals(b) for a, b in zip(before, again, strict=True)):
        seen = "the same seed and actions went another way after other episodes: reset() leaves something as it was"
        return Finding("reset", "warning", seen, "set every attribute anew in reset()")
    starts = len({played.first.tobytes() for played in before})
    seen = f"{len(before)} seeds, played three times, gave the same numbers; "
    seen += "every episode starts in the same state" if starts == 1 else f"{starts} different starts"
    return Finding("seeding", "ok", seen)


def judge_chance(before: list[Played], swapped: list[Played]) -> Finding:
    """The same seeds with another generator after the reset."""
    if all(a.equals(b) for a, b in zip(before, swapped, strict=True)):
        return Finding("chance", "ok", "deterministic: after a reset nothing is drawn from np_random")
    pairs = [(a.steps[0], b.steps[0]) for a, b in zip(before, swapped, strict=True)]
    parts = {"observation": slice(0, -3), "reward": slice(-3, -2), "end": slice(-2, None)}
    drawn = [name for name, part in parts.items() if any((a[part] != b[part]).any() for a, b in pairs)]
    return Finding("chance", "ok", f"stochastic: {' and '.join(drawn) or 'some later steps'} of a step are drawn")


def _actions_matter(
    env: gym.Env[Any, Any], seeds: range, actions: dict[int, list[Any]], before: list[Played]
) -> Finding:
    """Play other actions, then others in one dimension alone."""
    others = {each: _actions(env.action_space, each + 1_000_003, len(actions[each])) for each in seeds}

    def same(tried: dict[int, list[Any]]) -> bool:
        return all(play(env, each, tried[each]).equals(old) for each, old in zip(seeds, before, strict=True))

    if same(others):
        seen = f"{EPISODES} seeds went the same way whatever the actions were"
        return Finding("actions", "warning", seen, "use the action in step()")
    space, seen = env.action_space, "other actions lead elsewhere"
    if isinstance(space, spaces.Box) and len(space.shape) == 1 and space.shape[0] > 1:
        idle = [i for i in range(space.shape[0]) if same({k: _mixed(actions[k], others[k], i) for k in seeds})]
        if idle:
            seen = f"action{idle} changed nothing in {EPISODES} seeds"
            return Finding("actions", "warning", seen, "leave them out of action_space, or use them in step()")
    return Finding(
        "actions", "ok", "other actions lead elsewhere" + ", in every dimension" * isinstance(space, spaces.Box)
    )


def _actions(space: spaces.Space[Any], seed: int, steps: int) -> list[Any]:
    space.seed(seed)
    return [space.sample() for _ in range(steps)]


def _mixed(actions: list[Any], others: list[Any], dimension: int) -> list[Any]:
    """The actions, with one dimension of others."""
    mixed = [action.copy() for action in actions]
    for action, other in zip(mixed, others, strict=True):
        action[dimension] = other[dimension]
    return mixed
