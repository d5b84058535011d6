"""What comes from an environment and goes to it is what its spaces say; anything else is told with its values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor

from dyna.guard import ActionRefused, EnvironmentFailed, Guarded, fault

NESTED = spaces.Dict(
    {"gear": spaces.Discrete(3), "arm": spaces.Tuple((spaces.Box(-1, 1, (2,)), spaces.MultiBinary(2)))}
)


class Scripted(gym.Env[Any, Any]):
    """Returns what it is told to, and remembers the action."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,))
    action_space: spaces.Space[Any] = spaces.Discrete(2)

    def __init__(self, step: Callable[[], Any], reset: Callable[[], Any] = lambda: (np.zeros(2), {})) -> None:
        self._step, self._reset = step, reset
        self.action: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return self._reset()

    def step(self, action: Any) -> Any:
        self.action = action
        return self._step()


def fail() -> Any:
    raise ZeroDivisionError("boom")


def fail_at_length() -> Any:
    raise RuntimeError("the arm\nis jammed")


def well() -> Any:
    return np.zeros(2), 0.0, False, False, {}


@pytest.mark.parametrize(
    ("step", "sentence"),
    [
        (fail, "Scripted.step(1) raised ZeroDivisionError: boom"),
        (fail_at_length, "Scripted.step(1) raised RuntimeError: the arm is jammed"),
        (lambda: (np.zeros(2), np.nan, False, False, {}), "Scripted.step(1) returned the reward nan"),
        (lambda: (np.zeros(2), 10.0**400, False, False, {}), "OverflowError"),
        (lambda: (np.zeros(2), np.float32("inf"), False, False, {}), "returned the reward inf"),
        (lambda: (np.zeros(2), -1e300, False, False, {}), "returned the reward -1.e+300"),
        (lambda: (np.zeros(2), np.zeros(1), False, False, {}), "returned a reward of shape (1,), which must be one"),
        (lambda: (np.zeros(2), "much", False, False, {}), "raised TypeError"),
        (lambda: (np.array([1.0, np.nan]), 0.0, False, False, {}), "returned the observation [ 1., nan]"),
        (lambda: (np.array([1.0, np.inf], np.float32), 0.0, False, False, {}), "returned the observation [ 1., inf]"),
        (lambda: (np.array([1.0, 1e39]), 0.0, False, False, {}), "returned the observation [1.e+00, 1.e+39]"),
        (lambda: (np.zeros(3), 0.0, False, False, {}), "the observation of shape (3,), but its space has (2,)"),
        (lambda: (None, 0.0, False, False, {}), "the observation of shape (), but its space has (2,)"),
        (
            lambda: (["a", "b"], 0.0, False, False, {}),
            "the observation ['a', 'b'] of dtype <U1, but its space",
        ),
        (lambda: (np.zeros(2), 0.0, False, {}), "returned 4 values, but Gymnasium's interface has obs, reward, term"),
        (lambda: (np.zeros(2), 0.0, np.zeros(2), False, {}), "raised ValueError"),
        (
            lambda: (np.zeros(2), 0.0, False, True, {"is_success": "yes"}),
            "Scripted.step(1) returned the info's is_success 'yes', of which SB3 takes the mean: ",
        ),
        (lambda: (np.zeros(2), 0.0, False, False, None), "returned the info None, which must be a dict"),
    ],
)
def test_what_no_learner_can_use_ends_with_the_values(step: Callable[[], Any], sentence: str) -> None:
    env = Guarded(Scripted(step))
    env.reset()
    with pytest.raises(EnvironmentFailed) as caught:
        env.step(np.int64(1))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("reset", "sentence"),
    [
        (lambda: (np.full(2, np.nan), {}), r"Scripted.reset returned the observation \[nan, nan\]"),
        (fail, r"Scripted.reset raised ZeroDivisionError"),
        (lambda: np.zeros(2), r"returned ndarray, but Gymnasium's interface has obs, info"),
    ],
)
def test_a_reset_is_guarded_too(reset: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(EnvironmentFailed, match=sentence):
        Guarded(Scripted(fail, reset)).reset()


def test_large_numbers_pass_and_types_are_pythons() -> None:
    env = Guarded(Scripted(lambda: (np.array([1e30, -1e30], np.float32), np.array(-1e30), np.bool_(True), 0, {})))
    env.reset()
    _, *rest = env.step(0)
    assert rest == [-1e30, True, False, {}]
    assert [type(value) for value in rest] == [float, bool, bool, dict]


@pytest.mark.parametrize("success", [None, True, 0.5, np.bool_(False), np.array([0, 1])])
def test_what_a_mean_can_be_taken_of_passes_as_success(success: Any) -> None:
    env = Guarded(Scripted(lambda: (np.zeros(2), 0.0, True, False, {"is_success": success})))
    assert env.step(0)[-1]["is_success"] is success


def test_an_info_stays_the_environments_and_the_monitor_alone_tells_of_episodes() -> None:
    info: dict[str, Any] = {"episode": 7, "is_success": "not yet"}
    ends = iter([False, True, False])
    env = Monitor(Guarded(Scripted(lambda: (np.zeros(2), 1.0, False, next(ends), info))))
    env.reset()
    assert "episode" not in env.step(0)[-1]
    info["is_success"] = True
    assert env.step(0)[-1]["episode"]["r"] == 2.0
    env.reset()
    assert "episode" not in env.step(0)[-1]
    assert info == {"episode": 7, "is_success": True}


@pytest.mark.parametrize(
    ("space", "obs", "sentence"),
    [
        (NESTED, {"gear": 0}, "the observation with ['gear'], but its space has ['arm', 'gear']"),
        (NESTED, np.zeros(3), "the observation with ndarray, but its space has ['arm', 'gear']"),
        (NESTED, {"gear": 3, "arm": (np.zeros(2), np.ones(2))}, "the observation's gear 3, which is not in its space"),
        (NESTED, {"gear": 1, "arm": (np.zeros(2),)}, "the observation's arm "),
        (NESTED, {"gear": 1, "arm": ([0, np.inf], np.ones(2))}, "the observation's arm[0] [ 0., inf]"),
        (NESTED, {"gear": 1, "arm": (np.zeros(2), [0, 2])}, "the observation's arm[1] [0, 2], which is not in its"),
        (spaces.Discrete(3), 1.5, "the observation 1.5, which is not in its space Discrete(3)"),
        (spaces.Box(0, 255, (2,), np.uint8), np.array([0, 300]), "[  0, 300], which its dtype, uint8, does not hold"),
        (spaces.Box(0, 255, (2,), np.uint8), np.array([0, 0.5]), "[0. , 0.5], which its dtype, uint8, does not hold"),
        (spaces.Box(0, 255, (2,), np.uint8), np.array([0, np.nan]), "[ 0., nan], which its dtype, uint8"),
        (spaces.Box(-1, 1, (2,)), [[0], [0, 1]], "raised"),
    ],
)
def test_what_a_space_does_not_hold_is_named(space: spaces.Space[Any], obs: Any, sentence: str) -> None:
    if sentence == "raised":
        with pytest.raises(ValueError, match="inhomogeneous"):
            fault(space, obs)
    else:
        assert sentence in str(fault(space, obs))


@pytest.mark.parametrize(
    "obs",
    [np.array([1, 2], np.int64), np.array([1.0, 2.0]), [1, 255], np.array([True, False]), np.array([7, 8], np.int8)],
)
def test_what_a_dtype_holds_passes(obs: Any) -> None:
    assert fault(spaces.Box(0, 255, (2,), np.uint8), obs) is None
    assert fault(spaces.Box(0, 255, (2,), np.float32), obs) is None


def test_a_sample_of_a_space_passes() -> None:
    NESTED.seed(0)
    for _ in range(20):
        assert fault(NESTED, NESTED.sample()) is None


@pytest.mark.parametrize(
    ("space", "action"),
    [
        (spaces.Box(-1, 3, (2,)), np.array([0.0, 3.1], np.float32)),
        (spaces.Box(-1, 3, (2,)), np.array([0.0, np.nan], np.float32)),
        (spaces.Box(-1, 3, (2,)), np.zeros(1, np.float32)),
        (spaces.Discrete(2), 2),
        (spaces.MultiDiscrete([2, 2]), np.array([0, 2])),
        (spaces.MultiBinary(2), np.array([0, 3])),
    ],
)
def test_an_action_outside_its_space_is_refused(space: spaces.Space[Any], action: Any) -> None:
    env = Scripted(well)
    env.action_space = space
    guarded = Guarded(env)
    guarded.reset()
    with pytest.raises(ActionRefused, match=r"Scripted was handed the action .*, which is not in its action_space "):
        guarded.step(action)
    assert env.action is None


def test_an_action_that_misses_its_bounds_by_rounding_is_put_on_them() -> None:
    env = Scripted(well)
    env.action_space = spaces.Box(np.array([-0.1, 2.0], np.float32), np.array([0.3, 7.0], np.float32))
    guarded = Guarded(env)
    guarded.reset()
    beyond = np.nextafter(env.action_space.high, np.float32(np.inf))
    guarded.step(beyond)
    assert env.action_space.contains(env.action) and not env.action_space.contains(beyond)
    inside = np.array([0.1, 5.0], np.float32)
    guarded.step(inside)
    assert env.action is inside


@pytest.mark.parametrize("space", [spaces.Box(-np.inf, np.inf, (2,)), spaces.Dict({"a": spaces.Box(-1, 1, (2,))})])
def test_an_observation_stays_what_it_was_though_its_array_is_used_again(space: spaces.Space[Any]) -> None:
    array = np.zeros(2, np.float32)
    seen = {"a": array} if isinstance(space, spaces.Dict) else array
    env = Scripted(lambda: (seen, 0.0, True, False, {}), lambda: (seen, {}))
    env.observation_space = space  # type: ignore[assignment]
    guarded = Guarded(env)
    given = [guarded.reset()[0], guarded.step(0)[0]]
    array += 1
    for obs in given:
        np.testing.assert_array_equal(obs["a"] if isinstance(obs, dict) else obs, 0.0)


def test_what_closing_raises_is_said_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    env = Scripted(well)
    env.close = fail  # type: ignore[method-assign]
    Guarded(env).close()
    assert capsys.readouterr().err == "Scripted.close raised ZeroDivisionError: boom\n"
