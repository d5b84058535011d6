"""What happens between two rollouts of a training: restore, evaluate, save, stop.

Everything happens at `on_rollout_start`. There SB3 has stored every transition and made every update that belongs to
it, so that a checkpoint is complete, and an evaluation sees the policy of exactly that step.
"""

from __future__ import annotations

import contextlib
import csv
import time
from collections.abc import Iterator
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from torch import Tensor

from dyna import agents, checkpoint, envs, evaluate, generators, logs, resumable, snapshot
from dyna.evaluate import BEST, Evaluation
from dyna.health import Health
from dyna.interrupts import Interrupts
from dyna.machine import peak_memory
from dyna.progress import Meter, Reading, say
from dyna.restarts import Failures, Restarting
from dyna.runs import Run
from dyna.tree import Tree

_EVALUATION_STREAM = 1


class Stop(RuntimeError):  # noqa: N818 - nothing went wrong
    """Ends `learn` between two rollouts."""

    def __init__(self, *, interrupted: bool) -> None:
        super().__init__()
        self.interrupted = interrupted


class Clock:
    """Seconds of training, without the pauses."""

    def __init__(self) -> None:
        self._before = 0.0
        self._since: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return self._before + (time.perf_counter() - self._since if self._since is not None else 0.0)

    def start(self, seconds: float = 0.0) -> None:
        """Run on from a reading."""
        self._before, self._since = seconds, time.perf_counter()

    def stop(self) -> None:
        """Stand still."""
        self._before, self._since = self.seconds, None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stand still while inside."""
        running = self._since is not None
        self.stop()
        try:
            yield
        finally:
            if running:
                self.start(self.seconds)


class Evaluator:
    """Evaluates the policy every so often, and keeps the best."""

    def __init__(self, run: Run, env: VecEnv) -> None:
        self._run, self._env = run, env
        self.last: float | None = None
        self.best: float | None = None
        self.step = 0
        self._best_weights: dict[str, Tensor] | None = None
        self._told = False

    def is_due(self, step: int) -> bool:
        """Whether a multiple of `eval_every` has been passed since the last evaluation."""
        every = self._run.config.eval_every
        return every > 0 and step // every > self.step // every

    def evaluate(self, model: BaseAlgorithm, step: int, seconds: float) -> Evaluation:
        """Evaluate, log, and save the model if it is the best so far; the training's generators are left untouched."""
        config, normalizer = self._run.config, model.get_vec_normalize_env()
        if normalizer is not None and isinstance(self._env, VecNormalize) and normalizer.norm_obs:
            self._env.obs_rms = normalizer.obs_rms
        seed = generators.stream(config.seed, _EVALUATION_STREAM, step)
        with generators.preserved():
            result = evaluate.play(model, self._env, config.eval_episodes, seed=seed)
        if result.advice and not self._told:
            say(result.advice)
            self._told = True
        self._log(result, step, seconds)
        self.step, self.last = step, result.return_mean
        if self.best is None or result.return_mean >= self.best:  # of equals the one that has learnt longer
            self.best = result.return_mean
            self._best_weights = agents.weights(model)
            agents.save(model, self._run.path / BEST)
        return result

    def state(self) -> dict[str, Tree]:
        """What `load_state` needs."""
        return {
            "last": self.last,
            "best": self.best,
            "step": self.step,
            "best_weights": self._best_weights,
            "carried": [resumable.carried(monitor.env) for monitor in envs.monitors(self._env)],
        }

    def load_state(self, state: dict[str, Tree], model: BaseAlgorithm) -> None:
        """Restore what `state` returned, and the best model's files where they hold another model."""
        self.last, self.best, self.step = state["last"], state["best"], state["step"]
        for monitor, carried in zip(envs.monitors(self._env), state["carried"], strict=True):
            resumable.put_carried(monitor.env, carried)
        self._best_weights, path = state.get("best_weights"), self._run.path / BEST
        if self._best_weights is not None and not agents.is_saved(self._best_weights, path):
            now = agents.weights(model)
            agents.put_weights(model, self._best_weights)
            agents.save(model, path)
            agents.put_weights(model, now)

    def _log(self, result: Evaluation, step: int, seconds: float) -> None:
        path = self._run.path / logs.EVALUATIONS
        new = not path.exists()
        with open(path, "a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if new:
                writer.writerow(evaluate.CSV_COLUMNS)
            row = (result.return_mean, result.return_std, result.length_mean, result.episodes)
            writer.writerow((step, round(seconds, 3), *row))


class Seam(BaseCallback):
    """The trainer's callback: what it does, it does between two rollouts."""

    def __init__(
        self, run: Run, evaluator: Evaluator, meter: Meter, interrupts: Interrupts, saved: dict[str, Tree] | None
    ) -> None:
        super().__init__()
        self._run, self._evaluator, self._meter, self._interrupts = run, evaluator, meter, interrupts
        self._saved = saved
        self.saved_at = 0
        self.evaluating = False
        self.clock = Clock()

    @property
    def restored(self) -> bool:
        """Whether the model is what the run has learnt: true but while a resumed one has not been put back yet."""
        return self._saved is None

    @property
    def interrupted(self) -> bool:
        """Whether somebody has asked the run to stop."""
        return self._interrupts.asked

    @property
    def evaluated_at(self) -> int:
        """The step of the last evaluation."""
        return self._evaluator.step

    @property
    def health(self) -> Health:
        """Whether losses and weights are numbers."""
        return self._health

    def evaluate(self) -> None:
        """Evaluate the policy as it is now."""
        step, self.evaluating = self.model.num_timesteps, True
        with self.clock.paused():
            result = self._evaluator.evaluate(self.model, step, self.clock.seconds)
            self.logger.record("eval/mean_reward", result.return_mean)  # the names that SB3's EvalCallback gives them
            self.logger.record("eval/mean_ep_length", result.length_mean)
            self.logger.record("time/total_timesteps", step, exclude="tensorboard")
            self.logger.dump(step)
            self.summarize()
            self.show()
        self.evaluating = False

    def save(self, *, mid_rollout: bool = False) -> None:
        """Write a checkpoint; raises OSError or Diverged, and then leaves the older ones as they were."""
        with self.clock.paused():
            self._health.check_all()
            self._failures.forget()
            state: dict[str, Tree] = {
                "training": snapshot.take(self.model, mid_rollout=mid_rollout),
                "evaluator": self._evaluator.state(),
                "logs": logs.lengths(self._run.path),
                "seconds": self.clock.seconds,
            }
            if self._draws_first:
                state["training"]["generators"]["torch"] = self._torch_before
            checkpoint.save(self._run.checkpoints, self.model.num_timesteps, state)
            self.saved_at = self.model.num_timesteps
            self.summarize()

    def restore(self) -> None:
        """Put the training back to where the checkpoint was taken."""
        assert self._saved is not None
        differences = snapshot.restore(self.model, self._saved["training"]) + self._run.differences()
        self._evaluator.load_state(self._saved["evaluator"], self.model)
        self.saved_at = self.model.num_timesteps
        self.clock.start(float(self._saved["seconds"]))
        self._saved = None
        if differences:
            say(f"the continuation is statistically, not bitwise, the same: {differences[0]}")

    def show(self) -> None:
        """Show how far the training is."""
        step, updates = self.model.num_timesteps, agents.updates(self.model)["critic"]
        holdout_error = agents.world_model_metrics(self.model).get("holdout_error")
        self._meter.update(Reading(step, self.clock.seconds, updates, self._evaluator.last, holdout_error))

    def summarize(self, **values: Any) -> None:
        """Bring summary.json up to date."""
        peaks = (peak_memory(), self._run.summary().get("peak_memory"))  # before a resumption there was another process
        reached = {
            "steps": self.model.num_timesteps,
            "saved_at": self.saved_at,
            "seconds": round(self.clock.seconds, 3),
            "final_return_mean": self._evaluator.last,
            "best_return_mean": self._evaluator.best,
            "peak_memory": max((round(peak, 1) for peak in peaks if peak), default=None),
            "dropped_episodes": self._failures.count,
            "updates": agents.updates(self.model),
            "world_model": agents.world_model_metrics(self.model),
        }
        if ledger := agents.ledger(self.model):
            reached["ledger"] = ledger
        self._run.write_summary(**reached, **values)

    def _init_callback(self) -> None:
        env = self.model.get_env()
        assert env is not None
        self._recorders = envs.recorders(env)
        self._failures = Failures(self.model, envs.layers(env, Restarting))
        self._health = Health(self.model)
        # others may draw before their rollout starts: they are put back, and their generator is read, before that
        self._draws_first = not isinstance(self.model, (OnPolicyAlgorithm, OffPolicyAlgorithm))

    def _on_training_start(self) -> None:
        self.clock.start()
        if self._draws_first:
            if self._saved is not None:
                self.restore()
            self._torch_before = torch.get_rng_state()

    def _on_rollout_end(self) -> None:
        self._failures.forget()
        if self._draws_first:
            self._torch_before = torch.get_rng_state()

    def _on_rollout_start(self) -> None:
        if self._saved is not None:
            self.restore()
        self._health.check()
        step = self.model.num_timesteps
        if self._interrupts.asked:
            raise Stop(interrupted=True)
        if self._evaluator.is_due(step):
            self.evaluate()
            until = self._run.config.until
            if until is not None and self._evaluator.last is not None and self._evaluator.last >= until:
                raise Stop(interrupted=False)
        if self._is_due(step):
            self.save()

    def _is_due(self, step: int) -> bool:
        """Whether to save: at an episode's end, where there is nothing to play back, if one comes soon enough."""
        every, waited = self._run.config.checkpoint_every, step - self.saved_at
        if waited < every:
            return False
        return waited >= 2 * every or all(recorder.steps == 0 for recorder in self._recorders)

    def _on_step(self) -> bool:
        self._failures.note(self.locals)
        if self._meter.is_due:
            self.show()
        return True
