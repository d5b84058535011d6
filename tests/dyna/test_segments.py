"""Laws of rollouts that are led along real steps: where they do what was done, they come to what came."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from dyna.packed import PackedReplayBuffer
from dyna.segments import MOST_UNLIKELY, NEWEST, Segments, Trail, collected, dealt, draw_ages
from dyna.value_expansion import expand
from dyna.world_model import EnsembleSettings, GaussianEnsemble

OBS, ACTION, ROWS, HORIZON = 3, 2, 12, 5


def world(members: int = 3, target: str = "delta", **known: Any) -> GaussianEnsemble:
    """An ensemble that was taught nothing, whose members disagree about everything."""
    torch.manual_seed(members)
    settings = EnsembleSettings(members=members, elites=members, width=8, depth=1, target=target)
    model = GaussianEnsemble(OBS, ACTION, settings, **known)
    model.y_std.fill_(2.0)
    model.y_mean.normal_()
    return model


def walked() -> Segments:
    """Steps that no model foretold, near enough for none of them to be called impossible."""
    obs = torch.randn(HORIZON + 1, ROWS, OBS)
    real = torch.ones(HORIZON, ROWS, dtype=torch.bool)
    return Segments(obs[:-1], torch.rand(HORIZON, ROWS, ACTION) * 2 - 1, obs[1:], real)


def repeated(model: GaussianEnsemble, segments: Segments, change: float = 0.0) -> Tensor:
    """The states [H+1, B, S] to which the actions that were taken, or others, lead along the segments."""
    actions = iter([*(segments.action + change), torch.zeros(ROWS, ACTION)])

    def act(obs: Tensor) -> tuple[Tensor, Tensor]:
        return next(actions), torch.zeros(len(obs))

    noise = segments.noise(model)
    return expand(model, act, segments.start, HORIZON, noise=noise, rng=torch.Generator()).obs


@pytest.mark.parametrize("target", ["delta", "next_obs"])
@pytest.mark.parametrize("members", [1, 3, 4])
def test_actions_that_were_taken_lead_where_they_led_whatever_the_model_says(members: int, target: str) -> None:
    segments = walked()
    model = world(members, target)
    assert float(segments.noise(model).abs().max()) < MOST_UNLIKELY
    torch.testing.assert_close(repeated(model, segments)[1:], segments.next_obs, rtol=1e-4, atol=1e-4)


def test_other_actions_lead_elsewhere_by_what_the_model_says_of_them() -> None:
    model, segments = world(), walked()
    own = torch.arange(3).repeat_interleave(ROWS // 3), torch.arange(ROWS)  # at the first turn
    was, other = (model.predict(segments.start, segments.action[0] + change) for change in (0.0, 0.1))
    mean, std = ((after - before)[own][:, :-1] for after, before in zip(other[:2], was[:2], strict=True))
    moved = repeated(model, segments, 0.1)[1] - segments.next_obs[0]
    torch.testing.assert_close(moved, mean + std * segments.noise(model)[0], rtol=1e-3, atol=1e-4)
    assert bool((moved != 0).all())


def test_reward_and_end_are_asked_of_the_states_that_are_reached() -> None:
    model = world(reward_fn=lambda obs, action, next_obs: next_obs.sum(1))
    segments = walked()
    actions = iter([*segments.action, torch.zeros(ROWS, ACTION)])
    led = expand(
        model,
        lambda obs: (next(actions), torch.zeros(len(obs))),
        segments.start,
        HORIZON,
        noise=segments.noise(model),
        rng=torch.Generator(),
    )
    torch.testing.assert_close(led.reward, segments.next_obs.sum(2), rtol=1e-4, atol=1e-3)


def test_after_the_last_real_step_what_is_expected_comes() -> None:
    real = torch.arange(HORIZON).unsqueeze(1) < torch.randint(HORIZON + 1, (ROWS,))
    whole = walked()
    noise = whole._replace(real=real).noise(world())
    assert torch.equal(noise[real], whole.noise(world())[real])
    assert bool((noise[~real] == 0).all()) and bool((noise[real] != 0).all())


def test_what_is_all_but_impossible_is_no_noise() -> None:
    segments = walked()
    segments.next_obs[2] += 1e6
    assert float(segments.noise(world()).abs().max()) == MOST_UNLIKELY


def test_some_may_begin_elsewhere_where_nothing_is_known_to_follow() -> None:
    segments, rows, obs = walked(), torch.tensor([1, 5, 7]), torch.randn(3, OBS)
    begun = segments.begun_at(obs, rows)
    assert torch.equal(begun.start[rows], obs) and not begun.real[:, rows].any()
    others = torch.tensor([i for i in range(ROWS) if i not in rows.tolist()])
    for mine, theirs in zip(begun, segments, strict=True):
        assert torch.equal(mine[:, others], theirs[:, others])
    assert bool(segments.real.all()), "the segments themselves stay what they were"


def test_a_trail_leads_on_from_where_a_rollout_came_to() -> None:
    segments, obs = walked(), torch.randn(3, ROWS, OBS)
    alive = torch.rand(3, ROWS)
    trail = Trail.of(obs, alive, segments)
    start, along = trail.sample(400, 2, rng=torch.Generator().manual_seed(0))
    places = {tuple(state): place for place, state in enumerate(obs.flatten(0, 1).tolist())}
    chosen = [divmod(places[tuple(state)], ROWS) for state in start.tolist()]
    assert {divmod(place, ROWS) for place in (alive.flatten() > 0.5).nonzero().flatten().tolist()} == set(chosen)
    for row, (step, begun) in enumerate(chosen):
        for mine, theirs in zip(along, segments, strict=True):
            assert torch.equal(mine[:, row], theirs[step : step + 2, begun])
    with pytest.raises(IndexError):
        trail.sample(400, HORIZON, rng=torch.Generator())


@pytest.mark.parametrize("members", [1, 3, 4])
def test_members_take_turns(members: int) -> None:
    rows = torch.arange(ROWS, dtype=torch.float32).unsqueeze(1)
    taken = torch.zeros(members, ROWS)
    for turn in range(members):
        parts = dealt(rows, members, turn)
        assert torch.equal(collected(parts, turn), rows)
        for member in range(members):
            taken[member, parts[member, :, 0].long()] += 1
    assert bool((taken == 1).all()), "in as many turns every row meets every member once"


def test_half_of_the_segments_begin_among_the_newest_steps() -> None:
    ages = draw_ages(4_000, 10 * NEWEST, torch.Generator().manual_seed(0))
    assert int(ages.min()) >= 0 and int(ages.max()) < 10 * NEWEST
    assert float((ages < NEWEST).float().mean()) == pytest.approx(0.55, abs=0.03)
    few = draw_ages(400, 7, torch.Generator().manual_seed(0))
    assert set(few.tolist()) == set(range(7))


def filled(
    steps: int, capacity: int, n_envs: int, last: int
) -> tuple[PackedReplayBuffer, dict[tuple[float, ...], int]]:
    """A buffer of episodes of `last` steps; observations count steps, and say in which environment."""
    space, actions = spaces.Box(-np.inf, np.inf, (2,)), spaces.Box(-1.0, 1.0, (1,))
    buffer = PackedReplayBuffer(capacity * n_envs, space, actions, n_envs=n_envs)
    age = {}
    for step in range(steps):
        obs = np.array([[step, env] for env in range(n_envs)], np.float32)
        done = np.full(n_envs, (step + 1) % last == 0, np.float32)
        buffer.add(obs, obs + [1, 0], np.full((n_envs, 1), step / steps, np.float32), done, done, [{}] * n_envs)
        for env in range(n_envs):
            age[step, env] = (steps - step) * n_envs - env - 1
    return buffer, {(float(step), float(env)): past for (step, env), past in age.items()}


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize(("steps", "capacity"), [(20, 50), (50, 50), (73, 50)])
def test_segments_are_the_steps_that_followed_in_the_same_episode(steps: int, capacity: int, n_envs: int) -> None:
    buffer, age = filled(steps, capacity, n_envs, last=7)
    stored = {step: past for step, past in age.items() if past < len(buffer)}
    starts = sorted(stored, key=lambda step: stored[step])
    segments = buffer.segments(torch.tensor([stored[step] for step in starts]), 4)
    for row, (step, env) in enumerate(starts):
        assert segments.start[row].tolist() == [step, env]
        follow = min(4, 7 - int(step) % 7, steps - int(step))
        assert segments.real[:, row].tolist() == [True] * follow + [False] * (4 - follow)
        for t in range(follow):
            assert segments.obs[t, row].tolist() == [step + t, env]
            assert segments.next_obs[t, row].tolist() == [step + t + 1, env]
            assert float(segments.action[t, row]) == pytest.approx((step + t) / steps)


@pytest.mark.parametrize("ages", [[0, 20], [-1, 3]])
def test_rows_that_are_not_stored_are_refused(ages: list[int]) -> None:
    buffer, _ = filled(20, 50, 1, last=7)
    with pytest.raises(IndexError, match="20 rows are stored"):
        buffer.segments(torch.tensor(ages), 2)
