"""A learned model of the environment: an ensemble of Gaussian networks with a termination head.

Chua et al. 2018 (PETS), section 4, for the probabilistic ensemble; Janner et al. 2019 (MBPO), appendix, for the
training rule; arXiv 2510.01457 for targets that are normalised dimension by dimension, the reward on its own.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dyna import audit, fitting, limits
from dyna.annotations import kind_of
from dyna.errors import UserError
from dyna.networks import EnsembleMLP, silu
from dyna.types import Outcome, Prediction, Transitions

KnownReward = Callable[[Tensor, Tensor, Tensor], Tensor]
"""An exact reward: obs [B, S], action [B, A] in [-1, 1], next_obs [B, S] -> reward [B]."""
KnownTermination = Callable[[Tensor, Tensor, Tensor], Tensor]
"""An exact termination: obs [B, S], action [B, A] in [-1, 1], next_obs [B, S] -> bool [B]."""

MIN_LOG_VAR, MAX_LOG_VAR = -13.8, 2.0  # of a normalised target: no dimension is claimed to be known better than 1e-3
EDGE = 1e-3  # standard deviations from the edge of the box of living states that the outcome networks tell apart
SPAN = 4.0  # what the logarithm of a distance in units of EDGE is divided by
FAR = 1e6  # where the edges lie before any state was seen
UNTOLD = 1e-6  # of its spread: the unit in which a number is foretold that is left out and stays as it is
OUTCOME_HIDDEN = (128, 128)  # units of the networks for reward and termination


@dataclass(frozen=True)
class EnsembleSettings:
    """Size and training rule of a `GaussianEnsemble`."""

    members: int = 5
    """Networks in the ensemble."""
    elites: int = 4
    """Members with the lowest holdout error of the next state; imagination draws from these."""
    width: int = 160
    """Units of a hidden layer."""
    depth: int = 2
    """Hidden layers."""
    target: str = "auto"
    """What the state head learns: delta; next_obs; or auto, delta unless the open-loop error of next_obs on the newest
    rows is clearly lower, asked again as the data grows."""
    normalise_targets: bool = True
    """Learn each number of the next state, and the reward, in units of its own spread; off, in those it comes in."""
    leave_out: bool = False
    """Leave out the numbers of an observation that rest at one value in many steps and jump unforeseen, such as contact
    forces, where all else is foretold clearly better without them; the agent does not see them either. Asked from 1,000
    rows on, and again as the data grows, unless reward or end are given."""
    centred_edges: bool = False
    """Show reward and termination the distances of a next state from the edges of what was alive without their mean,
    which told both better wherever it was measured; on, Walker2d-v5 walks sooner and HalfCheetah-v5 falls over."""
    outcome_states: str = "real"
    """Next states from which reward and termination are learned: real; or both, a random half as the member itself
    foretells them, for ends by jumps that no mean foretells, such as a crash into hidden ground."""
    bootstrap: bool = True
    """Give each member its own resampled data; off, the members differ by their initial weights alone."""
    learning_rate: float = 5e-3
    """Adam's step size."""
    weight_decay: float = 5e-5
    """Decoupled weight decay."""
    beta: float = 0.0
    """Power of the predicted variance that weighs errors: 0 is likelihood, 1 lets means learn as from squared error."""
    batch_size: int = 128
    """Rows a member sees in one training step."""
    holdout: float = 0.2
    """Share of the data that is held out for early stopping (5,000 rows at most)."""
    patience: int = 5
    """Epochs without improvement after which a fit stops."""
    improvement: float = 0.01
    """Relative fall of a member's holdout error that counts as improvement."""
    max_updates: int = 500
    """Training steps of one fit at most."""
    terminal_share: float = 0.1
    """Share of a training batch that terminal rows are oversampled to; the odds are corrected afterwards."""

    def __post_init__(self) -> None:
        for name, kind in typing.get_type_hints(type(self)).items():
            kind_of(kind).check(getattr(self, name), name)
        for name in ("members", "width", "batch_size", "patience", "max_updates"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("depth", "learning_rate", "weight_decay", "improvement"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"{name} must be finite and not negative, got {getattr(self, name)}")
        if not 1 <= self.elites <= self.members:
            raise UserError(f"elites must be between 1 and members ({self.members}), got {self.elites}")
        limits.word("target", self.target, ("auto", "delta", "next_obs"))
        limits.word("outcome_states", self.outcome_states, ("real", "both"))
        if not 0.0 <= self.beta <= 1.0:
            raise UserError(f"beta must be in [0, 1], got {self.beta}")
        if not 0.0 < self.holdout < 1.0:
            raise UserError(f"holdout must be between 0 and 1, got {self.holdout}")
        if not 0.0 <= self.terminal_share < 1.0:
            raise UserError(f"terminal_share must be in [0, 1), got {self.terminal_share}")


class StateHead(NamedTuple):
    """What the state networks put out, in normalised target units."""

    mean: Tensor  # [E, B, S]
    log_var: Tensor  # [E, B, S]


class OutcomeHead(NamedTuple):
    """What the outcome networks put out."""

    mean: Tensor  # [E, B] reward, normalised
    log_var: Tensor  # [E, B]
    logit: Tensor  # [E, B] of termination, on the oversampled odds of training


class GaussianEnsemble(nn.Module):
    """A probabilistic ensemble with heads for the next state, the reward and termination.

    A member is two networks: obs, action -> next state, and obs, action, next state -> reward, termination. What an
    environment pays for and where it ends is mostly a matter of where a step leads, so the second learns it sharply
    from the real next state (with `outcome_states`, from both), and judges the predicted one.

    Inputs and targets are raw environment units; normalisation is fitted and applied inside. An exact reward or
    termination function may be given: it then replaces the head, and `fit` audits it against the data.
    """

    x_mean: Tensor  # [S+A] of the data
    x_std: Tensor  # [S+A]
    y_mean: Tensor  # [S+1] of the targets
    y_std: Tensor  # [S+1]
    change_std: Tensor  # [S+1] of what a step changes, infinite where that is always the same, and of the reward
    alive_low: Tensor  # [S] of next observations after which the task went on: the edges of the box they were in
    alive_high: Tensor  # [S]
    edge_mean: Tensor  # [2S] of what the outcome networks see of the distances from these edges
    log_oversampling: Tensor  # [] of the odds of termination in the training batches
    elites: Tensor  # [K] members with the lowest held-out error
    delta: Tensor  # [] whether the state target is a change
    fits: Tensor  # []
    rows_at_choice: Tensor  # [] when the last choices were made

    def __init__(
        self,
        obs_size: int,
        action_size: int,
        settings: EnsembleSettings | None = None,
        *,
        reward_fn: KnownReward | None = None,
        termination_fn: KnownTermination | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        self.settings = settings = settings or EnsembleSettings()
        self.obs_size, self.action_size = obs_size, action_size
        self.reward_fn, self.termination_fn = reward_fn, termination_fn
        inputs, members = obs_size + action_size, settings.members
        self.state_network = EnsembleMLP(members, inputs, [settings.width] * settings.depth, 2 * obs_size, silu)
        self.outcome_network = EnsembleMLP(members, inputs + 3 * obs_size, OUTCOME_HIDDEN, 3, silu)
        for name, value in {
            "x_mean": torch.zeros(obs_size + action_size),
            "x_std": torch.ones(obs_size + action_size),
            "y_mean": torch.zeros(obs_size + 1),
            "y_std": torch.ones(obs_size + 1),
            "change_std": torch.ones(obs_size + 1),
            "alive_low": torch.full((obs_size,), -FAR),
            "alive_high": torch.full((obs_size,), FAR),
            "edge_mean": torch.zeros(2 * obs_size),
            "log_oversampling": torch.zeros(()),
            "elites": torch.arange(settings.elites),
            "delta": torch.tensor(settings.target != "next_obs"),
            "fits": torch.zeros((), dtype=torch.int64),
            "rows_at_choice": torch.zeros((), dtype=torch.int64),
        }.items():
            self.register_buffer(name, value)
        self.to(device)

    @property
    def may_leave_out(self) -> bool:
        """Whether numbers may be left out: exact functions see all of them."""
        return self.settings.leave_out and self.reward_fn is None and self.termination_fn is None

    @property
    def seen(self) -> Tensor:
        """Which numbers of an observation are not left out, bool [S]."""
        return self.x_std[: self.obs_size].isfinite()

    def see(self, numbers: Tensor) -> None:
        """See these numbers alone, bool [S]: others are neither looked at nor foretold, and stay as they are."""
        unit, target, mean = (part[: self.obs_size] for part in (self.x_std, self.y_std, self.y_mean))
        out, back = self.seen & ~numbers, numbers & ~self.seen
        mean[out], target[out], unit[out] = 0.0, UNTOLD * unit[out], torch.inf
        target[back] = unit[back] = 1.0

    @property
    def target_kind(self) -> str:
        """What the state head learns: delta or next_obs."""
        return "delta" if self.delta else "next_obs"

    @property
    def learns_foretold(self) -> bool:
        """Whether reward and termination are learned from foretold next states, too."""
        return self.settings.outcome_states == "both"

    @property
    def version(self) -> int:
        """How many times the model was fitted."""
        return int(self.fits)

    def predict(self, obs: Tensor, action: Tensor) -> Prediction:
        """Every member's moments of the next observation and the reward: [B, S], [B, A] -> [E, B, .].

        Reward and termination are those of each member's mean next observation.
        """
        x = self.normalise_input(obs, action)
        return self._prediction(obs, x.expand(self.settings.members, *x.shape), None)

    @torch.no_grad()
    def predict_elites(self, obs: Tensor, action: Tensor) -> Prediction:
        """As `predict`, the elites alone and without gradient: [B, S], [B, A] -> [K, B, .]."""
        x = self.normalise_input(obs, action)
        return self._prediction(obs, x.expand(len(self.elites), *x.shape), self.elites)

    def predict_own(self, obs: Tensor, action: Tensor) -> Prediction:
        """Each member's moments of rows of its own, with gradient: [E, B, S], [E, B, A] -> [E, B, .]."""
        return self._prediction(obs, self.normalise_input(obs, action), None)

    def sample(self, prediction: Prediction, *, rng: torch.Generator) -> Outcome:
        """One step from one random elite a row (TS1: Chua et al. 2018, section 5.1)."""
        rows = torch.arange(prediction.mean.shape[1], device=prediction.mean.device)
        draw = torch.randint(len(self.elites), rows.shape, generator=rng, device=rows.device)
        member = self.elites[draw]
        return self._draw(
            prediction.mean[member, rows], prediction.std[member, rows], prediction.p_terminated[member, rows], rng
        )

    @torch.no_grad()
    def sample_step(self, obs: Tensor, action: Tensor, *, rng: torch.Generator) -> Outcome:
        """As `sample(predict(obs, action))`, but each row is computed by its own elite alone.

        The rows are shuffled and dealt evenly to the elites, so each row's elite is uniform: obs [B, S], action [B, A].
        """
        rows, elites = len(obs), len(self.elites)
        order = torch.randperm(rows + -rows % elites, generator=rng, device=obs.device)
        dealt = (order % max(rows, 1)).view(elites, -1)  # a few rows twice, so that all elites get equally many
        raw = torch.cat([obs, action], dim=-1)[dealt]
        prediction = self._prediction(raw[..., : self.obs_size], (raw - self.x_mean) / self.x_std, self.elites)
        mean, std, p_terminated = (_gathered(part.flatten(0, 1), order)[:rows] for part in prediction)
        return self._draw(mean, std, p_terminated, rng)

    def known(self, obs: Tensor, action: Tensor, outcome: Outcome) -> Outcome:
        """The outcome with the exact reward and termination in place of the learned ones, where they were given."""
        next_obs, reward, terminated = outcome
        if self.reward_fn is not None:
            reward = audit.called("reward_fn", self.reward_fn, obs, action, next_obs)
        if self.termination_fn is not None:
            terminated = audit.called("termination_fn", self.termination_fn, obs, action, next_obs)
        return Outcome(next_obs, reward, terminated)

    def fit(
        self, data: Transitions, *, rng: torch.Generator, lessons: Tensor | None = None, n_envs: int = 1
    ) -> dict[str, float]:
        """Learn from all real transitions, or from those that `lessons` name, warm-started (see `dyna.fitting.fit`)."""
        return fitting.fit(self, data, rng=rng, lessons=lessons, n_envs=n_envs)

    def normalise_input(self, obs: Tensor, action: Tensor) -> Tensor:
        """[B, S], [B, A] in their own units -> [B, S+A] in units of the data's spread."""
        return (torch.cat([obs, action], dim=-1) - self.x_mean) / self.x_std

    def state_head(self, x: Tensor, members: Tensor | None = None) -> StateHead:
        """Normalised input [E, B, S+A] -> the next state, in units of the target."""
        mean, log_var = self.state_network(x, members).chunk(2, dim=-1)
        if not (seen := self.seen).all():  # else of what is left out noise would be learned, at every step
            mean, log_var = mean * seen, log_var * seen
        return StateHead(mean, bounded(log_var))

    def outcome_head(self, x: Tensor, next_obs: Tensor, members: Tensor | None = None) -> OutcomeHead:
        """Normalised input [E, B, S+A] and raw next observation [E, B, S] -> reward and termination."""
        mean, log_var, logit = self.outcome_network(self.outcome_input(x, next_obs), members).unbind(dim=-1)
        return OutcomeHead(mean, bounded(log_var), logit)

    def outcome_input(self, x: Tensor, next_obs: Tensor) -> Tensor:
        """Normalised input [E, B, S+A] and raw next observation [E, B, S] -> what the outcome networks see."""
        arrived = (next_obs - self.x_mean[: self.obs_size]) / self.x_std[: self.obs_size]
        return torch.cat([x, arrived, self.beyond_edges(next_obs) - self.edge_mean], dim=-1)

    def beyond_edges(self, next_obs: Tensor) -> Tensor:
        """How far raw next observations [E, B, S] are beyond the edges of the box of living states: [E, B, 2S].

        Most tasks end where one quantity leaves an interval; a plain network finds such an edge slowly, and a policy
        lives where it was not found. The logarithm tells small distances apart and large ones too; its slope is no
        matter of the task.
        """
        there, edge = next_obs.detach(), EDGE * self.x_std[: self.obs_size]
        beyond = torch.cat([there - self.alive_high, self.alive_low - there], dim=-1) / torch.cat([edge, edge])
        return beyond.asinh() / SPAN

    @torch.no_grad()
    def novelty(self, obs: Tensor, action: Tensor) -> Tensor:
        """How far all members' answers lie apart: [B, S], [B, A] -> [B].

        The root of the variance of the next state, mean over the numbers that are seen and change, in spreads of what
        steps change, and of that of the reward in its own spread, where it is learned; 0 for a single member. Sekar et
        al. 2020 (Plan2Explore, 2005.05960), section 3, has the first.
        """
        x = self.normalise_input(obs, action)
        x = x.expand(self.settings.members, *x.shape)
        state = self.state_head(x).mean
        apart = (state * self.y_std[:-1] / self.change_std[:-1]).var(0, correction=0)
        changing = self.seen & self.change_std[:-1].isfinite()
        apart = apart[..., changing].mean(-1) if changing.any() else apart.new_zeros(apart.shape[:-1])
        if self.reward_fn is None:
            reward = self.outcome_head(x, self.next_obs(obs, state)).mean * (self.y_std[-1] / self.change_std[-1])
            apart = apart + reward.var(0, correction=0)
        return apart.sqrt()

    def next_obs(self, obs: Tensor, state: Tensor) -> Tensor:
        """Raw obs [E, B, S] or [B, S], and what the state head says [E, B, S] -> raw next observation [E, B, S]."""
        next_obs = state * self.y_std[:-1] + self.y_mean[:-1]
        return next_obs + obs if self.delta else torch.where(self.seen, next_obs, obs)

    @torch.no_grad()
    def foretold(self, x: Tensor, state: StateHead) -> Tensor:
        """The mean next observations [E, B, S], raw, that the state head says for normalised input x [E, B, S+A]."""
        size = self.obs_size
        obs = torch.where(self.seen, x[..., :size] * self.x_std[:size], 0.0) + self.x_mean[:size]
        return self.next_obs(obs, state.mean)

    def told(self, outcome: OutcomeHead) -> tuple[Tensor, Tensor]:
        """What the outcome networks say of reward, env units, and the probability of the end, [E, B] each."""
        reward = outcome.mean * self.y_std[-1] + self.y_mean[-1]
        # the training batches held more terminal rows than the data: take the surplus off the odds
        return reward, torch.sigmoid(outcome.logit - self.log_oversampling)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        state_dict.setdefault(f"{prefix}edge_mean", torch.zeros_like(self.edge_mean))  # what was saved once has none
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _prediction(self, obs: Tensor, x: Tensor, members: Tensor | None) -> Prediction:
        """Raw obs [E, B, S] or [B, S] and normalised input x [E, B, S+A] -> moments of each of the members."""
        state = self.state_head(x, members)
        next_obs = self.next_obs(obs, state.mean)
        outcome = self.outcome_head(x, next_obs, members)
        reward, p_terminated = self.told(outcome)
        log_var = torch.cat([state.log_var, outcome.log_var.unsqueeze(-1)], dim=-1)
        return Prediction(
            torch.cat([next_obs, reward.unsqueeze(-1)], dim=-1),
            (0.5 * log_var).exp() * self.y_std,
            p_terminated,
        )

    def _draw(self, mean: Tensor, std: Tensor, p_terminated: Tensor, rng: torch.Generator) -> Outcome:
        step = torch.normal(mean, std, generator=rng)
        ended = torch.rand(p_terminated.shape, generator=rng, device=mean.device) < p_terminated
        return Outcome(step[:, :-1], step[:, -1], ended.float())


def _gathered(dealt: Tensor, order: Tensor) -> Tensor:
    """Row i of the result is the row of `dealt` [B, ...] at which `order`, a permutation [B], holds i."""
    return torch.empty_like(dealt).index_copy_(0, order, dealt)


def bounded(log_var: Tensor) -> Tensor:
    """A log-variance held between the two bounds, softly, so that it never explodes off the data.

    Chua et al. 2018, appendix A.1; the bounds are fixed, learned ones drift from refit to refit.
    """
    log_var = MAX_LOG_VAR - F.softplus(MAX_LOG_VAR - log_var)
    return MIN_LOG_VAR + F.softplus(log_var - MIN_LOG_VAR)
