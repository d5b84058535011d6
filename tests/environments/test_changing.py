"""An environment changes at its step and not before, only in what it says, and goes on where it was stopped."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.classic_control.pendulum import PendulumEnv
from gymnasium.utils.env_checker import check_env

from dyna import envs, registry
from dyna.config import RunConfig
from dyna.environments.changing import Changing
from dyna.errors import UserError
from dyna.resumable import Resumable

IDS = sorted(name for name in registry.environments() if name.startswith("dyna/Changing") and "Maze" not in name)
PHYSICS = [(name, change) for name in IDS for change in ("gravity", "mass")]
PHYSICS.remove(("dyna/ChangingReacher-v0", "gravity"))  # it moves in a plane, which gravity does not pull along
SWITCH, CUT, STEPS = 25, 10, 40  # an episode is cut at step 10
NEVER = 10**6

pytestmark = pytest.mark.filterwarnings("ignore:.*A Box observation space (min|max)imum value is -?infinity")


class Steps(NamedTuple):
    """What an environment returned."""

    obs: np.ndarray
    reward: np.ndarray
    ended: np.ndarray


def make(name: str, **kwargs: Any) -> gym.Env[Any, Any]:
    return gym.make(name, **kwargs)


def played(env: gym.Env[Any, Any], steps: int = STEPS) -> Steps:
    """Random actions, the same each time, from a first episode that is cut and a second one."""
    env.action_space.seed(1)
    env.reset(seed=2)
    rows = []
    for step in range(steps):
        if step == CUT:
            env.reset()
        rows.append(env.step(env.action_space.sample())[:3])
        if rows[-1][2]:
            env.reset()
    return Steps(*map(np.array, zip(*rows, strict=True)))


@pytest.mark.filterwarnings("ignore:.*(symmetric and normalized space|different from the unwrapped version)")
@pytest.mark.parametrize("name", IDS)
def test_gymnasium_finds_nothing_wrong(name: str) -> None:
    check_env(make(name, switch=5), skip_render_check=True)


@pytest.mark.parametrize("name", IDS)
def test_it_has_the_time_limit_of_what_it_is_made_of_and_can_be_made_again(name: str) -> None:
    env, of = make(name), gym.spec(gym.spec(name).kwargs["of"])
    assert env.spec is not None and env.spec.max_episode_steps == of.max_episode_steps
    assert str(gym.make(env.spec)) == str(env)  # nothing is wrapped twice


@pytest.mark.parametrize("name", IDS)
def test_until_then_it_is_the_environment_that_it_is_made_of(name: str) -> None:
    plain, changing = played(make(gym.spec(name).kwargs["of"])), played(make(name, switch=NEVER))
    for left, right in zip(plain, changing, strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize(("name", "change"), PHYSICS)
def test_physics_changes_at_its_step_over_episodes_and_not_before(name: str, change: str) -> None:
    before, after = (played(make(name, change=change, switch=switch)) for switch in (NEVER, SWITCH))
    for left, right in zip(before, after, strict=True):
        np.testing.assert_array_equal(left[:SWITCH], right[:SWITCH])
    assert not np.array_equal(before.obs[SWITCH], after.obs[SWITCH])


@pytest.mark.parametrize("name", IDS)
def test_what_changes_where_nothing_is_said_is_noticed(name: str) -> None:
    before, after = (played(make(name, switch=switch)) for switch in (NEVER, SWITCH))
    assert not np.array_equal(before.obs[SWITCH], after.obs[SWITCH])


@pytest.mark.parametrize("name", IDS)
def test_a_changed_reward_changes_nothing_else(name: str) -> None:
    before, after = (played(make(name, change="reward", switch=switch, amount=-2.0)) for switch in (NEVER, SWITCH))
    np.testing.assert_array_equal(before.obs, after.obs)
    np.testing.assert_array_equal(before.ended, after.ended)
    np.testing.assert_array_equal(before.reward[:SWITCH], after.reward[:SWITCH])
    np.testing.assert_array_equal(-2.0 * before.reward[SWITCH:], after.reward[SWITCH:])


def test_a_pendulum_with_another_target_is_paid_for_that_angle() -> None:
    env = make("dyna/ChangingPendulum-v0", change="target", switch=SWITCH, amount=1.0)
    before, after = played(make("Pendulum-v1")), played(env)
    np.testing.assert_array_equal(before.obs, after.obs)
    np.testing.assert_array_equal(before.reward[:SWITCH], after.reward[:SWITCH])
    assert (before.reward[SWITCH:] != after.reward[SWITCH:]).all()
    for angle in (0.0, 1.0, -2.5, 3.0 + 2 * math.pi):
        env.unwrapped.state = np.array([angle, 0.5])  # type: ignore[attr-defined]
        away = math.remainder(angle - 1.0, 2 * math.pi)
        assert env.step(np.array([2.0]))[1] == pytest.approx(-(away**2 + 0.1 * 0.25 + 0.001 * 4.0))


@pytest.mark.parametrize("change", ["gravity", "mass"])
def test_a_changed_pendulum_is_one_and_a_half_times_as_heavy(change: str) -> None:
    changed, other = make("dyna/ChangingPendulum-v0", change=change, switch=0), make("Pendulum-v1")
    pendulum = other.unwrapped
    assert isinstance(pendulum, PendulumEnv)
    pendulum.g, pendulum.m = (15.0, 1.0) if change == "gravity" else (10.0, 1.5)
    for left, right in zip(played(changed), played(other), strict=True):
        np.testing.assert_array_equal(left, right)


def test_all_that_mujoco_derives_from_masses_follows_them() -> None:
    model, heavier = (make("dyna/ChangingHopper-v0", change="mass", switch=switch) for switch in (NEVER, 0))
    for env in (model, heavier):
        env.reset(seed=0)
    before, after = model.unwrapped.model, heavier.unwrapped.model  # type: ignore[attr-defined]
    for name in ("body_mass", "body_inertia", "body_subtreemass"):
        np.testing.assert_allclose(getattr(after, name), 1.5 * getattr(before, name), rtol=1e-12)
    assert (after.dof_invweight0 < before.dof_invweight0).all()


def test_one_body_may_get_heavier_alone() -> None:
    env = make("dyna/ChangingHopper-v0", change="mass", body="foot", switch=0, amount=3.0)
    before, after = make("Hopper-v5").unwrapped.model, env.unwrapped.model  # type: ignore[attr-defined]
    env.reset()
    ratio = after.body_mass[1:] / before.body_mass[1:]
    assert ratio.tolist() == [3.0 if before.body(i).name == "foot" else 1.0 for i in range(1, before.nbody)]


@pytest.mark.parametrize("steps", [SWITCH + 5, SWITCH - 5])
@pytest.mark.parametrize(
    ("name", "change"),
    [
        (name, change)
        for name in ("dyna/ChangingPendulum-v0", "dyna/ChangingHopper-v0")
        for change in ("gravity", "mass")
    ]
    + [("dyna/ChangingPendulum-v0", "target"), ("dyna/ChangingReacher-v0", "reward")],
)
def test_an_episode_is_brought_about_again_on_both_sides_of_the_change(name: str, change: str, steps: int) -> None:
    first, second = (Resumable(make(name, change=change, switch=SWITCH)) for _ in range(2))
    played(first, steps)
    assert second.restore(first.state()) is None
    np.testing.assert_array_equal(first.obs, second.obs)
    for _ in range(STEPS):
        action = first.action_space.sample()
        (obs, *rest), (same_obs, *same_rest) = first.step(action), second.step(action)
        np.testing.assert_array_equal(obs, same_obs)
        assert rest[:3] == same_rest[:3]


def test_a_used_environment_goes_back_to_the_world_before() -> None:
    early, late = (Resumable(make("dyna/ChangingHopper-v0", change="mass", switch=SWITCH)) for _ in range(2))
    played(early, CUT)
    played(late, STEPS)
    assert late.restore(early.state()) is None
    action = early.action_space.sample()
    np.testing.assert_array_equal(early.step(action)[0], late.step(action)[0])


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"change": "wind"}, "change must be gravity, mass, reward or target, got 'wind'"),
        ({"switch": -1}, "switch must be a number of steps, 0 or more, got -1"),
        ({"switch": 1.5}, "switch must be a number of steps, 0 or more, got 1.5"),
        ({"change": "mass", "amount": 0}, "amount must be a finite number above 0, got 0"),
        ({"amount": math.inf}, "amount must be a finite number, got inf"),
        ({"amount": "much"}, "amount must be a finite number, got 'much'"),
        ({"change": "mass", "body": "leg"}, "only MuJoCo's models have named bodies: leave out body='leg'"),
        ({"body": "leg"}, "goes with change=mass, got body='leg', change=gravity"),
        ({"of": "Hopper-v5", "change": "mass", "body": "tail"}, "no body 'tail', it has torso, thigh, leg, foot"),
        ({"of": "Hopper-v5", "change": "target"}, "only Gymnasium's pendulum has a target, got HopperEnv"),
        ({"of": "Reacher-v5"}, "a plane along which gravity does not pull: choose change=mass"),
        ({"of": "MountainCarContinuous-v0"}, "gravity is known of .*, got Continuous_MountainCarEnv"),
        ({"of": "MountainCarContinuous-v0", "change": "mass"}, "mass is known of .*, got Continuous_MountainCarEnv"),
    ],
)
def test_what_cannot_change_is_refused_in_a_sentence(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        envs.make_one(RunConfig(env="dyna/ChangingPendulum-v0", env_kwargs=wrong))


def test_any_environment_may_pay_otherwise() -> None:
    env = Changing(gym.make("MountainCarContinuous-v0"), "reward", switch=0, amount=2.0)
    env.reset(seed=0)
    assert env.step(np.array([1.0], np.float32))[1] == pytest.approx(-0.2)
