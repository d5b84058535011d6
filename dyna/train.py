"""The whole program: a configuration becomes a run."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv

from dyna import agents, checkpoint, envs, files, logs, runs
from dyna.callbacks import Evaluator, Seam, Stop
from dyna.config import RunConfig, checked
from dyna.errors import Diverged, RunFailed, UserError
from dyna.evaluate import LAST
from dyna.guard import ActionRefused, EnvironmentFailed, Interrupted
from dyna.interrupts import Interrupts
from dyna.progress import meter, say
from dyna.runs import Run


def train(
    config: RunConfig,
    *,
    resume: Path | None = None,
    progress: bool | None = None,
    argv: Sequence[str] | None = None,
) -> Run:
    """Train an agent and return its run: finished, or interrupted by Ctrl-C or SIGTERM.

    With `resume`, or where a run of the same configuration died, the training goes on from the last checkpoint, bit for
    bit as if it had never ended. Raises UserError, for a new run before anything is written, and RunFailed.
    """
    here = Path.cwd()
    config = _below(here, checked(config))
    if config.threads:
        torch.set_num_threads(config.threads)
    set_random_seed(config.seed)  # for environments that draw when they are made
    stored = None if resume is None else runs.open(_reached(here, resume))
    run = stored.continued(config) if stored is not None else _died(config)
    with closing(envs.make_evaluation(config)) as evaluation_env, closing(envs.make(config)) as env:
        model = agents.make(config, env)
        if run is None:
            run = runs.create(_below(here, config), argv, envs.observation_names(env), str(model.device))
        run = dataclasses.replace(run, path=_reached(here, run.path))
        with run.locked(), Interrupts() as interrupts, meter(config.steps, progress) as display:
            saved = _prepared(run)
            if saved and stored is not None:
                _tell_stretched(model, stored.config.steps, config.steps)
            seam = Seam(run, Evaluator(run, evaluation_env), display, interrupts, saved.tree if saved else None)
            seam.init_callback(model)
            seam.saved_at = saved.step if saved else 0
            with _failures_told(run, model, seam), _logged(run, model, env, saved):
                interrupted = _learn(model, seam, config.steps, saved.step if saved else 0)
                _finish(run, model, seam, interrupted=interrupted)
    if interrupted:
        say(f"interrupted at step {model.num_timesteps}, everything is saved: `{run.resume_command}` goes on")
    return run


def _below(here: Path, config: RunConfig) -> RunConfig:
    """The configuration with its runs where they were to be; some simulators go elsewhere when they are made."""
    return dataclasses.replace(config, runs=_reached(here, config.runs))


def _reached(here: Path, path: Path) -> Path:
    """A path that was told in the folder `here`, as it is reached from where the process is now."""
    return path if Path.cwd() == here else here / path


def _died(config: RunConfig) -> Run | None:
    """The run of the same configuration that died; of one that ended with a sentence, the way to go on is told."""
    found = runs.find_unfinished(config)
    if found is not None and found.status != "died":
        ended = "failed" if found.status == "failed" else "was interrupted"
        say(f"a new run starts; one of the same configuration {ended}: `{found.resume_command}` goes on with it")
        return None
    return found


def _prepared(run: Run) -> checkpoint.Loaded | None:
    """The checkpoint to go on from, if any, in a folder without what a dead process left in it; raises UserError."""
    try:
        run.tidy()
        saved = _last_checkpoint(run)
        run.note_code()
        return saved
    except OSError as error:
        raise UserError(f"the run {str(run.path)!r} cannot be written: {error}") from error


def _last_checkpoint(run: Run) -> checkpoint.Loaded | None:
    saved = checkpoint.load(run.checkpoints)
    if saved is None:
        _refuse_to_begin_anew(run)
        return None
    for sentence in saved.damaged:
        say(sentence)
    checkpoint.drop_newer(run.checkpoints, saved.step)
    say(f"going on with {run.path} from step {saved.step}")
    return saved


def _refuse_to_begin_anew(run: Run) -> None:
    """Raise UserError for a run that has been saved, whose logs and best model a new beginning would write over."""
    summary = run.summary()
    if summary.get("saved_at", summary["steps"]):  # where nobody noted it, whatever was made counts
        raise UserError(
            f"the run {str(run.path)!r} has made {summary['steps']} steps and {str(run.checkpoints)!r} holds no "
            "checkpoint to go on from: put it back, or start a new run with "
            f"`dyna train --config {shlex.quote(str(run.path / runs.CONFIG))}`"
        )


def _tell_stretched(model: BaseAlgorithm, before: int, now: int) -> None:
    """Say what the run was not long enough for: values that a run of the full length would have had by now."""
    names = agents.schedules(model)
    if names and now != before:
        say(f"{' and '.join(names)} went by a run of {before:,} steps and now go by one of {now:,}")


@contextlib.contextmanager
def _logged(run: Run, model: BaseAlgorithm, env: VecEnv, saved: checkpoint.Loaded | None) -> Iterator[None]:
    """The run's files as they were when the checkpoint was taken, continued while inside."""
    logs.shorten(run.path, saved.tree["logs"] if saved else {})
    run.write_config()
    run.write_summary(status="running", error=None)
    model.set_logger(logs.logger(run.path, saved.step if saved else None))
    envs.log_episodes(env, run.path, append=saved is not None)
    with closing(model.logger):
        yield


def _learn(model: BaseAlgorithm, seam: Seam, steps: int, start: int) -> bool:
    """Train from a step to another; returns whether an interrupt came between."""
    try:
        if start < steps:
            model.learn(steps, callback=seam)
            if model.use_sde:  # checkpoints hold a rollout's start, where SB3 has just drawn its noise
                model.policy.reset_noise(model.n_envs)  # type: ignore[operator]
        else:  # it ended after its last step, and is put back where `learn` would have been
            model._setup_learn(steps, seam)
            seam.on_training_start({}, {})
            if not seam.restored:
                seam.restore()
    except Stop as stop:
        return stop.interrupted
    finally:
        seam.clock.stop()
    return False


def _finish(run: Run, model: BaseAlgorithm, seam: Seam, *, interrupted: bool) -> None:
    seam.health.check()
    is_due = run.config.eval_every and not interrupted and seam.evaluated_at != model.num_timesteps
    if is_due:
        seam.evaluate()
    if is_due or seam.saved_at != model.num_timesteps:
        seam.save()
    agents.save(model, run.path / LAST)
    seam.summarize(status="interrupted" if interrupted else "finished")
    seam.show()


@contextlib.contextmanager
def _failures_told(run: Run, model: BaseAlgorithm, seam: Seam) -> Iterator[None]:
    """Whatever ends the training is told in summary.json, and by one sentence."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        by_hand = seam.interrupted or not isinstance(error, Interrupted)
        if isinstance(error, KeyboardInterrupt) and by_hand:  # the second, or the first where nobody asks: at once
            run.write_summary(status="interrupted")
            raise
        if files.is_full(error):
            failure = _disk_full(run, model, seam)
        else:
            failure = error if isinstance(error, UserError) else _failed(run, model, seam, error)
        with contextlib.suppress(OSError):
            _summarize(run, seam, failure)
        raise failure from error


def _summarize(run: Run, seam: Seam, failure: Exception) -> None:
    told: dict[str, str] = {"status": "failed", "error": str(failure)}
    try:
        if seam.restored:
            seam.summarize(**told)
            return
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        pass  # a checkpoint that somebody else wrote may have left no numbers to sum up
    run.write_summary(**told)


def _failed(run: Run, model: BaseAlgorithm, seam: Seam, error: BaseException) -> Exception:
    """The sentence for a failed run, whose learning so far is saved."""
    try:
        if not isinstance(error, Diverged):  # an algorithm's own error may be no more than what NaN led to
            seam.health.check_all()
    except Diverged as diverged:
        error = diverged
    what = " ".join(str(error).split())
    what = what if isinstance(error, (RunFailed, Interrupted)) else f"{type(error).__name__}: {what}"
    if seam.restored and not isinstance(error, Diverged):
        with contextlib.suppress(OSError):  # the sentence below says from where it goes on
            agents.save(model, run.path / LAST)
            if isinstance(error, (EnvironmentFailed, Interrupted)) and model.num_timesteps > seam.saved_at:
                seam.save(mid_rollout=not seam.evaluating)
    where = f"at step {_step(model, seam)}" + (", in an evaluation" if seam.evaluating else "")
    return RunFailed(f"the run failed {where}: {what} ({_onward(run, seam, error)}; the run: {run.path})")


def _step(model: BaseAlgorithm, seam: Seam) -> int:
    return model.num_timesteps if seam.restored else seam.saved_at


def _onward(run: Run, seam: Seam, error: BaseException) -> str:
    """What to do after a failure."""
    if isinstance(error, Diverged):  # the same settings and the same generators lead to the same end
        kept = f", the good checkpoint of step {seam.saved_at} is kept" if seam.saved_at else ""
        rate = "world_model.learning_rate" if error.part == "world model" else "learning_rate"
        return f"start a new run with a lower -p {rate}{kept}"
    onward = f"`{run.resume_command}` goes on from step {seam.saved_at}" if seam.saved_at else "mend it and start again"
    drops = run.config.on_env_error == "restart"
    if isinstance(error, EnvironmentFailed) and not isinstance(error, ActionRefused) and not drops:
        onward += ", with --on-env-error restart it drops an episode that fails"
    return onward


def _disk_full(run: Run, model: BaseAlgorithm, seam: Seam) -> Exception:
    kept = f"`{run.resume_command}` goes on from the last checkpoint, of step {seam.saved_at}"
    onward = kept if seam.saved_at else "start again"
    return RunFailed(f"the disk was full at step {_step(model, seam)}: make room, and {onward} (the run: {run.path})")
