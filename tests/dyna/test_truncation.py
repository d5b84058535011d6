"""Laws of the rules that stop imagination."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dyna.errors import UserError
from dyna.imagination import imagine
from dyna.truncation import M2AC, Frontier, Infoprop, KeepAll, Macura, RejectAll, Step, Truncation, truncation
from dyna.types import Transitions, WorldModel
from dyna.uncertainty import geometric_jensen_shannon
from tests.probes import InOtherUnits, WalkModel

ROWS = 20_000


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def still(obs: Tensor) -> Tensor:
    """The policy that does nothing: [B, S] -> [B, 1]."""
    return obs.new_zeros(len(obs), 1)


def walk(offset: float = 0.1, std: float = 1.0, doubt: Callable[[Tensor], Tensor] | None = None) -> WalkModel:
    """Three members around the truth, one observation."""
    offsets = offset * torch.tensor([[-1.0, 1.0], [0.5, -0.5], [0.5, -0.5]])
    model = WalkModel(offsets, torch.full((3, 2), std))
    if doubt is not None:
        model.doubt = doubt
    return model


def real(obs: Tensor, seed: int = 0) -> Transitions:
    """Transitions of the walk from given observations [B, 1], with noise."""
    noise = torch.randn(len(obs), 2, generator=rng(seed))
    return Transitions(obs, still(obs), noise[:, 1], obs + 1.0 + noise[:, :1], torch.zeros(len(obs)))


def first_step(rule: Truncation, model: WorldModel, obs: Tensor, depth: int = 0, horizon: int = 5) -> Step:
    return rule.step(model, Frontier(obs, still(obs), rule.begin(obs), depth, horizon), rng=rng(1))


def calibrated(rule: Truncation, model: WorldModel, data: Transitions) -> Truncation:
    rule.calibrate(model, data, still, rng=rng(2))
    return rule


# Infoprop


def infoprop_sample(model: WalkModel) -> Tensor:
    """Sampled next observation and reward from observation 0: [ROWS, 2]."""
    start = torch.zeros(ROWS, 1)
    rule = calibrated(Infoprop(), model, real(torch.randn(100, 1, generator=rng())))
    outcome = first_step(rule, model, start).outcome
    return torch.cat([outcome.next_obs, outcome.reward.unsqueeze(1)], 1)


@pytest.mark.parametrize("offset", [0.0, 0.3, 1e3])
def test_infoprop_samples_the_fused_estimate_however_much_the_members_disagree(offset: float) -> None:
    drawn = infoprop_sample(walk(offset=offset, std=0.5))
    error = 4.0 * 0.5 / math.sqrt(ROWS)
    torch.testing.assert_close(drawn.mean(0), torch.tensor([1.0, 0.0]), atol=error, rtol=0)
    torch.testing.assert_close(drawn.var(0), torch.full((2,), 0.25), atol=0.25 * 4 * math.sqrt(2 / ROWS), rtol=0)


def test_trajectory_sampling_is_widened_by_disagreement() -> None:
    start = torch.zeros(ROWS, 1)
    drawn = first_step(KeepAll(), walk(offset=1.0, std=0.5), start).outcome.next_obs
    assert drawn.var().item() == pytest.approx(0.25 + 0.5, rel=0.05)  # offsets -1, 1/2, 1/2: variance 1/2


def doubtful(obs: Tensor) -> Tensor:
    """A doubt that differs from row to row."""
    return 0.1 + obs[:, 0].abs()


def expected_bits(data: Transitions, model: WalkModel) -> np.ndarray:
    """Infoprop's loss on data, written once more in NumPy: [B, 2]."""
    prediction = model.predict(data.obs, data.action)
    mean, var = prediction.mean.double().numpy(), prediction.std.double().numpy() ** 2
    fused_var = 1.0 / (1.0 / var).mean(0)
    fused_mean = fused_var * (mean / var).mean(0)
    gain = fused_var / (fused_var + ((mean - fused_mean) ** 2).mean(0))
    scale = np.concatenate([data.next_obs.numpy(), data.reward.numpy()[:, None]], 1).std(0)
    entropy = 0.5 * np.log2(2 * np.pi * np.e * (1 - gain) * fused_var / scale**2)
    return np.maximum(0.0, entropy - np.log2(1e-6))


def test_infoprop_thresholds_are_quantiles_of_the_loss_on_real_data() -> None:
    data, model = real(torch.randn(500, 1, generator=rng())), walk(doubt=doubtful)
    state = calibrated(Infoprop(step_quantile=0.9, path_quantile=0.2, path_steps=7.0), model, data).state_dict()
    bits = expected_bits(data, model)
    np.testing.assert_allclose(state["step_limit"], np.quantile(bits, 0.9, axis=0), rtol=1e-4)
    np.testing.assert_allclose(state["path_limit"], 7.0 * np.quantile(bits, 0.2, axis=0), rtol=1e-4)


def test_infoprop_stops_where_a_step_loses_more_than_on_real_data_and_drops_that_row() -> None:
    model = walk(std=1e-3, doubt=lambda obs: torch.where(obs[:, 0] < 4.5, 1.0, 100.0))
    rule = calibrated(Infoprop(), model, real(torch.arange(0.0, 4.0, 0.01).unsqueeze(1)))
    rows = imagine(model, still, torch.tensor([[0.0], [3.0], [9.0]]), 20, rule, rng=rng())
    # from 0: steps at 0 1 2 3 4; from 3: at 3 4; from 9: none
    assert rows.depth.bincount().tolist() == [2, 2, 1, 1, 1]
    assert rows.obs.max().item() < 4.5


def limited(step: list[float], path: list[float]) -> Infoprop:
    """Infoprop with given limits in bits, for dimensions of scale 1."""
    rule = Infoprop()
    rule.load_state_dict({"scale": torch.ones(2), "step_limit": torch.tensor(step), "path_limit": torch.tensor(path)})
    return rule


def test_infoprop_stops_when_the_path_has_lost_too_much() -> None:
    model = walk(std=1e-3)
    bits = first_step(limited([1e9, 1e9], [1e9, 1e9]), model, torch.zeros(1, 1)).memory[0].tolist()
    rule = limited([1e9, 1e9], [3.5 * bits[0], 1e9])
    rows = imagine(model, still, torch.zeros(4, 1), 20, rule, rng=rng())
    assert rows.depth.bincount().tolist() == [4, 4, 4]


def test_the_path_limit_is_so_many_steps_of_the_lowest_loss() -> None:
    model, data = walk(), real(torch.zeros(200, 1))
    bits = first_step(limited([1e9, 1e9], [1e9, 1e9]), model, torch.zeros(1, 1)).memory[0]
    scale_bits = calibrated(Infoprop(), model, data).state_dict()["scale"].log2()
    limit = calibrated(Infoprop(path_steps=7.0), model, data).state_dict()["path_limit"]
    torch.testing.assert_close(limit, 7.0 * (bits - scale_bits))


def test_infoprop_reports_the_bits_of_the_step() -> None:
    step = first_step(limited([1e9, 1e9], [1e9, 1e9]), walk(doubt=doubtful), torch.randn(9, 1, generator=rng()))
    torch.testing.assert_close(step.uncertainty, step.memory.sum(1))


def test_infoprop_stops_a_rollout_that_ran_into_nan() -> None:
    model = walk(std=1e-3, doubt=lambda obs: torch.where(obs[:, 0] < 2.5, 1.0, torch.nan))
    rows = imagine(model, still, torch.zeros(1, 1), 20, limited([1e9, 1e9], [1e9, 1e9]), rng=rng())
    assert rows.depth.tolist() == [0, 1, 2]
    assert rows.next_obs.isfinite().all()


def test_one_dimension_that_loses_too_much_is_enough() -> None:
    model = WalkModel(torch.tensor([[0.0, 1.0], [0.0, -1.0]]), torch.ones(2, 2))  # only the reward is in doubt
    assert not first_step(limited([1e9, 1.0], [1e9, 1e9]), model, torch.zeros(3, 1)).keep.any()
    assert first_step(limited([1.0, 1e9], [1e9, 1e9]), model, torch.zeros(3, 1)).keep.all()


# MACURA


def test_macura_threshold_is_the_quantile_at_real_states_averaged_over_calibrations() -> None:
    rule = Macura(zeta=0.8, average_over=2)
    quantiles = []
    for seed, offset in enumerate([5.0, 0.1, 0.2]):
        model, data = walk(offset=offset, doubt=doubtful), real(torch.randn(300, 1, generator=rng(seed)))
        rule.calibrate(model, data, still, rng=rng())
        first = geometric_jensen_shannon(model.predict(data.obs, still(data.obs)))
        quantiles.append(np.quantile(first.numpy(), 0.8))
    np.testing.assert_allclose(rule.state_dict()["quantiles"], quantiles[1:], rtol=1e-5)


def test_macura_stops_at_xi_times_the_threshold_and_drops_that_row() -> None:
    model = walk(doubt=lambda obs: 1.0 + obs[:, 0].clamp_min(0.0))
    rule = calibrated(Macura(xi=6.0), model, real(torch.zeros(100, 1)))
    quantile = rule.state_dict()["quantiles"]
    rule.load_state_dict({"quantiles": torch.cat([0.1 * quantile, 1.9 * quantile])})  # their mean counts
    # equal variances: the divergence grows with the square of the doubt; (1 + 1)^2 < 6 < (1 + 2)^2
    step = first_step(rule, model, torch.tensor([[0.0], [1.0], [2.0]]))
    assert step.keep.tolist() == [True, True, False]
    assert step.go_on.tolist() == [True, True, False]


def test_macura_calibrates_with_the_policys_actions() -> None:
    class LoudModel(WalkModel):
        def predict(self, obs: Tensor, action: Tensor):  # type: ignore[no-untyped-def]
            prediction = super().predict(obs, action)
            return prediction._replace(mean=prediction.mean * (1.0 + action.abs()))

    model = LoudModel(walk().offset, walk().std)
    quiet, loud = Macura(), Macura()
    quiet.calibrate(model, real(torch.zeros(50, 1)), still, rng=rng())
    loud.calibrate(model, real(torch.zeros(50, 1)), lambda obs: torch.ones(len(obs), 1), rng=rng())
    torch.testing.assert_close(loud.state_dict()["quantiles"], 4.0 * quiet.state_dict()["quantiles"])


def test_macura_goes_on_calibrating_on_another_device_than_before(monkeypatch: pytest.MonkeyPatch) -> None:
    rule, model = Macura(), walk(doubt=doubtful)
    rule.calibrate(model, real(torch.zeros(5, 1)), still, rng=rng())
    monkeypatch.setattr("dyna.truncation.geometric_jensen_shannon", lambda _: torch.zeros(5, device="meta"))
    rule.calibrate(model, real(torch.zeros(5, 1)), still, rng=rng())
    assert rule.quantiles is not None and rule.quantiles.shape == (2,) and rule.quantiles.device.type == "meta"


# M2AC


@given(rows=st.integers(0, 50), horizon=st.integers(1, 10), data=st.data())
def test_m2ac_keeps_exactly_its_share_and_ends_no_rollout(rows: int, horizon: int, data: st.DataObject) -> None:
    depth = data.draw(st.integers(0, horizon - 1))
    step = first_step(M2AC(), walk(doubt=doubtful), torch.linspace(-1, 1, rows).unsqueeze(1), depth, horizon)
    assert int(step.keep.sum()) == math.floor(rows * (horizon - depth) / (2 * (horizon + 1)))
    assert step.go_on.all()


def test_m2ac_keeps_the_rows_that_agree_most() -> None:
    step = first_step(M2AC(), walk(doubt=doubtful), torch.arange(10.0).unsqueeze(1), horizon=1)
    assert int(step.keep.sum()) == 2
    assert step.uncertainty[step.keep].max() <= step.uncertainty[~step.keep].min()


# all of them


def every_rule() -> list[Truncation]:
    return [KeepAll(), RejectAll(), Infoprop(), Macura(), M2AC()]


@pytest.mark.parametrize("rule", [Infoprop(step_quantile=0.9), Macura(xi=1.0)], ids=["infoprop", "macura"])
def test_changing_the_units_of_a_dimension_changes_no_decision(rule: Truncation) -> None:
    model, factor = walk(doubt=doubtful), torch.tensor([1e3, 1e-3])
    scaled = InOtherUnits(model, factor)
    data, obs = real(torch.randn(400, 1, generator=rng())), torch.linspace(-3, 3, 50).unsqueeze(1)
    scaled_data = data._replace(obs=data.obs * 1e3, next_obs=data.next_obs * 1e3, reward=data.reward * 1e-3)
    here = first_step(calibrated(rule, model, data), model, obs)
    rule.load_state_dict({})
    there = first_step(calibrated(rule, scaled, scaled_data), scaled, obs * 1e3)
    assert 0 < int(here.keep.sum()) < len(obs)
    assert torch.equal(here.keep, there.keep)
    torch.testing.assert_close(here.uncertainty, there.uncertainty, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(here.outcome.next_obs * 1e3, there.outcome.next_obs, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("rule", [Infoprop(), Macura()], ids=["infoprop", "macura"])
def test_a_rule_without_thresholds_says_what_to_call(rule: Truncation) -> None:
    with pytest.raises(RuntimeError, match="call calibrate"):
        first_step(rule, walk(), torch.zeros(2, 1))


@pytest.mark.parametrize("rule", every_rule(), ids=lambda rule: type(rule).__name__)
def test_thresholds_survive_a_checkpoint(rule: Truncation) -> None:
    model, obs = walk(doubt=doubtful), torch.linspace(-3, 3, 50).unsqueeze(1)
    rule.calibrate(model, real(torch.randn(100, 1, generator=rng())), still, rng=rng())
    restored = type(rule)()
    restored.load_state_dict({name: value.clone() for name, value in rule.state_dict().items()})
    assert torch.equal(first_step(rule, model, obs).keep, first_step(restored, model, obs).keep)


def test_thresholds_are_measured_on_a_sample_of_large_data() -> None:
    data = real(torch.randn(5_000, 1, generator=rng()))
    some, again = Infoprop(calibration_rows=100), Infoprop(calibration_rows=100)
    everything = Infoprop()
    for rule in (some, again, everything):
        rule.calibrate(walk(doubt=doubtful), data, still, rng=rng())
    assert torch.equal(some.state_dict()["step_limit"], again.state_dict()["step_limit"])
    assert not torch.equal(some.state_dict()["step_limit"], everything.state_dict()["step_limit"])


def test_a_constant_dimension_has_no_scale_and_does_no_harm() -> None:
    data = real(torch.zeros(100, 1))
    rule = calibrated(Infoprop(), walk(), data._replace(reward=torch.full((100,), 3.0)))
    assert rule.state_dict()["scale"][1].item() == 1.0
    assert first_step(rule, walk(), torch.zeros(5, 1)).uncertainty.isfinite().all()


# truncation()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("infoprop", Infoprop),
        ("keep_all", KeepAll),
        ("mbpo", KeepAll),
        ("macura", Macura),
        ("m2ac", M2AC),
        ("reject_all", RejectAll),
    ],
)
def test_a_rule_is_made_from_its_name(name: str, kind: type) -> None:
    assert type(truncation(name)) is kind


def test_a_rule_is_made_from_a_mapping_or_is_itself() -> None:
    made = truncation({"name": "macura", "xi": 0.3})
    assert isinstance(made, Macura) and made.xi == 0.3
    assert truncation(made) is made


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("infprop", "'infprop'.*'infoprop'"),
        ({"name": "macura", "zita": 0.9}, "'zita'.*'zeta'"),
        ({"name": "infoprop", "scale": 1.0}, "'scale'"),
        ({"name": "keep_all", "xi": 1.0}, "'xi'"),
        ({"name": "m2ac", "penalty": 1.0}, "'penalty'"),
        ({"xi": 1.0}, "holds its name.*'xi'"),
        (3, "got 3"),
        ({"name": "macura", "zeta": 95}, r"zeta must be in \[0, 1\], got 95"),
        ({"name": "macura", "xi": 0}, "xi must be above 0, got 0"),
        ({"name": "infoprop", "path_steps": -1.0}, "path_steps must be above 0, got -1.0"),
        ({"name": "infoprop", "quantum": "abc"}, "truncate.quantum must be a number, got 'abc'"),
        ({"name": "macura", "average_over": 2.5}, "truncate.average_over must be an integer, got 2.5"),
    ],
)
def test_a_wrong_spec_fails_in_one_sentence(spec: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        truncation(spec)  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", [Infoprop(), Macura()])
def test_a_calibrated_rule_is_pickled_for_any_device(rule: Infoprop | Macura, monkeypatch: pytest.MonkeyPatch) -> None:
    rule.load_state_dict({name: torch.ones(2) for name in ("scale", "step_limit", "path_limit", "quantiles")})
    brought = []
    cpu = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: brought.append(tensor) or cpu(tensor))
    again = pickle.loads(pickle.dumps(rule))
    assert len(brought) == len(rule.state_dict()) > 0
    assert again.state_dict().keys() == rule.state_dict().keys()
