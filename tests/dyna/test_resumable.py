"""An episode that was recorded in one process is brought about again in another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from dyna import resumable
from dyna.errors import UserError
from dyna.guard import EnvironmentFailed, Guarded
from dyna.resumable import Actions, Resumable
from dyna.spaces import flattened
from dyna.tree import pack, same, unpack
from tests.probes import AnyEnv


class Noisy(gym.Env[Any, Any]):
    """A random walk; subclasses say where the randomness comes from."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,))
    action_space = gym.spaces.Box(-1.0, 1.0, (1,))

    def __init__(self) -> None:
        self.place = np.zeros(1, np.float32)

    def draw(self) -> float:
        return float(self.np_random.normal())

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.place = np.array([self.draw()], np.float32)
        return self.place, {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        action *= 0.5  # some environments change what they are given
        self.place = (self.place + action + self.draw()).astype(np.float32)
        return self.place, 0.0, False, False, {}


class OwnGenerator(Noisy):
    """Ignores the seed after the first reset, and keeps a generator of its own."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        if seed is not None:
            self.rng = np.random.RandomState(seed)
        return super().reset(options=options)

    def draw(self) -> float:
        return float(self.rng.normal())


class Curriculum(Noisy):
    """Gets harder from episode to episode."""

    def __init__(self) -> None:
        super().__init__()
        self.episode = 0

    def draw(self) -> float:
        return super().draw() * self.episode

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        self.episode += 1
        return super().reset(seed=seed, options=options)


class Hidden(Noisy):
    """Carries an array from episode to episode, of which nothing can be known from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.past = np.zeros(1)

    def draw(self) -> float:
        self.past += 1
        return super().draw() + float(self.past[0])


class Stateful(Hidden):
    """The same, and says what it carries."""

    def get_state(self) -> dict[str, Any]:
        return {"past": self.past.copy(), "place": self.place.copy(), "rng": self.np_random.bit_generator.state}

    def set_state(self, state: dict[str, Any]) -> None:
        self.past, self.place = state["past"].copy(), state["place"].copy()
        self.np_random.bit_generator.state = state["rng"]


class Classic(Noisy):
    """Its methods of these names take and give something else, as those of MuJoCo's environments."""

    def get_state(self, flag: int) -> Any:
        raise NotImplementedError

    def set_state(self, qpos: Any, qvel: Any) -> None:
        raise NotImplementedError


class GivesOnly(Classic):
    def get_state(self, flag: int = 0) -> Any:
        return self.place


def follow(env: gym.Env[Any, Any], steps: int) -> list[Any]:
    """What an environment does for as many steps, with actions that are always the same."""
    rng, seen = np.random.default_rng(3), []
    for _ in range(steps):
        action = rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)
        if isinstance(env.action_space, gym.spaces.Discrete):
            action = rng.integers(env.action_space.n)
        elif isinstance(env.unwrapped, AnyEnv):
            action = env.action_space.low
        obs, reward, terminated, truncated, _ = env.step(action)
        seen.append((np.array(obs), float(reward), bool(terminated), bool(truncated)))
        if terminated or truncated:
            seen.append(np.array(env.reset()[0]))
    return seen


def through_checkpoint(state: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = unpack(pack(state))
    return tree


def limited(make: Callable[[], gym.Env[Any, Any]]) -> Resumable:
    return Resumable(gym.wrappers.TimeLimit(make(), 37))


EXACT: list[Callable[[], gym.Env[Any, Any]]] = [
    lambda: gym.make("CartPole-v1"),
    lambda: gym.make("Pendulum-v1"),
    lambda: gym.make("MountainCar-v0"),
    lambda: gym.make("Acrobot-v1"),
    lambda: gym.make("Hopper-v5"),
    lambda: gym.make("FrozenLake-v1"),
    lambda: gym.make("Taxi-v4"),
    lambda: gym.make("Blackjack-v1"),
    lambda: gym.make("InvertedPendulum-v5"),
    lambda: gym.wrappers.FrameStackObservation(gym.make("CartPole-v1"), 3),
    lambda: flattened(AnyEnv()),
    Noisy,
    OwnGenerator,
    Curriculum,
    Stateful,
    Classic,
    GivesOnly,
]


@pytest.mark.parametrize("make", EXACT)
@pytest.mark.parametrize("steps", [0, 1, 50, 74])
def test_a_restored_episode_goes_on_as_the_recorded_one(make: Callable[[], gym.Env[Any, Any]], steps: int) -> None:
    first, second = limited(make), limited(make)
    first.reset(seed=11)
    follow(first, steps)
    state = through_checkpoint(first.state())
    second.reset(seed=0)  # as a new process does before it restores
    assert second.restore(state) is None
    assert same(second.state(), state)
    assert same(follow(first, 120), follow(second, 120))


def test_at_an_episodes_end_nothing_is_played_back() -> None:
    env = limited(Noisy)
    env.reset(seed=1)
    follow(env, 37)
    assert env.steps == 0
    assert env.state()["actions"] == []


@pytest.mark.parametrize("steps", [5, 40])
def test_what_cannot_be_brought_about_is_said_and_a_new_episode_starts(steps: int) -> None:
    first, second = limited(Hidden), limited(Hidden)
    first.reset(seed=11)
    follow(first, steps)
    second.reset(seed=0)
    difference = second.restore(through_checkpoint(first.state()))
    assert difference is not None
    assert difference.startswith("the recorded actions lead to another observation (an environment that carries more")
    assert second.steps == 0


class Late(Noisy):
    """Carries an array that no first observation tells of; where it lies, subclasses say."""

    def __init__(self) -> None:
        super().__init__()
        self.wear = self.new()

    def new(self) -> Any:
        return np.zeros(1)

    def worn(self) -> np.ndarray:
        return np.asarray(self.wear)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.worn()[:] += 1.0
        return super().step(action * self.worn()[0].astype(np.float32))


class Inside(Late):
    """In an object, a list and a dict, one in the other."""

    class Part:
        def __init__(self) -> None:
            self.history = [{"wear": np.zeros(1)}, self]

    def new(self) -> Any:
        return self.Part()

    def worn(self) -> np.ndarray:
        wear: np.ndarray = self.wear.history[0]["wear"]
        return wear


@pytest.mark.parametrize("make", [Late, Inside])
def test_what_an_environment_carries_is_noticed_where_no_observation_tells(make: Callable[[], Any]) -> None:
    first, second = limited(make), limited(make)
    first.reset(seed=11)
    follow(first, 37)
    assert first.steps == 0
    second.reset(seed=0)
    difference = second.restore(through_checkpoint(first.state()))
    assert difference is not None
    assert difference.startswith(f"{make.__name__}.wear has another value (an environment that carries more")
    assert same(first.obs, second.obs)


def test_a_running_normalisation_is_noticed() -> None:
    def normalized() -> gym.Env[Any, Any]:
        return gym.wrappers.NormalizeReward(gym.make("Pendulum-v1"))

    first, second = limited(normalized), limited(normalized)
    first.reset(seed=11)
    follow(first, 37)
    second.reset(seed=0)
    assert (second.restore(first.state()) or "").startswith("NormalizeReward.discounted_reward has another value")


def test_a_wrapper_that_only_looks_on_is_no_difference() -> None:
    def watched() -> gym.Env[Any, Any]:
        return gym.wrappers.RecordEpisodeStatistics(gym.make("CartPole-v1"))

    first, second = limited(watched), limited(watched)
    first.reset(seed=11)
    follow(first, 5)
    second.reset(seed=0)
    assert second.restore(first.state()) is None


def test_an_environment_that_says_what_it_carries_plays_nothing_back() -> None:
    first, second = limited(Stateful), limited(Stateful)
    first.reset(seed=11)
    follow(first, 5)
    state = through_checkpoint(first.state())
    assert (state["actions"], state["steps"]) == ([], 5)
    second.reset(seed=0)
    assert second.restore(state) is None
    assert second.steps == 5


def test_a_set_state_that_forgets_something_is_told() -> None:
    class Forgetful(Stateful):
        def set_state(self, state: dict[str, Any]) -> None:
            super().set_state({**state, "past": state["past"] - 1})

    first, second = limited(Forgetful), limited(Forgetful)
    first.reset(seed=11)
    follow(first, 5)
    second.reset(seed=0)
    assert second.restore(first.state()) == "Forgetful.set_state does not put back what get_state returned"


def test_a_set_state_that_raises_is_told_and_a_new_episode_starts() -> None:
    class Fussy(Stateful):
        def set_state(self, state: dict[str, Any]) -> None:
            raise KeyError("wheels")

    first, second = limited(Fussy), limited(Fussy)
    first.reset(seed=11)
    follow(first, 5)
    second.reset(seed=0)
    assert second.restore(first.state()) == "Fussy.set_state raised KeyError: 'wheels', so a new episode starts"
    assert (second.steps, second.state()["steps"]) == (0, 0)


def test_a_get_state_that_raises_is_told() -> None:
    class Shy(Stateful):
        def get_state(self) -> Any:
            raise KeyError("wheels")

    with pytest.raises(EnvironmentFailed, match="Shy.get_state raised KeyError: 'wheels'"):
        limited(Shy).reset(seed=0)


def test_an_episode_that_fails_when_it_is_played_back_gives_way_to_a_new_one() -> None:
    class Heated(Noisy):
        hot = False

        def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
            if self.hot:
                raise RuntimeError("too hot")
            return super().step(action)

    first, second = limited(lambda: Guarded(Heated())), limited(lambda: Guarded(Heated()))
    first.reset(seed=11)
    follow(first, 5)
    second.unwrapped.hot = True  # type: ignore[attr-defined]
    state = first.state()
    state["before"]["layers"][-1]["counters"]["hot"] = True
    second.reset(seed=0)
    assert "lead to a failure, so a new episode starts: Heated.step" in (second.restore(state) or "")
    assert second.steps == 0


def test_a_long_episode_that_is_played_back_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(resumable, "LONG", 50)
    first, second = Resumable(Noisy()), Resumable(Noisy())
    first.reset(seed=11)
    follow(first, 60)
    second.reset(seed=0)
    assert second.restore(first.state()) is None
    assert "playing back the 60 steps of the running episode" in capsys.readouterr().err
    assert same(follow(first, 20), follow(second, 20))


def test_a_counter_that_differs_is_named() -> None:
    class Clock(Noisy):
        ticks = 0

        def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
            Clock.ticks += 1
            self.now = Clock.ticks
            return super().step(action)

    first, second = limited(Clock), limited(Clock)
    first.reset(seed=11)
    follow(first, 3)
    assert (second.restore(first.state()) or "").startswith("Clock.now has another value")


def test_an_environment_that_draws_from_numpys_global_generator_is_exact_at_episode_ends() -> None:
    class Global(Noisy):
        def draw(self) -> float:
            return float(np.random.normal())

    first, second = limited(Global), limited(Global)
    np.random.seed(1)
    first.reset(seed=11)
    follow(first, 37)
    state = through_checkpoint(first.state())
    np.random.seed(2)
    second.reset(seed=0)
    assert second.restore(state) is None
    assert same(second.obs, first.obs)


def test_a_dropped_episode_starts_anew_with_the_generator_that_was() -> None:
    first, second = limited(Noisy), limited(Noisy)
    first.reset(seed=11)
    follow(first, 5)
    state = through_checkpoint(first.state(drop=True))
    second.reset(seed=0)
    assert second.restore(state) == "the episode in which the environment failed was dropped"
    assert same(np.array(second.obs), np.array(first.reset()[0]))


def test_a_state_that_is_no_plain_data_is_refused_at_the_first_reset() -> None:
    class Opaque(Stateful):
        def get_state(self) -> Any:
            return object()

    with pytest.raises(UserError, match=r"Opaque.get_state must return numbers.*<object object"):
        limited(Opaque).reset(seed=0)


def test_an_action_that_made_the_environment_raise_is_not_recorded() -> None:
    class Fragile(Noisy):
        def step(self, action: Any) -> Any:
            raise ZeroDivisionError

    env = limited(Fragile)
    env.reset(seed=0)
    with pytest.raises(ZeroDivisionError):
        env.step(np.zeros(1))
    assert env.steps == 0


def test_actions_keep_their_values_and_types() -> None:
    actions, given = Actions(), []
    rng = np.random.default_rng(0)
    for i in range(300):
        dtype = np.float64 if i % 100 < 30 else np.float32
        given.append(rng.standard_normal(3).astype(dtype))
        actions.add(given[-1])
    assert len(actions) == 300
    assert same(list(actions), given)
    assert same(list(Actions(actions.chunks())), given)
    assert len(actions.chunks()) < 20
    actions.clear()
    assert list(actions) == []


def test_a_checked_environment_goes_on_behind_its_first_step() -> None:
    """Gymnasium's checker compares its first two steps, the first of which another process has made."""
    first, second = (Resumable(gym.make("Blackjack-v1")) for _ in range(2))
    first.reset(seed=3)
    first.step(0)
    resumable.put_carried(second.env, resumable.carried(first.env))
    second.reset()
    second.step(0)
    second.reset()
    second.step(0)


def test_what_is_kept_of_actions_does_not_tell_how_they_came_to_be_kept() -> None:
    once, again = Actions(), Actions()
    for _ in range(200):  # an episode before, after which there is more room
        again.add(np.zeros(1))
    again.clear()
    for actions in (once, again):
        for step in range(100):
            actions.add(np.array([step / 3]))
    played_back = Actions(once.chunks()[:1])
    played_back.add(np.array([7.0]))
    assert same(once.chunks(), again.chunks())
    assert [len(chunk) for chunk in played_back.chunks()] == [101]
