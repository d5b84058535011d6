"""Laws of the ensemble, on small systems whose truth is known."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dyna import holdout
from dyna.errors import RunFailed, UserError
from dyna.scoring import NEGLIGIBLE, gaussian_loss
from dyna.types import Transitions
from dyna.world_model import EnsembleSettings, GaussianEnsemble

SMALL = EnsembleSettings(members=3, elites=2, width=32, depth=2, target="delta", max_updates=300)


def linear_system(rows: int = 1_500, noise: float = 0.02, end: float = 0.0, scale: float = 1.0) -> Transitions:
    """One long walk of a damped two-dimensional system; ends at random with probability `end`, reward = position."""
    rng = torch.Generator().manual_seed(0)
    action = torch.rand(rows, 1, generator=rng) * 2 - 1
    shake = noise * torch.randn(rows, 2, generator=rng)
    obs = torch.zeros(rows + 1, 2)
    for t in range(rows):
        position, speed = obs[t]
        obs[t + 1] = torch.stack([0.98 * position + 0.2 * speed, 0.8 * speed + action[t, 0]]) + shake[t]
    ended = (torch.rand(rows, generator=rng) < end).float()
    return Transitions(obs[:-1] * scale, action, obs[1:, 0] * scale, obs[1:] * scale, ended)


def fitted(
    data: Transitions, settings: EnsembleSettings = SMALL, **known: object
) -> tuple[GaussianEnsemble, dict[str, float]]:
    torch.manual_seed(0)
    model = GaussianEnsemble(data.obs.shape[1], data.action.shape[1], settings, **known)  # type: ignore[arg-type]
    return model, model.fit(data, rng=generator())


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def test_shapes_are_member_by_row_by_dimension() -> None:
    model = GaussianEnsemble(4, 2, EnsembleSettings(members=5, width=8, depth=1))
    mean, std, p_terminated = model.predict(torch.zeros(6, 4), torch.zeros(6, 2))
    assert mean.shape == std.shape == (5, 6, 5)
    assert p_terminated.shape == (5, 6)
    assert (std > 0).all() and ((p_terminated > 0) & (p_terminated < 1)).all()


def test_a_row_does_not_depend_on_its_batch() -> None:
    model, _ = fitted(linear_system())
    obs, action = torch.randn(50, 2), torch.rand(50, 1)
    whole, alone = model.predict(obs, action), model.predict(obs[7:8], action[7:8])
    for a, b in zip(whole, alone, strict=True):
        torch.testing.assert_close(a[:, 7:8], b)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_units_of_the_environment_do_not_matter(scale: float) -> None:
    model, metrics = fitted(linear_system(scale=scale))
    assert metrics["holdout_error"] < 0.02
    assert 0.8 < metrics["coverage_90"] < 0.98
    data = linear_system(scale=scale)
    mean = model.predict(data.obs[:100], data.action[:100]).mean.mean(0)
    assert (mean[:, :2] - data.next_obs[:100]).abs().mean() < 0.1 * data.obs.std()


def test_members_noise_is_learned() -> None:
    data = linear_system(noise=0.1)
    std = fitted(data)[0].predict(data.obs, data.action).std.mean(dim=(0, 1))
    torch.testing.assert_close(std[:2], torch.full((2,), 0.1), rtol=0.3, atol=0.0)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_beta_takes_the_variance_out_of_what_means_learn_and_leaves_the_right_variance(beta: float) -> None:
    target = torch.tensor([-3.0, 5.0])
    mean, log_var = torch.zeros(2, requires_grad=True), torch.tensor([0.7, -1.2])
    slope = torch.autograd.grad(gaussian_loss(mean, log_var, target, beta).sum(), mean)[0]
    torch.testing.assert_close(slope, -target * ((beta - 1) * log_var).exp())
    right = torch.log(target.square()).requires_grad_()
    loss = gaussian_loss(mean.detach(), right, target, beta).sum()
    torch.testing.assert_close(torch.autograd.grad(loss, right)[0], torch.zeros(2))


def test_sample_step_draws_from_the_same_distribution_as_sample() -> None:
    model, _ = fitted(linear_system(end=0.2))
    obs, action = torch.tensor([[0.5, -0.5]]).expand(40_000, 2), torch.zeros(40_000, 1)
    one = model.sample_step(obs, action, rng=generator())
    other = model.sample(model.predict(obs, action), rng=generator())
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a.mean(0), b.mean(0), rtol=0.02, atol=2e-3)
        torch.testing.assert_close(a.std(0), b.std(0), rtol=0.05, atol=2e-3)


def test_only_elites_are_drawn() -> None:
    model, _ = fitted(linear_system())
    loser = ({0, 1, 2} - set(model.elites.tolist())).pop()
    model.state_network.layers[-1].bias.data[loser] += 1e3
    step = model.sample_step(torch.zeros(64, 2), torch.zeros(64, 1), rng=generator())
    assert step.next_obs.abs().max() < 100


def test_oversampling_terminal_rows_does_not_change_their_predicted_frequency() -> None:
    data = linear_system(rows=4_000, end=0.02)
    model, metrics = fitted(data)
    assert float(model.log_oversampling) > 1.0
    predicted = float(model.predict(data.obs, data.action).p_terminated.detach().mean())
    assert math.isclose(predicted, float(data.terminated.mean()), rel_tol=0.35)
    assert metrics["terminals"] == float(data.terminated.sum())


def test_a_termination_that_can_be_told_is_told() -> None:
    data = linear_system(rows=4_000)
    ended = (data.next_obs[:, 0] > data.next_obs[:, 0].quantile(0.95)).float()
    _, metrics = fitted(data._replace(terminated=ended), dataclasses.replace(SMALL, width=64, max_updates=1_000))
    assert metrics["termination_f1"] > 0.7


def test_an_end_at_the_edge_of_an_interval_is_told_sharply() -> None:
    rng = generator()
    obs, action = torch.randn(4_000, 10, generator=rng), torch.rand(4_000, 1, generator=rng) * 2 - 1
    next_obs = obs + 0.3 * torch.randn(4_000, 10, generator=rng)
    next_obs[:, 3] = obs[:, 3] + action[:, 0]
    next_obs[:, 4] = obs[:, 4] - action[:, 0]
    ended = ((next_obs[:, 3].abs() > 2.6) | (next_obs[:, 4] < -2.6)).float()
    assert 20 < ended.sum() < 160
    data = Transitions(obs, action, torch.zeros(4_000), next_obs, ended)
    _, metrics = fitted(data, dataclasses.replace(SMALL, max_updates=500))
    assert metrics["termination_f1"] > 0.8


def test_an_end_just_beyond_the_edge_is_told_from_a_state_just_within() -> None:
    rng = generator()
    obs, action = torch.randn(6_000, 10, generator=rng), torch.rand(6_000, 1, generator=rng) * 2 - 1
    reached = obs[:, 3] + action[:, 0]
    crowd = torch.rand(6_000, generator=rng) < 0.2  # a policy that leans as far as it may
    reached[crowd] = 1.5 - 0.1 * torch.rand(int(crowd.sum()), generator=rng).square() + 0.01
    next_obs = obs.clone()
    next_obs[:, 3] = reached
    data = Transitions(obs, action, torch.zeros(6_000), next_obs, (reached > 1.5).float())
    train, fresh = data.at(slice(4_000)), data.at(slice(4_000, None))
    model, _ = fitted(train, dataclasses.replace(SMALL, max_updates=500))
    near = fresh.at((fresh.next_obs[:, 3] - 1.5).abs() < 0.01)
    x = model.normalise_input(near.obs, near.action).expand(3, -1, -1)
    with torch.no_grad():
        likely = model.outcome_head(x, near.next_obs.expand(3, -1, -1)).logit.mean(0) > model.log_oversampling
    assert len(near.obs) > 100
    assert (likely == (near.terminated > 0)).float().mean() > 0.85


def test_centred_edges_have_no_mean() -> None:
    data = linear_system(end=0.01)
    model, _ = fitted(data, dataclasses.replace(SMALL, max_updates=1, centred_edges=True))
    train = data.at(~holdout.held_out(data, SMALL.holdout))
    x = model.normalise_input(train.obs, train.action)
    edges = model.outcome_input(x, train.next_obs)[:, -4:]
    torch.testing.assert_close(edges.mean(0), torch.zeros(4), rtol=0.0, atol=1e-4)
    assert (model.beyond_edges(train.next_obs).mean(0) < -1.0).all()


def test_what_was_saved_before_edges_were_centred_says_what_it_said() -> None:
    saved, _ = fitted(linear_system(), dataclasses.replace(SMALL, max_updates=1))
    assert not saved.edge_mean.any()
    model, obs, action = GaussianEnsemble(2, 1, SMALL), torch.randn(5, 2), torch.rand(5, 1)
    model.edge_mean.fill_(3.0)
    model.load_state_dict({name: value for name, value in saved.state_dict().items() if name != "edge_mean"})
    for one, other in zip(model.predict(obs, action), saved.predict(obs, action), strict=True):
        assert torch.equal(one, other)


def test_no_termination_seen_is_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="dyna")
    _, metrics = fitted(linear_system())
    assert metrics["terminals"] == 0 and math.isnan(metrics["termination_f1"])
    assert "no step has terminated yet" in caplog.text


def test_exact_functions_replace_the_heads() -> None:
    def reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        return next_obs[:, 0]

    def ends(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        return next_obs[:, 0] > 1e9

    model, _ = fitted(linear_system(), reward_fn=reward, termination_fn=ends)
    obs, action = torch.randn(30, 2), torch.zeros(30, 1)
    next_obs, got, terminated = model.known(obs, action, model.sample_step(obs, action, rng=generator()))
    assert torch.equal(got, next_obs[:, 0])
    assert not terminated.any()


def test_a_wrong_exact_function_is_refused_with_the_values() -> None:
    with pytest.raises(UserError, match=r"reward_fn disagrees .* \(the first: 1 against -?0\.\d+; actions come in"):
        fitted(linear_system(), reward_fn=lambda obs, action, next_obs: torch.ones(len(obs)))
    with pytest.raises(UserError, match=r"must return a tensor of shape \(1500,\), got \(1500, 1\)"):
        fitted(linear_system(), reward_fn=lambda obs, action, next_obs: obs[:, :1])
    with pytest.raises(UserError, match="termination_fn disagrees"):  # few ends, none of them foretold
        fitted(linear_system(end=0.005), termination_fn=lambda obs, action, next_obs: torch.zeros(len(obs)))


def test_no_row_is_held_out_after_it_was_trained_on() -> None:
    data = linear_system(rows=2_000)
    early = data.at(slice(1_000))
    for share in (0.2, 0.1):
        trained = early.at(~holdout.held_out(early, share)).obs
        after = data.at(holdout.held_out(data, share)).obs
        assert not {tuple(row) for row in trained.tolist()} & {tuple(row) for row in after.tolist()}
        assert 0.7 * share < len(after) / 2_000 < 1.3 * share


def corridor(cells: int, rows: int = 600) -> Transitions:
    """A walk over a few cells, the same transitions again and again; the last cell ends the task and pays."""
    rng = torch.Generator().manual_seed(0)
    cell = torch.randint(cells - 1, (rows, 1), generator=rng)
    step = 2 * torch.randint(2, (rows, 1), generator=rng) - 1
    after = (cell + step).clamp_min(0)
    won = (after == cells - 1).float().squeeze(1)
    return Transitions(cell.float(), step.float(), won, after.float(), won)


@pytest.mark.parametrize("one_hot", [False, True])
@pytest.mark.parametrize("cells", range(4, 10))
def test_of_a_task_of_few_transitions_each_is_learned_from(cells: int, one_hot: bool) -> None:
    data = corridor(cells)
    if one_hot:
        obs, next_obs = (torch.eye(cells)[part[:, 0].long()] for part in (data.obs, data.next_obs))
        data = data._replace(obs=obs, next_obs=next_obs)
    held = holdout.held_out(data, 0.2)
    rows = [tuple(row) for row in torch.cat([data.obs, data.action], 1).tolist()]
    first = [rows.index(kind) for kind in set(rows)]
    assert not held[first].any() and 0.1 < float(held.float().mean()) < 0.25
    if one_hot:
        return
    model, _ = fitted(data)
    prediction = model.predict(torch.tensor([[cells - 2.0]]), torch.ones(1, 1))
    assert (prediction.p_terminated > 0.5).all() and (prediction.mean[..., -1] > 0.5).all()


def test_of_rows_that_come_twice_no_more_are_held_out_than_of_others() -> None:
    twice = Transitions(*(torch.cat([part, part]) for part in linear_system(rows=2_000)))
    held = holdout.held_out(twice, 0.2)
    assert not held[:2_000].any() and 0.08 < float(held.float().mean()) < 0.25


def test_what_moved_in_a_held_out_row_alone_spoils_no_fit() -> None:
    data = linear_system(rows=400, noise=0.0)
    flags = torch.eye(400).unsqueeze(2)  # in each of 400 worlds another row moves
    worlds = (
        data._replace(obs=F.pad(data.obs, (0, 1)), next_obs=torch.cat([data.next_obs, flag], 1)) for flag in flags
    )
    wider = next(world for i, world in enumerate(worlds) if holdout.held_out(world, 0.2)[i])
    model, metrics = fitted(wider)
    mean = model.predict(wider.obs, wider.action).mean.detach()
    error = (mean[..., :2] - data.next_obs).square().mean().sqrt()
    assert float(error) < 0.05 and metrics["holdout_state_error"] < 0.5


@pytest.mark.parametrize("reward", [1e-4, -3.0, 1e5])
def test_a_constant_reward_is_learned_in_its_own_size(reward: float) -> None:
    data = linear_system()._replace(reward=torch.full((1_500,), reward))
    model, _ = fitted(data)
    assert (model.predict(data.obs, data.action).mean[..., -1] / reward - 1).abs().max() < 0.2


def test_refits_start_from_what_was_learned() -> None:
    data = linear_system()
    model, first = fitted(data)
    second = model.fit(data, rng=generator())
    assert model.version == 2
    assert second["holdout_error"] <= first["holdout_error"] * 1.01 + NEGLIGIBLE


def test_added_terminal_rows_teach_nothing_but_termination() -> None:
    data = linear_system(rows=4_000, end=0.01, noise=0.0)
    data.next_obs[data.terminated > 0] += 10.0
    model, _ = fitted(data, dataclasses.replace(SMALL, terminal_share=0.3))
    change = (model.predict(data.obs, data.action).mean.detach()[..., :2] - data.obs).mean()
    assert float(change) < 3 * float((data.next_obs - data.obs).mean())


def test_ends_by_jumps_that_nobody_foretells_are_foretold_from_both_kinds_of_next_states() -> None:
    rng = generator()
    obs, action = torch.rand(4_000, 1, generator=rng) * 2 - 1, torch.zeros(4_000, 1)
    ends = (torch.rand(4_000, generator=rng) < 0.3 * (obs[:, 0] > 0)).float()
    data = Transitions(obs, action, -100 * ends, obs + 5 * ends[:, None], ends)
    wrong = {}
    for states in ("real", "both"):
        model, _ = fitted(data, dataclasses.replace(SMALL, outcome_states=states))
        p_terminated = model.predict(torch.tensor([[0.5], [0.8]]), torch.zeros(2, 1)).p_terminated.detach()
        wrong[states] = float((p_terminated - 0.3).abs().mean())
    assert wrong["both"] < 0.12 < wrong["real"]


def test_what_the_new_dynamics_foretell_of_old_steps_teaches_nothing() -> None:
    rng = generator()
    obs, action, old = torch.randn(3_000, 1, generator=rng), torch.zeros(3_000, 1), torch.arange(3_000) < 1_500
    next_obs = obs + torch.where(old, 1.0, -1.0)[:, None]
    data = Transitions(obs, action, next_obs[:, 0], next_obs, torch.zeros(3_000))
    lessons = torch.ones(3_000, 3)
    lessons[old, 0] = 0.0
    torch.manual_seed(0)
    model = GaussianEnsemble(1, 1, dataclasses.replace(SMALL, outcome_states="both"))
    model.fit(data, rng=generator(), lessons=lessons)
    reward = model.predict(obs[~old], action[~old]).mean.detach()[..., -1]
    assert float((reward - next_obs[~old, 0]).abs().mean()) < 0.1


def test_the_first_ends_are_learned_after_fits_that_saw_none() -> None:
    data = linear_system(rows=1_500)
    ends = data.next_obs[:, 0] > data.next_obs[:, 0].topk(7).values[-1] - 1e-6
    model, _ = fitted(data)
    assert float(model.predict(data.obs, data.action).p_terminated.detach().max()) < 1e-9
    metrics = model.fit(data._replace(terminated=ends.float()), rng=generator())
    p = model.predict(data.obs, data.action).p_terminated.detach().mean(0)
    assert metrics["terminals"] == 7
    assert float(p[ends].mean()) > 0.1 > 10 * float(p[~ends].mean())


def test_fitting_leaves_the_learners_generator_alone() -> None:
    data = linear_system(rows=100)
    model = GaussianEnsemble(2, 1, dataclasses.replace(SMALL, target="auto", max_updates=2))
    before = torch.get_rng_state()
    model.fit(data, rng=generator())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("rows", [2, 3, 20])
def test_a_handful_of_rows_can_be_fitted(rows: int) -> None:
    model, metrics = fitted(linear_system(rows=rows), dataclasses.replace(SMALL, target="auto", max_updates=5))
    assert metrics["rows"] == rows
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


@pytest.mark.parametrize("rows", [1, 3, 5])
def test_rows_are_dealt_to_all_elites_alike(rows: int) -> None:
    model = GaussianEnsemble(1, 1, EnsembleSettings(members=4, elites=4, width=4, depth=1))
    for layer in model.state_network.layers:
        layer.weight.data.zero_()
    last = model.state_network.layers[-1]
    last.bias.data.copy_(torch.tensor([[[0.0, -40.0]], [[1.0, -40.0]], [[2.0, -40.0]], [[3.0, -40.0]]]))
    rng = generator()
    means = [model.sample_step(torch.zeros(rows, 1), torch.zeros(rows, 1), rng=rng).next_obs for _ in range(800)]
    counts = torch.cat(means).round().long().flatten().bincount(minlength=4)
    assert ((counts / counts.sum() - 0.25).abs() < 0.06).all()


def test_windows_never_cross_an_episode_and_find_parallel_environments() -> None:
    data = linear_system(rows=30)
    starts = data.windows(5)
    assert starts.tolist() == [list(range(i, i + 5)) for i in range(26)]
    jump = data._replace(next_obs=data.next_obs.clone())
    jump.next_obs[9] += 1.0
    assert all(not (row[0] <= 9 < row[-1]) for row in jump.windows(5).tolist())
    twins = Transitions(*(torch.stack([part, part + 100], 1).flatten(0, 1) for part in data))
    assert twins.windows(3, 2)[0].tolist() == [0, 2, 4]
    alike = Transitions(*(torch.ones_like(part) for part in data))  # a row follows from any other, but for the ends
    assert alike.windows(2).shape == (0, 2)
    alike = alike._replace(terminated=torch.zeros_like(data.terminated))
    assert (alike.windows(3, 10).diff() == 10).all() and len(alike.windows(3, 10)) == 10
    assert alike.windows(3, 15).shape == (0, 3) and len(alike.windows(1, 60)) == 30


def test_data_that_is_not_finite_is_named() -> None:
    data = linear_system(rows=50)
    data.reward[3] = math.nan
    with pytest.raises(RunFailed, match="reward that is not finite"):
        fitted(data)


def test_a_constant_dimension_is_learned() -> None:
    data = linear_system()
    data.obs[:, 1] = data.next_obs[:, 1] = 7.0
    model, _ = fitted(data)
    assert (model.predict(data.obs, data.action).mean[..., 1] - 7.0).abs().max() < 0.5


@pytest.mark.parametrize(
    "settings",
    [
        {"elites": 9},
        {"target": "speed"},
        {"holdout": 1.0},
        {"terminal_share": -0.1},
        {"beta": 1.5},
        {"outcome_states": "all"},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(UserError, match=str(next(iter(settings.values())))):
        EnsembleSettings(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_step_is_novel_where_none_like_it_was_seen_in_any_units(scale: float) -> None:
    model, _ = fitted(linear_system(noise=0.0, scale=scale))
    near = linear_system(noise=0.0, scale=scale).at(slice(50))
    known = model.novelty(near.obs, near.action)
    assert known.shape == (50,)
    assert float(known.mean()) < 0.1
    assert float(model.novelty(near.obs + 20 * scale, near.action).mean()) > 5 * float(known.mean())


def test_a_reward_that_members_disagree_about_is_novel_unless_it_is_known() -> None:
    data = linear_system(noise=0.0)
    model, _ = fitted(data)
    near = data.at(slice(50))
    before = model.novelty(near.obs, near.action)
    with torch.no_grad():  # each member another constant, so that their rewards alone drift apart
        list(model.outcome_network.layers)[-1].bias[..., 0] += torch.arange(3.0)[:, None]
    spread = float(torch.arange(3.0).std(correction=0) * model.y_std[-1] / data.reward.std(correction=0))
    torch.testing.assert_close(model.novelty(near.obs, near.action), before.new_full((50,), spread), rtol=0.1, atol=0)
    model.reward_fn = lambda obs, action, next_obs: next_obs[:, 0]
    assert float(model.novelty(near.obs, near.action).max()) < 0.5 * spread


def test_numbers_that_never_change_do_not_dilute_novelty() -> None:
    data = linear_system()
    wide = torch.cat([data.obs, torch.full((1_500, 6), 3.0)], 1)
    clock = torch.arange(1_500.0)[:, None]
    still = data._replace(
        obs=torch.cat([wide, clock], 1), next_obs=torch.cat([data.next_obs, wide[:, 2:], clock + 1], 1)
    )
    model, _ = fitted(still, dataclasses.replace(SMALL, max_updates=1))
    with torch.no_grad():  # each member another constant about the two that change
        list(model.state_network.layers)[-1].bias[..., :2] += 100 * torch.arange(3.0)[:, None, None]
    spread = 100 * torch.arange(3.0).std(correction=0) * model.y_std[:2] / model.change_std[:2]
    found = model.novelty(still.obs[:50], still.action[:50])
    torch.testing.assert_close(found, spread.square().mean().sqrt().expand(50), rtol=0.1, atol=0.0)
    constant, _ = fitted(
        Transitions(wide[:, 2:], data.action, data.reward, wide[:, 2:], data.terminated),
        dataclasses.replace(SMALL, max_updates=1),
    )
    constant.reward_fn = lambda obs, action, next_obs: obs[:, 0]
    assert torch.equal(constant.novelty(wide[:, 2:], data.action), torch.zeros(1_500))


def test_nothing_is_novel_to_a_single_member() -> None:
    model = GaussianEnsemble(4, 2, EnsembleSettings(members=1, elites=1, width=8, depth=1))
    assert torch.equal(model.novelty(torch.randn(6, 4), torch.randn(6, 2)), torch.zeros(6))


def test_targets_that_are_not_normalised_are_learned_less_well_where_their_sizes_differ() -> None:
    data = linear_system()
    unlike = data._replace(reward=1e-4 * data.reward)
    errors = {}
    for on in (True, False):
        model, _ = fitted(unlike, dataclasses.replace(SMALL, normalise_targets=on))
        assert torch.equal(model.y_std, torch.ones(3)) != on
        reward = model.predict(unlike.obs, unlike.action).mean[..., -1].mean(0).detach()
        errors[on] = float((reward - unlike.reward).square().mean() / unlike.reward.var())
    assert errors[True] < 0.01 and errors[False] > 10 * errors[True]
