"""What a world model leaves out and whether it learns changes, on small systems whose truth is known."""

import dataclasses
import logging

import pytest
import torch
from torch import Tensor

from dyna import choices, fitting
from dyna.errors import Diverged
from dyna.imagination import horizon_error
from dyna.plan_model import PlanModel
from dyna.types import Transitions
from dyna.world_model import GaussianEnsemble
from tests.dyna.test_world_model import SMALL, fitted, generator, linear_system

SPIKES = 30
LEAVING = dataclasses.replace(SMALL, leave_out=True)


def jumps(rows: int, numbers: int = SPIKES) -> Tensor:
    """[rows, numbers] that are 0 in nine of ten rows and anything in the tenth."""
    rng = torch.Generator().manual_seed(0)
    return torch.randn(rows, numbers, generator=rng) * (torch.rand(rows, numbers, generator=rng) < 0.1)


def beside(data: Transitions, more: Tensor) -> Transitions:
    """The same with further numbers [B + 1, N]."""
    return data._replace(obs=torch.cat([data.obs, more[:-1]], 1), next_obs=torch.cat([data.next_obs, more[1:]], 1))


def with_spikes(data: Transitions) -> Transitions:
    """The same with numbers that jump and are of no consequence."""
    return beside(data, jumps(len(data.obs) + 1))


def with_switch(data: Transitions) -> Transitions:
    """One that is thrown at random, rests else, and decides which way the action pushes."""
    rng = torch.Generator().manual_seed(2)
    switch = torch.where(torch.rand(len(data.obs) + 1, 1, generator=rng) < 0.3, 1.0, 0.0)
    obs = torch.zeros(len(data.obs) + 1, 2)
    for t in range(len(data.obs)):
        (position, speed), push = obs[t], data.action[t, 0] * (2 * switch[t, 0] - 1)
        obs[t + 1] = torch.stack([0.98 * position + 0.2 * speed, 0.8 * speed + push])
    return beside(data._replace(obs=obs[:-1], next_obs=obs[1:], reward=obs[1:, 0]), switch)


def with_one_that_says(data: Transitions, what: str) -> Transitions:
    """Thirty numbers that jump, of which the first alone says `what`: an end, a reward, or itself beforehand."""
    more = jumps(len(data.obs) + 1)
    told = (more[1:, 0] != 0).float()
    if what == "itself":
        more[:, 0] = (torch.arange(len(more)) % 4 == 0).float()
        more[:, 1] = more[:, 0].roll(1)
    data = data._replace(terminated=told) if what == "end" else data
    return beside(data._replace(reward=told) if what == "reward" else data, more)


def left_out(model: GaussianEnsemble) -> list[int]:
    found: list[int] = (~model.seen).nonzero().flatten().tolist()
    return found


def test_numbers_that_jump_unforeseen_and_say_nothing_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    data = with_spikes(linear_system(rows=2_000))
    past, new = data.at(slice(1_500)), data.at(slice(1_500, None))
    model, metrics = fitted(past, LEAVING)
    assert left_out(model) == list(range(2, 2 + SPIKES)) and metrics["left_out"] == SPIKES
    assert "30 of 32 numbers of an observation are left out" in caplog.text
    model_of_all, _ = fitted(past, SMALL)

    def error(model: GaussianEnsemble) -> Tensor:
        told, truth = model.predict(new.obs, new.action).mean.mean(0), torch.cat([new.next_obs, new.reward[:, None]], 1)
        return (told - truth)[:, [0, 1, -1]].square().mean(0)

    assert (error(model) < 0.5 * error(model_of_all)).all()
    assert metrics["holdout_state_error"] < 0.1 and metrics["coverage_90"] > 0.8, "of what is seen alone"


@pytest.mark.parametrize("target", ["delta", "next_obs"])
def test_nothing_depends_on_what_is_left_out_and_it_stays_as_it_is(target: str) -> None:
    data = with_spikes(linear_system())
    model, _ = fitted(data, dataclasses.replace(LEAVING, target=target))
    other = data.obs.clone()
    other[:, 2:] = 1e3
    mean, std, ends = model.predict(data.obs, data.action)
    mean_of_other, std_of_other, ends_of_other = model.predict(other, data.action)
    torch.testing.assert_close(mean_of_other[..., :2], mean[..., :2])
    torch.testing.assert_close(mean_of_other[..., -1], mean[..., -1])
    torch.testing.assert_close((std_of_other, ends_of_other), (std, ends))
    torch.testing.assert_close(mean[..., 2:-1], data.obs[:, 2:].expand(3, -1, -1))
    believed = PlanModel(model, torch.arange(3))
    with torch.no_grad():
        found = believed.next_mean(data.obs.expand(3, -1, -1), data.action.expand(3, -1, -1))
    torch.testing.assert_close(found, mean[..., :-1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.novelty(other, data.action), model.novelty(data.obs, data.action))
    alone = (model.state_head(model.normalise_input(data.obs, data.action).expand(3, -1, -1)).mean * model.y_std[:-1])[
        ..., :2
    ]
    apart = (alone / model.change_std[:2]).var(0, correction=0).mean(-1)
    assert (model.novelty(data.obs, data.action) >= apart.sqrt() * 0.999).all(), "it does not dilute"
    scored = horizon_error(model, data.at(data.windows(3)))
    assert (scored.state < 0.2).all() and (scored.coverage > 0.6).all()


@pytest.mark.parametrize("what", ["end", "reward", "itself"])
def test_a_jumping_number_that_says_something_is_kept(what: str) -> None:
    model, _ = fitted(with_one_that_says(linear_system(rows=3_000), what), LEAVING)
    assert 2 not in left_out(model)


def test_a_resting_number_that_decides_what_actions_do_is_kept() -> None:
    data = with_switch(linear_system())
    assert choices.at_rest(data.obs).tolist() == [False, False, True]
    model, metrics = fitted(data, LEAVING)
    assert left_out(model) == [] and metrics["left_out"] == 0


def test_nothing_is_left_out_of_few_rows_or_where_exact_functions_see_all() -> None:
    data = with_spikes(linear_system())
    few, _ = fitted(data.at(slice(choices.FEW - 1)), LEAVING)
    exact, _ = fitted(data, LEAVING, reward_fn=lambda obs, action, next_obs: next_obs[:, 0])
    off, _ = fitted(data, SMALL)
    assert left_out(few) == left_out(exact) == left_out(off) == []
    given_later, _ = fitted(data, LEAVING)
    assert left_out(given_later)
    given_later.termination_fn = lambda obs, action, next_obs: torch.zeros(len(obs))
    given_later.fit(data, rng=generator())
    assert left_out(given_later) == []


@pytest.mark.parametrize("n_envs", [20, 40])
def test_many_environments_take_turns_in_what_is_held_out(n_envs: int) -> None:
    data = with_spikes(linear_system(rows=1_200))
    together = Transitions(*(part.view(n_envs, -1, *part.shape[1:]).transpose(0, 1).flatten(0, 1) for part in data))
    shown, held = choices._spread_out(together, n_envs)
    assert 200 <= len(held.obs) <= 300 and len(shown.obs) + len(held.obs) == 1_200
    assert len(held.windows(3, n_envs)) >= n_envs, "whole steps of all environments, one after the other"
    model = GaussianEnsemble(32, 1, LEAVING)
    model.fit(together, rng=generator(), n_envs=n_envs)
    assert left_out(model) in ([], list(range(2, 32)))


def test_no_more_is_held_out_than_judges_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choices, "HOLDOUT_ROWS", 100)
    shown, held = choices._spread_out(linear_system(), 1)
    assert len(held.obs) == 100 and len(shown.obs) == 1_400


def test_without_a_number_at_rest_a_fit_is_the_same_to_the_bit() -> None:
    (one, _), (other, _) = (fitted(linear_system(), dataclasses.replace(SMALL, leave_out=on)) for on in (True, False))
    for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_what_was_left_out_is_seen_again_when_the_data_says_so() -> None:
    switch = with_switch(linear_system(rows=6_000))
    model = GaussianEnsemble(3, 1, LEAVING)
    model.see(torch.tensor([True, True, False]))
    model.rows_at_choice.fill_(1_501)
    model.fit(switch.at(slice(6_000)), rng=generator())
    assert left_out(model) == [2], "the data has not grown"
    model.rows_at_choice.fill_(1_500)
    model.fit(switch, rng=generator())
    assert left_out(model) == []
    assert torch.isfinite(torch.cat([model.x_std, model.y_std])).all()


def test_what_was_left_out_does_not_return_for_no_longer_resting() -> None:
    """An ant that stands feels other forces at each step; once they were seen again, its model was lost."""
    early = with_spikes(linear_system())
    model, _ = fitted(early, LEAVING)
    data = linear_system(rows=6_000)
    restless = beside(data, torch.randn(6_001, SPIKES, generator=generator()))
    model.fit(restless, rng=generator())
    assert not choices.at_rest(restless.obs).any() and left_out(model) == list(range(2, 2 + SPIKES))


def test_a_model_that_sees_more_than_before_is_not_judged_by_what_it_does_not_know_yet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    judged: list[int] = []

    def error(model: GaussianEnsemble, *_: object, **__: object) -> float:
        judged.append(model.settings.members)
        return 1.0

    monkeypatch.setattr(choices, "PROBE_UPDATES", 2)
    model, _ = fitted(with_switch(linear_system()), dataclasses.replace(LEAVING, target="auto", max_updates=2))
    monkeypatch.setattr(choices, "open_loop_error", error)
    monkeypatch.setattr(choices, "_numbers", lambda *_: torch.ones(3, dtype=torch.bool))
    for out in (False, True):
        model.see(torch.tensor([True, True, not out]))
        model.rows_at_choice.zero_()
        judged.clear()
        model.fit(with_switch(linear_system()), rng=generator())
        assert left_out(model) == [] and (SMALL.members in judged) == (not out)


def test_at_rest_is_what_has_one_value_in_many_rows_but_not_in_all() -> None:
    moving, still, quarter, fifth = torch.randn(400), torch.zeros(400), torch.randn(400), torch.randn(400)
    quarter[torch.randperm(400)[:101]] = 5.0
    fifth[torch.randperm(400)[:80]] = 0.0
    assert choices.at_rest(torch.stack([moving, still, quarter, fifth], 1)).tolist() == [False, False, True, False]


def test_weights_that_are_not_finite_choose_nothing() -> None:
    data = with_spikes(linear_system())
    with pytest.raises(Diverged, match="world model"):
        fitted(data, dataclasses.replace(LEAVING, learning_rate=1e10))


@pytest.mark.parametrize(("next_obs_error", "delta"), [(0.9, True), (1.1, True), (0.5, False)])
def test_targets_are_changes_unless_states_are_clearly_nearer(
    monkeypatch: pytest.MonkeyPatch, next_obs_error: float, delta: bool
) -> None:
    def error(model: GaussianEnsemble, *_: object) -> float:
        return 1.0 if model.delta else next_obs_error

    monkeypatch.setattr(choices, "open_loop_error", error)
    monkeypatch.setattr(choices, "PROBE_UPDATES", 2)
    model, metrics = fitted(linear_system(200), dataclasses.replace(SMALL, target="auto", max_updates=2))
    assert bool(model.delta) == delta == bool(metrics["target_delta"])


@pytest.mark.parametrize(("better", "changed"), [(0.9, False), (0.5, True)])
@pytest.mark.parametrize("kind", ["delta", "next_obs"])
def test_a_model_keeps_its_kind_of_target_unless_another_beats_what_it_has_learned(
    monkeypatch: pytest.MonkeyPatch, kind: str, better: float, changed: bool
) -> None:
    def error(model: GaussianEnsemble, *_: object) -> float:
        own = model.settings.members == SMALL.members
        return 1.0 if own else better if bool(model.delta) != (kind == "delta") else 9.0

    monkeypatch.setattr(choices, "PROBE_UPDATES", 2)
    data, model = linear_system(80), GaussianEnsemble(2, 1, dataclasses.replace(SMALL, target="auto", max_updates=2))
    with monkeypatch.context() as patch:
        patch.setattr(choices, "open_loop_error", lambda each, *_: float(bool(each.delta) != (kind == "delta")))
        model.fit(data.at(slice(20)), rng=generator())
    assert bool(model.delta) == (kind == "delta")
    known = [weight.clone() for weight in model.state_network.parameters()]
    monkeypatch.setattr(choices, "open_loop_error", error)
    monkeypatch.setattr(fitting, "_train", lambda *_: 0)
    model.fit(data.at(slice(79)), rng=generator())
    assert bool(model.delta) == (kind == "delta"), "the data has not grown enough"
    model.fit(data, rng=generator())
    assert bool(model.delta) == ((kind == "delta") != changed)
    kept = all(torch.equal(a, b) for a, b in zip(known, model.state_network.parameters(), strict=True))
    assert kept != changed


def test_slow_states_are_learned_by_their_changes() -> None:
    rng = generator()
    action, states = 2 * torch.rand(400, 1, generator=rng) - 1, [torch.zeros(2)]
    for push in action:
        x, v = states[-1]
        states.append(torch.stack([x + 0.05 * v, v + 0.05 * (push[0] - x)]))
    walk = torch.stack(states)
    data = Transitions(walk[:-1], action, action[:, 0], walk[1:], torch.zeros(400))
    model, _ = fitted(data, dataclasses.replace(SMALL, target="auto", max_updates=2))
    assert bool(model.delta)


def test_an_open_loop_error_grows_with_a_wrong_model_and_vanishes_with_the_true_one() -> None:
    data = linear_system(noise=0.0)
    model, _ = fitted(data, dataclasses.replace(SMALL, max_updates=1_500))
    good = choices.open_loop_error(model, data, 5, 1)
    model.change_std *= 9.0
    assert choices.open_loop_error(model, data, 5, 1) == good, (
        "models are compared that were fitted in units of their own"
    )
    model.y_mean += 0.1
    assert good < 0.01 < choices.open_loop_error(model, data, 5, 1)


def test_a_few_jumps_that_nobody_foretells_do_not_count() -> None:
    data = linear_system(noise=0.0)
    model, _ = fitted(data, dataclasses.replace(SMALL, max_updates=1_500))
    jumps = torch.arange(50, 1_450, 100)  # each is in six of the windows
    data.next_obs[jumps] = data.obs[jumps + 1] = 3.0
    assert choices.open_loop_error(model, data, 5, 1) < 0.02
