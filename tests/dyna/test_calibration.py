"""Prediction sets cover what they say, and each head is surprised by its own errors alone."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dyna.calibration import HEADS, Thresholds, conformal_quantile, disagreement, surprise
from dyna.types import Transitions
from dyna.world_model import EnsembleSettings, GaussianEnsemble


@pytest.fixture(scope="module")
def model() -> GaussianEnsemble:
    """Fitted to `rows`."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        settings = EnsembleSettings(members=3, elites=3, width=32, depth=1, max_updates=300, target="delta")
        made = GaussianEnsemble(2, 1, settings)
    made.fit(rows(2_000), rng=torch.Generator().manual_seed(0))
    return made


def rows(n: int, seed: int = 0) -> Transitions:
    """A noisy push; the reward is the place, and the task ends beyond 2."""
    rng = torch.Generator().manual_seed(seed)
    obs, action = torch.randn(n, 2, generator=rng), torch.rand(n, 1, generator=rng) * 2 - 1
    next_obs = obs + action + 0.1 * torch.randn(n, 2, generator=rng)
    reward = next_obs[:, 0] + 0.1 * torch.randn(n, generator=rng)
    return Transitions(obs, action, reward, next_obs, (next_obs[:, 1] > 2.0).float())


@given(n=st.integers(1, 60), miss=st.integers(1, 99), seed=st.integers(0, 1_000))
def test_the_quantile_is_the_finite_sample_one(n: int, miss: int, seed: int) -> None:
    scores = torch.randn(n, generator=torch.Generator().manual_seed(seed))
    rank = -(-(n + 1) * (100 - miss) // 100)
    expected = math.inf if rank > n else float(scores.sort().values[rank - 1])
    assert float(conformal_quantile(scores, miss / 100)) == expected


@pytest.mark.parametrize("n", [9, 19, 50, 300])
def test_exchangeable_data_is_covered(n: int) -> None:
    rng = torch.Generator().manual_seed(n)
    scores = torch.randn(20_000, n + 1, generator=rng).exp()
    covered = float((scores[:, -1] <= conformal_quantile(scores[:, :-1])).float().mean())
    assert 0.9 - 0.01 < covered < 0.9 + 1 / (n + 1) + 0.01  # Vovk et al.: at least 1 - a, at most 1/(n + 1) more


def test_equal_scores_are_covered_all() -> None:
    scores = torch.zeros(2_000, 20)
    assert not (scores[:, -1] > conformal_quantile(scores[:, :-1])).any()


def test_the_frozen_sets_cover_new_rows(model: GaussianEnsemble) -> None:
    thresholds = Thresholds()
    thresholds.freeze(model, rows(1_000, seed=1), torch.tensor(0.3), torch.tensor(0.1))
    missed = thresholds.missed(surprise(model, rows(4_000, seed=2))).float().mean(1)
    assert (missed[:2] > 0.07).all() and (missed < 0.13).all()
    assert (thresholds.wide >= thresholds.heads).all() and (thresholds.wide > thresholds.heads).any()
    assert float(thresholds.tau) == pytest.approx(0.3)


@pytest.mark.parametrize("head", HEADS)
def test_each_head_is_surprised_by_its_own_errors_alone(model: GaussianEnsemble, head: str) -> None:
    thresholds = Thresholds()
    thresholds.freeze(model, rows(1_000, seed=1), torch.tensor(0.3), torch.tensor(0.1))
    real = rows(500, seed=3)
    if head == "dynamics":  # a push by five deviations of the noise more, paid and ended as ever: any further, and
        next_obs = real.next_obs + 0.5  # the pair of state and next state is as new to the other heads as it is to this
        changed = Transitions(real.obs, real.action, next_obs[:, 0], next_obs, (next_obs[:, 1] > 2.0).float())
    elif head == "reward":
        changed = real._replace(reward=real.reward + 3.0)
    else:
        changed = real._replace(terminated=1 - real.terminated)
    missed = thresholds.missed(surprise(model, changed)).float().mean(1)
    for name, share in zip(HEADS, missed.tolist(), strict=True):
        assert share > 0.8 if name == head else share < 0.5, name


def ends(of: Transitions) -> Transitions:
    return of.at(of.terminated > 0)


def test_ends_are_missed_no_more_often_than_other_rows(model: GaussianEnsemble) -> None:
    thresholds, held, new = Thresholds(), rows(2_000, seed=1), ends(rows(10_000, seed=2))
    thresholds.freeze(model, held, torch.tensor(0.3), torch.tensor(0.1))
    assert len(ends(held).obs) < 0.1 * len(held.obs) and len(new.obs) > 300
    assert float(thresholds.missed(surprise(model, new))[2].float().mean()) < 0.15


@pytest.mark.parametrize(("known", "finite"), [(0, False), (8, False), (9, True)])
def test_too_few_ends_say_nothing_about_what_an_end_may_be_like(
    model: GaussianEnsemble, known: int, finite: bool
) -> None:
    thresholds, held = Thresholds(), rows(1_000, seed=1)
    kept = (held.terminated == 0) | (held.terminated.cumsum(0) <= known)
    thresholds.freeze(model, held.at(kept), torch.tensor(0.3), torch.tensor(0.1))
    assert thresholds.heads.isfinite().tolist() == [True, True, finite]
    assert thresholds.wide.isfinite().tolist() == [True, True, False]


def test_a_reward_that_the_expected_state_explains_is_no_surprise(model: GaussianEnsemble) -> None:
    thresholds = Thresholds()
    thresholds.freeze(model, rows(1_000, seed=1), torch.tensor(0.3), torch.tensor(0.1))
    real = rows(500, seed=3)
    missed = thresholds.missed(surprise(model, real._replace(next_obs=real.next_obs + 3.0))).float().mean(1)
    assert missed[0] > 0.8 and (missed[1:] < 0.5).all()


def test_an_exact_function_is_never_surprised(model: GaussianEnsemble) -> None:
    settings = model.settings
    exact = GaussianEnsemble(
        2, 1, settings, reward_fn=lambda o, a, n: n[:, 0], termination_fn=lambda o, a, n: n[:, 1] > 2
    )
    exact.load_state_dict(model.state_dict())
    scores, ours = surprise(exact, rows(50)), surprise(model, rows(50))
    assert not scores[1:].any() and torch.equal(scores[0], ours[0])


def test_members_disagree_where_there_was_no_data(model: GaussianEnsemble) -> None:
    near = disagreement(model, torch.zeros(1, 2), torch.zeros(1, 1))
    far = disagreement(model, torch.full((1, 2), 20.0), torch.zeros(1, 1))
    assert 0 <= float(near) < 0.5 < float(far) < 1


def test_of_too_few_rows_nothing_is_a_surprise_and_no_state_familiar(model: GaussianEnsemble) -> None:
    thresholds = Thresholds()
    for few in (1, 8):
        thresholds.freeze(model, rows(few, seed=1), torch.tensor(0.3), torch.tensor(0.1))
        assert not thresholds.missed(torch.full((3, 2), 1e9)).any()
        assert float(thresholds.disagreement) == -math.inf


def test_nothing_is_a_surprise_before_the_first_fit_and_no_state_is_familiar() -> None:
    thresholds = Thresholds()
    assert not thresholds.missed(torch.full((3, 2), 1e9)).any()
    assert float(thresholds.disagreement) < 0
