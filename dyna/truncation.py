"""Where imagination stops: rules that own the step of an imagined rollout.

A rule decides how the next state is drawn from the ensemble, which rows are worth learning from, and which rollouts
go on. Thresholds come from real data, after each fit of the world model, and stay frozen until the next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, NamedTuple, Protocol, get_type_hints, runtime_checkable

import torch
from torch import Tensor

from dyna.annotations import kind_of
from dyna.errors import UserError, unknown
from dyna.types import Act, Outcome, Prediction, Transitions, WorldModel
from dyna.uncertainty import fuse, geometric_jensen_shannon, information_lost, one_vs_rest_kl, spread


class Frontier(NamedTuple):
    """The rollouts that are under way, about to take one step."""

    obs: Tensor  # [B, S] env units
    action: Tensor  # [B, A] in [-1, 1]
    memory: Tensor  # [B, ...] what the rule remembers of each rollout
    depth: int  # 0 for the step from a real observation
    horizon: int  # steps at most


class Step(NamedTuple):
    """One imagined step of every rollout of a frontier."""

    outcome: Outcome  # `imagine` puts the exact reward and termination in, where the user gave them
    uncertainty: Tensor  # [B] in the rule's unit
    keep: Tensor  # [B] bool: the row is worth learning from
    go_on: Tensor  # [B] bool: the rollout continues, unless the task ended
    memory: Tensor  # [B, ...] for the next frontier


@runtime_checkable
class Truncation(Protocol):
    """A rule for `imagine`: `KeepAll`, `Infoprop`, `Macura`, `M2AC`, `RejectAll` or your own."""

    def calibrate(self, model: WorldModel, data: Transitions, act: Act, *, rng: torch.Generator) -> None:
        """Set the thresholds from real transitions; call it after each fit of the model."""
        ...

    def begin(self, start: Tensor) -> Tensor:
        """What the rule remembers of each rollout before its first step: start [B, S] -> [B, ...]."""
        ...

    def step(self, model: WorldModel, at: Frontier, *, rng: torch.Generator) -> Step:
        """Draw the next states and say which rows to keep and which rollouts go on."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Thresholds, for a checkpoint; empty before the first calibration."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        ...


class _Thresholdless:
    """The part of a rule that needs no calibration and remembers nothing."""

    def calibrate(self, model: WorldModel, data: Transitions, act: Act, *, rng: torch.Generator) -> None:
        """Nothing to set."""

    def begin(self, start: Tensor) -> Tensor:
        """[B, 0]."""
        return start.new_empty(len(start), 0)

    def state_dict(self) -> dict[str, Tensor]:
        """Empty."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Nothing to restore."""


@dataclass(frozen=True)
class KeepAll(_Thresholdless):
    """Keep every row up to the horizon: MBPO (Janner et al. 2019). Uncertainty is not measured and stored as 0."""

    def step(self, model: WorldModel, at: Frontier, *, rng: torch.Generator) -> Step:
        """Draw from one elite a row, the cheapest step there is."""
        outcome = model.sample_step(at.obs, at.action, rng=rng)
        yes = torch.ones_like(outcome.reward, dtype=torch.bool)
        return Step(outcome, torch.zeros_like(outcome.reward), yes, yes, at.memory)


@dataclass(frozen=True)
class RejectAll(_Thresholdless):
    """Keep no row and never ask the model: the algorithm then learns from real data alone."""

    def step(self, model: WorldModel, at: Frontier, *, rng: torch.Generator) -> Step:
        """Stay and stop."""
        zero = at.obs.new_zeros(len(at.obs))
        no = torch.zeros_like(zero, dtype=torch.bool)
        return Step(Outcome(at.obs, zero, zero), zero, no, no, at.memory)


class _Portable:
    """The part of a rule that holds thresholds: they are pickled for any device, and follow the rollouts to theirs."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: value.cpu() if isinstance(value, Tensor) else value for name, value in vars(self).items()}


@dataclass(eq=False)
class Infoprop(_Portable):
    """Stop where the ensemble loses too much information about the true step (Frauenknecht et al. 2025).

    The next state is drawn from the fused estimate, so that disagreement does not widen the distribution:
    s' ~ N(mu + K (s~ - mu), (1 - K) Var), s~ from a random member. A step or a path that loses more than real data
    allow, in any dimension of next observation and reward, ends the rollout, and that row is dropped. Uncertainty is
    the step's loss in bits, summed over dimensions.
    """

    least_members: ClassVar[int] = 2

    step_quantile: float = 0.9999
    """A step may lose at most this quantile of what the model loses on a real step."""
    path_quantile: float = 0.01
    """A rollout may lose at most `path_steps` times this quantile of what the model loses on a real step."""
    path_steps: float = 100.0
    """How many steps of the lowest loss a rollout may cost."""
    quantum: float = 1e-6
    """Bin width of the entropy, in standard deviations of the real data (in the paper: in env units)."""
    calibration_rows: int = 10_000
    """Real transitions that the thresholds are measured on, at most."""
    scale: Tensor | None = field(default=None, init=False)  # [S+1] standard deviation in the real data
    step_limit: Tensor | None = field(default=None, init=False)  # [S+1] bits
    path_limit: Tensor | None = field(default=None, init=False)  # [S+1] bits

    def __post_init__(self) -> None:
        _check_shares(step_quantile=self.step_quantile, path_quantile=self.path_quantile)
        _check_positive(path_steps=self.path_steps, quantum=self.quantum, calibration_rows=self.calibration_rows)

    @torch.no_grad()
    def calibrate(self, model: WorldModel, data: Transitions, act: Act, *, rng: torch.Generator) -> None:
        """Measure what the model loses on real transitions, with the actions that were taken."""
        data = _subsample(data, self.calibration_rows, rng)
        self.scale = spread(torch.cat([data.next_obs, data.reward.unsqueeze(1)], 1))
        lost = information_lost(fuse(model.predict_elites(data.obs, data.action)), self.scale, self.quantum)
        self.step_limit = torch.quantile(lost, self.step_quantile, dim=0)
        self.path_limit = self.path_steps * torch.quantile(lost, self.path_quantile, dim=0)

    def begin(self, start: Tensor) -> Tensor:
        """Bits lost so far, none: [B, S+1]."""
        _follow(self, start)
        return start.new_zeros(len(start), start.shape[1] + 1)

    def step(self, model: WorldModel, at: Frontier, *, rng: torch.Generator) -> Step:
        """Draw from the fused estimate; raises RuntimeError before the first `calibrate`."""
        if self.scale is None or self.step_limit is None or self.path_limit is None:
            raise _uncalibrated("infoprop")
        prediction = model.predict_elites(at.obs, at.action)
        fused = fuse(prediction)
        drawn, p_terminated, _ = _draw(prediction, rng)
        noise = torch.randn(drawn.shape, generator=rng, device=drawn.device, dtype=drawn.dtype)
        target = fused.mean + fused.gain * (drawn - fused.mean) + fused.lost_var.sqrt() * noise
        outcome = _outcome(target, p_terminated, rng)
        lost = information_lost(fused, self.scale, self.quantum)
        path = at.memory + lost
        # "at most" and not "unless above": a rollout that ran into NaN stops
        keep = ((lost <= self.step_limit) & (path <= self.path_limit)).all(1)
        return Step(outcome, lost.sum(1), keep, keep, path)

    def state_dict(self) -> dict[str, Tensor]:
        """Scale and limits, [S+1] each."""
        if self.scale is None or self.step_limit is None or self.path_limit is None:
            return {}
        return {"scale": self.scale, "step_limit": self.step_limit, "path_limit": self.path_limit}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self.scale, self.step_limit, self.path_limit = map(state.get, ("scale", "step_limit", "path_limit"))


@dataclass(eq=False)
class Macura(_Portable, _Thresholdless):
    """Stop where the members disagree more than at real states (Frauenknecht et al. 2024).

    Uncertainty is the mean pairwise geometric Jensen-Shannon divergence, in nats. A row whose uncertainty reaches xi
    times the zeta-quantile of it at real states, with the policy's actions, ends its rollout and is dropped.
    """

    least_members: ClassVar[int] = 2

    xi: float = 2.0
    """Factor on the quantile; the paper takes 0.3 (Walker2d) to 30 (Hopper)."""
    zeta: float = 0.95
    """Quantile of the uncertainty at real states."""
    average_over: int = 2_000
    """The quantile is averaged over so many of the latest calibrations."""
    calibration_rows: int = 10_000
    """Real states that the threshold is measured on, at most."""
    quantiles: Tensor | None = field(default=None, init=False)  # [calibrations] nats, oldest first

    def __post_init__(self) -> None:
        _check_shares(zeta=self.zeta)
        _check_positive(xi=self.xi, average_over=self.average_over, calibration_rows=self.calibration_rows)

    @torch.no_grad()
    def calibrate(self, model: WorldModel, data: Transitions, act: Act, *, rng: torch.Generator) -> None:
        """Measure the uncertainty of the first imagined step from real states."""
        obs = _subsample(data, self.calibration_rows, rng).obs
        first = geometric_jensen_shannon(model.predict_elites(obs, act(obs)))
        quantile = torch.quantile(first, self.zeta).unsqueeze(0)
        past = quantile[:0] if self.quantiles is None else self.quantiles.to(quantile)
        self.quantiles = torch.cat([past, quantile])[-self.average_over :]

    def begin(self, start: Tensor) -> Tensor:
        """[B, 0]."""
        _follow(self, start)
        return super().begin(start)

    def step(self, model: WorldModel, at: Frontier, *, rng: torch.Generator) -> Step:
        """Draw from one member a row; raises RuntimeError before the first `calibrate`."""
        if self.quantiles is None:
            raise _uncalibrated("macura")
        prediction = model.predict_elites(at.obs, at.action)
        uncertainty = geometric_jensen_shannon(prediction)
        keep = uncertainty < self.xi * self.quantiles.mean()
        drawn, p_terminated, _ = _draw(prediction, rng)
        return Step(_outcome(drawn, p_terminated, rng), uncertainty, keep, keep, at.memory)

    def state_dict(self) -> dict[str, Tensor]:
        """The quantiles of past calibrations."""
        return {} if self.quantiles is None else {"quantiles": self.quantiles}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self.quantiles = state.get("quantiles")


@dataclass(frozen=True)
class M2AC(_Thresholdless):
    """Mask the rows whose drawn member is farthest from the rest (Pan et al. 2020).

    At depth h of H, counted from 0, the (H - h) / (2 (H + 1)) of the rows with the lowest one-vs-rest divergence, in
    nats, are kept: a row's fate depends on its batch. A masked rollout goes on and may be kept later (the paper's
    non-stop mode). The paper's charge of 0.001 reward a nat is left out: rows hold the reward that the model predicts.
    """

    least_members: ClassVar[int] = 2

    def step(self, model: WorldModel, at: Frontier, *, rng: torch.Generator) -> Step:
        """Draw a member a row and rank the rows by its divergence."""
        prediction = model.predict_elites(at.obs, at.action)
        drawn, p_terminated, member = _draw(prediction, rng)
        divergence = one_vs_rest_kl(prediction, member)
        kept = len(at.obs) * (at.horizon - at.depth) // (2 * (at.horizon + 1))
        keep = torch.zeros_like(divergence, dtype=torch.bool)
        keep[divergence.argsort()[:kept]] = True
        return Step(_outcome(drawn, p_terminated, rng), divergence, keep, torch.ones_like(keep), at.memory)


RULES: dict[str, type[Infoprop | KeepAll | M2AC | Macura | RejectAll]] = {
    "infoprop": Infoprop,
    "keep_all": KeepAll,
    "m2ac": M2AC,
    "macura": Macura,
    "mbpo": KeepAll,
    "reject_all": RejectAll,
}


def truncation(spec: str | Mapping[str, Any] | Truncation) -> Truncation:
    """A rule from its name, from {"name": ..., option: value, ...}, or the rule itself.

    Raises UserError for a name or an option that does not exist, naming the nearest, and for a value of another kind.
    """
    if isinstance(spec, str):
        spec = {"name": spec}
    if isinstance(spec, Truncation):
        return spec
    if not isinstance(spec, Mapping) or "name" not in spec:
        raise UserError(f"truncate must be a rule's name, a mapping that holds its name, or a rule, got {spec!r}")
    options = {str(key): value for key, value in spec.items()}
    name = str(options.pop("name"))
    if name not in RULES:
        raise unknown("truncation rule", name, RULES, see="help(dyna.truncation)")
    rule = RULES[name]
    known = [option.name for option in fields(rule) if option.init]
    hints = get_type_hints(rule)
    for option, value in options.items():
        if option not in known:
            raise unknown(f"option of {name}", option, known, see=f"help(dyna.truncation.{rule.__name__})")
        options[option] = kind_of(hints[option]).check(value, f"truncate.{option}")
    made: Truncation = rule(**options)
    return made


def _check_shares(**shares: float) -> None:
    for name, share in shares.items():
        if not 0.0 <= share <= 1.0:
            raise UserError(f"{name} must be in [0, 1], got {share}")


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise UserError(f"{name} must be above 0, got {value}")


def _uncalibrated(name: str) -> RuntimeError:
    return RuntimeError(f"{name} has no thresholds yet: call calibrate(model, data, act, rng=rng) after each fit")


def _follow(rule: Truncation, start: Tensor) -> None:
    """Bring the thresholds to where the rollouts are: a checkpoint may have left them on another device."""
    rule.load_state_dict({name: value.to(start.device) for name, value in rule.state_dict().items()})


def _subsample(data: Transitions, rows: int, rng: torch.Generator) -> Transitions:
    """At most `rows` rows, none of them twice."""
    if len(data.obs) <= rows:
        return data
    chosen = torch.randperm(len(data.obs), generator=rng, device=data.obs.device)[:rows]
    return data.at(chosen)


def _draw(prediction: Prediction, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Sample each row from one random member: the sample [B, S+1], its p_terminated [B], the member [B]."""
    members, rows, _ = prediction.mean.shape
    device = prediction.mean.device
    member = torch.randint(members, (rows,), generator=rng, device=device)
    row = torch.arange(rows, device=device)
    drawn = torch.normal(prediction.mean[member, row], prediction.std[member, row], generator=rng)
    return drawn, prediction.p_terminated[member, row], member


def _outcome(target: Tensor, p_terminated: Tensor, rng: torch.Generator) -> Outcome:
    """Split a sampled target [B, S+1] and toss the coin of termination."""
    coin = torch.rand(p_terminated.shape, generator=rng, device=p_terminated.device)
    return Outcome(target[:, :-1], target[:, -1], (coin < p_terminated).to(target.dtype))
