"""What a step of training costs with each algorithm: measured by training for a moment."""

from __future__ import annotations

import contextlib
import dataclasses
import time
import warnings
from collections.abc import Callable
from contextlib import closing
from typing import Any, NamedTuple

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from dyna import agents, envs, hyperparameters
from dyna.base import DynaMixin
from dyna.config import RunConfig
from dyna.doctor.findings import Finding
from dyna.errors import RunFailed, UserError
from dyna.guard import ENDS

STARTS = 100  # random steps, at most, before an off-policy algorithm learns
ROLLOUT = 256  # steps that an on-policy one learns from at once, at most: a step costs the same in longer ones
SECONDS = 1.0  # of learning that are timed
PATIENCE = 10.0  # seconds in which learning must have begun, and in which a round must be collected


class Cost(NamedTuple):
    """One algorithm."""

    settings: RunConfig  # with its preset
    milliseconds: float | None  # an environment step, simulation and learning together; None where nothing was measured
    why_not: str = ""


def measure(settings: RunConfig) -> Cost:
    """Train for a moment after the random steps, in the settings given but for a short start and a small buffer."""
    try:
        short = dataclasses.replace(settings, hyperparameters=_short(settings))
        with closing(envs.make(short)) as env, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice about settings that nobody chose
            return Cost(settings, _milliseconds(agents.make(short, env)))
    except (UserError, RunFailed) as error:
        return Cost(settings, None, str(error))
    except ENDS as error:  # of the environment or the algorithm: a table must not end in a traceback
        return Cost(settings, None, f"{type(error).__name__}: {error}")


def judge(costs: list[Cost]) -> Finding:
    """The milliseconds of each algorithm."""
    told = [f"{each.settings.algo} {each.milliseconds:.3g}" for each in costs if each.milliseconds is not None]
    why_not = "; ".join(f"{each.settings.algo}: {each.why_not}" for each in costs if each.milliseconds is None)
    if not told:
        seen = f"no algorithm could be trained: {why_not or 'none takes these actions'}"
        return Finding("training step", "error", seen, "`dyna list algorithms`")
    seen = f"milliseconds an environment step, simulation and learning: {', '.join(told)}"
    return Finding("training step", "ok", seen + (f"; could not be timed: {why_not}" if why_not else ""))


def _short(run: RunConfig) -> dict[str, Any]:
    """The hyperparameters with a start that comes soon."""
    cls, settings = envs.learner(run), dict(run.hyperparameters)
    now = {knob.name: knob.default for knob in hyperparameters.knobs(cls)} | settings
    if "learning_starts" in now:
        given = now["learning_starts"]
        settings["learning_starts"] = STARTS if given is None else min(given, STARTS)
        settings["buffer_size"] = min(now["buffer_size"], 10_000)
    if "model_growth" in now:
        settings["model_growth"] = 0.0  # the first fits come quicker than those of most of a run
    if "n_steps" in now and issubclass(cls, OnPolicyAlgorithm):
        settings["n_steps"] = min(now["n_steps"], max(ROLLOUT, now.get("batch_size") or 0))
    return settings


def _milliseconds(model: BaseAlgorithm) -> float:
    model.set_logger(Logger(None, []))
    watch = _Watch(getattr(model, "learning_starts", 0))
    fits = _Fits(model, watch) if isinstance(model, DynaMixin) else None
    with contextlib.suppress(_Enough):  # not every algorithm stops where a callback asks for it
        model.learn(10**9, callback=watch)
    if not watch.steps:
        raise RunFailed(f"its first steps took more than {PATIENCE:.0f} seconds")
    return 1e3 * (watch.seconds / watch.steps + (fits.per_step if fits else 0.0))


class _Enough(Exception):  # noqa: N818 - no error
    """Ends a training."""


class _Watch(BaseCallback):
    """Times whole rounds of collecting and learning, but for the first that learns, which prepares what others use."""

    def __init__(self, starts: int) -> None:
        super().__init__()
        self._starts, self._deadline = starts, time.perf_counter() + PATIENCE
        self.rounds = -1  # that learned and are over
        self.seconds, self.steps = 0.0, 0
        self.longest = 10**9  # steps to measure

    def _on_rollout_start(self) -> None:
        now = time.perf_counter()
        if self.num_timesteps >= self._starts:
            self._deadline = now + PATIENCE
            self.rounds += 1
            if self.rounds == 1:
                self._from = now, self.num_timesteps
            elif self.rounds > 1:
                self.seconds, self.steps = now - self._from[0], self.num_timesteps - self._from[1]

    def _on_step(self) -> bool:
        enough = self.steps and (self.seconds > SECONDS or self.steps >= self.longest)
        if enough or time.perf_counter() > self._deadline:
            raise _Enough
        return True


class _Fits:
    """Times the first fit of a world model, and what is imagined right after it where nothing is imagined later."""

    def __init__(self, model: DynaMixin, watch: _Watch) -> None:
        self._watch = watch
        self._fit = self._dream = 0.0
        self._is_due, self._interval = model.is_fit_due, model.fit_interval
        model.is_fit_due = self._note  # type: ignore[method-assign]
        model.fit_world_model = self._timed(model.fit_world_model, "_fit")  # type: ignore[method-assign]
        model.dream = self._timed(model.dream, "_dream")  # type: ignore[method-assign]

    @property
    def per_step(self) -> float:
        """Seconds an environment step, if the fit and its dreams are spread over the steps until the next."""
        return (self._fit + self._dream) / self._every

    def _note(self) -> bool:
        self._every = self._interval()
        self._watch.longest = self._every - 2  # the next fit is not timed
        return self._is_due()

    def _timed(self, method: Callable[..., None], name: str) -> Callable[..., None]:
        def timed(*args: Any, **kwargs: Any) -> None:
            began = time.perf_counter()
            method(*args, **kwargs)
            spent = time.perf_counter() - began
            # dreams between fits are timed with the rounds that they lie in
            setattr(self, name, getattr(self, name) + spent if self._watch.rounds < 1 else 0.0)

        return timed
