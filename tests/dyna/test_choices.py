"""What a world model leaves out and whether it learns changes, on small systems whose truth is known."""

import dataclasses
import logging

import pytest
import torch
from torch import Tensor

from dyna import choices, fitting
from dyna.imagination import horizon_error
from dyna.types import Transitions
from dyna.world_model import GaussianEnsemble
from tests.dyna.test_world_model import SMALL, fitted, generator, linear_system

SPIKES = 30


def with_spikes(data: Transitions, spikes: int = SPIKES, seed: int = 0) -> Transitions:
    """The same with numbers that are 0 in nine of ten rows, anything in the tenth, and of no consequence."""
    rng = torch.Generator().manual_seed(seed)
    shape = (len(data.obs) + 1, spikes)
    jumps = torch.randn(shape, generator=rng) * (torch.rand(shape, generator=rng) < 0.1)
    return data._replace(obs=torch.cat([data.obs, jumps[:-1]], 1), next_obs=torch.cat([data.next_obs, jumps[1:]], 1))


def with_switch(data: Transitions) -> Transitions:
    """One that is thrown at random, rests else, and decides which way the action pushes."""
    rng = torch.Generator().manual_seed(2)
    switch = torch.where(torch.rand(len(data.obs) + 1, 1, generator=rng) < 0.3, 1.0, 0.0)
    obs = torch.zeros(len(data.obs) + 1, 2)
    for t in range(len(data.obs)):
        (position, speed), push = obs[t], data.action[t, 0] * (2 * switch[t, 0] - 1)
        obs[t + 1] = torch.stack([0.98 * position + 0.2 * speed, 0.8 * speed + push])
    whole = torch.cat([obs, switch], 1)
    return data._replace(obs=whole[:-1], next_obs=whole[1:], reward=obs[1:, 0])


def left_out(model: GaussianEnsemble) -> list[int]:
    found: list[int] = (~model.seen).nonzero().flatten().tolist()
    return found


def test_numbers_that_jump_unforeseen_and_say_nothing_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    data = with_spikes(linear_system(rows=2_000))
    past, new = data.at(slice(1_500)), data.at(slice(1_500, None))
    model, metrics = fitted(past)
    assert left_out(model) == list(range(2, 2 + SPIKES)) and metrics["left_out"] == SPIKES
    assert "30 numbers of an observation are left out" in caplog.text
    model_of_all, _ = fitted(past, dataclasses.replace(SMALL, leave_out=False))

    def error(model: GaussianEnsemble) -> Tensor:
        told, truth = model.predict(new.obs, new.action).mean.mean(0), torch.cat([new.next_obs, new.reward[:, None]], 1)
        return (told - truth)[:, [0, 1, -1]].square().mean(0)

    assert (error(model) < 0.5 * error(model_of_all)).all()


def test_nothing_depends_on_what_is_left_out_and_it_stays_as_it_is() -> None:
    data = with_spikes(linear_system())
    model, _ = fitted(data)
    other = data.obs.clone()
    other[:, 2:] = 1e3
    mean, std, ends = model.predict(data.obs, data.action)
    mean_of_other, std_of_other, ends_of_other = model.predict(other, data.action)
    torch.testing.assert_close(mean_of_other[..., :2], mean[..., :2])
    torch.testing.assert_close(mean_of_other[..., -1], mean[..., -1])
    torch.testing.assert_close((std_of_other, ends_of_other), (std, ends))
    torch.testing.assert_close(mean[..., 2:-1], data.obs[:, 2:].expand(3, -1, -1))
    torch.testing.assert_close(model.novelty(other, data.action), model.novelty(data.obs, data.action))
    scored = horizon_error(model, data.at(data.windows(3)), model.seen)
    assert (scored.state < 0.2).all() and (scored.coverage > 0.6).all()


def test_a_resting_number_that_matters_is_kept() -> None:
    model, metrics = fitted(with_switch(linear_system()))
    assert choices.at_rest(with_switch(linear_system()).obs).tolist() == [False, False, True]
    assert left_out(model) == [] and metrics["left_out"] == 0


def test_nothing_is_left_out_of_few_rows_or_where_exact_functions_see_all() -> None:
    data = with_spikes(linear_system())
    few, _ = fitted(data.at(slice(choices.FEW - 1)))
    exact, _ = fitted(data, reward_fn=lambda obs, action, next_obs: next_obs[:, 0])
    off, _ = fitted(data, dataclasses.replace(SMALL, leave_out=False))
    assert left_out(few) == left_out(exact) == left_out(off) == []


def test_without_a_number_at_rest_a_fit_is_the_same_to_the_bit() -> None:
    (one, _), (other, _) = (fitted(linear_system(), dataclasses.replace(SMALL, leave_out=on)) for on in (True, False))
    for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_what_was_left_out_is_seen_again_when_the_data_says_so() -> None:
    spikes, switch = with_spikes(linear_system(), spikes=1), with_switch(linear_system(rows=6_000))
    model = GaussianEnsemble(3, 1, SMALL)
    model.fits += 1
    model.see(torch.tensor([True, True, False]))
    model.rows_at_choice.fill_(1_500)
    model.fit(spikes, rng=generator())
    assert left_out(model) == [2], "the data has not grown"
    model.fit(switch, rng=generator())
    assert left_out(model) == []
    assert torch.isfinite(torch.cat([model.x_std, model.y_std])).all()


def test_at_rest_is_what_has_one_value_in_many_rows_but_not_in_all() -> None:
    moving, still, quarter = torch.randn(400), torch.zeros(400), torch.randn(400)
    fifth = torch.randn(400)
    quarter[torch.randperm(400)[:101]] = 5.0
    fifth[torch.randperm(400)[:80]] = 0.0
    obs = torch.stack([moving, still, quarter, fifth], 1)
    assert choices.at_rest(obs).tolist() == [False, False, True, False]


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
    good = choices.open_loop_error(model, data, 5)
    model.change_std *= 9.0
    assert choices.open_loop_error(model, data, 5) == good, "models are compared that were fitted in units of their own"
    model.y_mean += 0.1
    assert good < 0.01 < choices.open_loop_error(model, data, 5)


def test_a_few_jumps_that_nobody_foretells_do_not_count() -> None:
    data = linear_system(noise=0.0)
    model, _ = fitted(data, dataclasses.replace(SMALL, max_updates=1_500))
    jumps = torch.arange(50, 1_450, 100)  # each is in six of the windows
    data.next_obs[jumps] = data.obs[jumps + 1] = 3.0
    assert choices.open_loop_error(model, data, 5) < 0.02
