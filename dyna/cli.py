"""The command line: `dyna train`, `dyna eval`, `dyna compare`, `dyna plot`, `dyna doctor`, `dyna list`.

A user's mistake is one sentence on standard error and exit code 2; a failed run is one sentence and exit code 1; an
interrupted one is exit code 130. `--debug` shows the traceback instead.
"""

from __future__ import annotations

import argparse
import logging
import os
import select
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dyna
from dyna import config, flags, plain, presets, registry
from dyna.config import RunConfig
from dyna.errors import RunFailed, UserError, unknown

if TYPE_CHECKING:
    from dyna.runs import Run

USAGE = """\
usage: dyna COMMAND ...

Model-based reinforcement learning on Stable-Baselines3.

  dyna train --env ENV --algo ALGO -n STEPS    train an agent
  dyna eval RUN                                evaluate a trained agent, watch it or film it
  dyna compare --env ENV ... --algo ALGO ...   train a grid of runs and report on it
  dyna plot RUN ...                            draw the learning curves of runs
  dyna doctor --env ENV                        examine an environment before training in it
  dyna list [algorithms|environments|runs]     what there is

  dyna COMMAND --help                          the flags of a command
  dyna train --algo ALGO --help                and the hyperparameters of an algorithm
  dyna --version
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 for a failed run, 2 for a user's mistake, 130 when interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    try:
        with _noted():
            code = _dispatch([word for word in words if word != "--debug"])
        print(end="", flush=True)  # a pipe that nobody reads shows here
        return code
    except KeyboardInterrupt:
        return _complain("interrupted", 130)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return 1
        if debug:
            raise
        if isinstance(error, (UserError, RunFailed)):
            return _complain(str(error), 2 if isinstance(error, UserError) else 1)
        return _complain(f"{type(error).__name__}: {error} (the same command with --debug shows where)", 1)


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
    elif words[0] == "--version":
        print(f"dyna {dyna.__version__}")
    elif words[0] in COMMANDS:
        return COMMANDS[words[0]](words[1:])
    else:
        raise unknown("command", words[0], COMMANDS, see="`dyna --help`")
    return 0


class _Sentences(logging.Handler):
    """Puts what is logged on standard error, a sentence a line."""

    def emit(self, record: logging.LogRecord) -> None:
        print(record.getMessage(), file=sys.stderr, flush=True)


@contextmanager
def _noted() -> Iterator[None]:
    """Whoever runs a command reads what the toolkit notes meanwhile, such as that a world has changed."""
    log, handler = logging.getLogger("dyna"), _Sentences(logging.INFO)
    before = log.level
    log.addHandler(handler)
    log.setLevel(min(log.level or logging.INFO, logging.INFO))
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before)


def _nobody_reads() -> bool:
    """Whether standard output was closed at its other end, as by `| head`; if so, what is left of it goes nowhere."""
    try:
        looked = select.poll()  # not on Windows
        looked.register(sys.stdout.fileno(), 0)
    except (AttributeError, OSError):
        return False
    gone = any(event & (select.POLLERR | select.POLLHUP) for _, event in looked.poll(0))
    if gone:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
    return gone


def _complain(sentence: str, code: int) -> int:
    print(" ".join(sentence.split()), file=sys.stderr)
    return code


def _train(words: list[str]) -> int:
    parser = flags.command(
        "train", "Train an agent. With --algo ALGO, --help lists the algorithm's hyperparameters too."
    )
    flags.add_flags(parser)
    parser.add_argument("--config", metavar="FILE", type=Path, help="Start from the settings in a run's config.yaml.")
    parser.add_argument("--resume", metavar="RUN", type=Path, help="Go on with a run from its last checkpoint.")
    parser.add_argument(
        "--no-preset",
        action="store_true",
        help="Leave out the preset for this environment, whose settings go before the defaults shown here.",
    )
    parser.add_argument(
        "--progress", action=argparse.BooleanOptionalAction, help="Show progress: live on a terminal, else lines."
    )
    arguments = parser.parse(words)
    given = flags.given(arguments)
    if arguments.help:
        return _train_help(parser, given)
    settings = _resumed(arguments, given) if arguments.resume else _fresh(arguments, given)
    registry.check(settings.algo)  # before torch, which takes seconds to import; the trainer checks the rest
    from dyna import train

    return _report(train.train(settings, resume=arguments.resume, progress=arguments.progress))


def _train_help(parser: flags.Parser, given: dict[str, Any]) -> int:
    parser.print_help()
    if "algo" in given:
        from dyna import tables

        classes = registry.classes(given["algo"])
        preset = presets.load(given["algo"], given["env"]) if "env" in given else {}
        for cls in classes:
            where = f" for {' or '.join(registry.action_spaces(cls))} actions" if len(classes) > 1 else ""
            print(f"\nhyperparameters of {given['algo']}{where}, set with -p KEY=VALUE:")
            tables.knobs(cls, preset.get("hyperparameters", {}))
    return 0


def _fresh(arguments: argparse.Namespace, given: dict[str, Any]) -> RunConfig:
    file = config.read(arguments.config) if arguments.config else None
    return config.resolve(given, file, preset=not arguments.no_preset)


def _resumed(arguments: argparse.Namespace, given: dict[str, Any]) -> RunConfig:
    from dyna import runs

    stored = runs.open(arguments.resume).config
    refused = flags.changes(given, stored) + (["--config"] if arguments.config else [])
    if refused:
        raise UserError(
            f"--resume goes on with the run as it was, so it cannot be combined with {' '.join(refused)}: "
            f"start a new run with `dyna train --config {shlex.quote(str(arguments.resume / 'config.yaml'))}` instead"
        )
    return config.resolve(given, stored.settings(), preset=False)


def _report(run: Run) -> int:
    """Print what was reached, what can be done next and, on the last line, where the run is."""
    from dyna import tables
    from dyna.runs import called

    tables.reached(run)
    path = shlex.quote(str(run.path))
    summary = run.summary()
    interrupted = summary["status"] == "interrupted"
    if "in_words" in summary.get("ledger", {}):
        print(summary["ledger"]["in_words"])
    print("next:")
    print(f"  {run.resume_command if interrupted else run.extend_command}")
    print(f"  {called('dyna')} eval {path} --episodes 10")
    print(f"  {called('tensorboard')} --logdir {path}")
    print(f"run: {run.path}")
    return 130 if interrupted else 0


def _eval(words: list[str]) -> int:
    parser = flags.command("eval", "Evaluate the agent of a run.")
    parser.add_argument("run", metavar="RUN", type=Path, nargs="?", help="The folder of a run.")
    parser.add_argument(
        "--unsafe-load",
        action="store_true",
        help="Take a .zip file that Stable-Baselines3 saved in place of RUN, with --algo and --env, and a VecNormalize "
        "that lies beside it. Loading them can run code that they hold: only for files that you trust.",
    )
    parser.add_argument("--algo", metavar="ALGO", help="With --unsafe-load, the algorithm that saved the file.")
    parser.add_argument("--env", metavar="ENV", help="With --unsafe-load, the environment to play in.")
    pairs: dict[str, Any] = {"metavar": "KEY=VALUE", "nargs": "+", "action": "extend", "default": []}
    parser.add_argument("--env-kwargs", **pairs, help="With --unsafe-load, keyword arguments of the environment.")
    parser.add_argument("--episodes", metavar="N", default="10", help="Episodes to play (default: 10).")
    parser.add_argument("--seed", metavar="K", default=argparse.SUPPRESS, help="Seed of the episodes.")
    parser.add_argument("--which", choices=("best", "last"), default="best", help="Which model (default: best).")
    parser.add_argument(
        "--reward", metavar="FN", help="Another exact reward, module:function, that an agent which plans aims at."
    )
    parser.add_argument("-p", **pairs, help="Hyperparameters to play with.")
    parser.add_argument("--stochastic", action="store_true", help="Sample actions instead of taking the policy's mode.")
    parser.add_argument("--render", action="store_true", help="Show the episodes in a window; mazes in the terminal.")
    parser.add_argument("--video", metavar="FILE", type=Path, help="Film the episodes into this file (.mp4 or .gif).")
    arguments = parser.parse(words)
    if arguments.help:
        parser.print_help()
        return 0
    if arguments.run is None:
        raise UserError("dyna eval needs the folder of a run: `dyna list runs` shows them")
    if arguments.render and arguments.video:
        raise UserError("--render and --video cannot be combined: choose one")
    if arguments.unsafe_load and not (arguments.algo and arguments.env):
        raise UserError("--unsafe-load needs --algo ALGO and --env ENV, for the file does not tell them")
    if arguments.unsafe_load and (arguments.p or arguments.reward):
        raise UserError("-p and --reward are for runs: leave them out with --unsafe-load")
    if not arguments.unsafe_load:
        _refuse_foreign(arguments)
    return _evaluate(arguments)


def _refuse_foreign(arguments: argparse.Namespace) -> None:
    if arguments.algo or arguments.env or arguments.env_kwargs:
        raise UserError("a run knows its algorithm and its environment: leave --algo, --env and --env-kwargs out")
    if arguments.run.is_file():
        raise UserError(
            f"{str(arguments.run)!r} is a file, and loading one of Stable-Baselines3's can run code that it holds: "
            "give the folder of a run, or for a file that you trust add --unsafe-load --algo ALGO --env ENV"
        )


def _evaluate(arguments: argparse.Namespace) -> int:
    least = {"episodes": 1, "seed": 0}
    counts = {name: flags.whole(name, getattr(arguments, name), least[name]) for name in least if name in arguments}
    how = {**counts, "deterministic": not arguments.stochastic, "render": arguments.render, "video": arguments.video}
    if arguments.unsafe_load:
        told = {"algo": arguments.algo, "env": arguments.env, "env_kwargs": plain.assignments(arguments.env_kwargs)}
        settings = config.checked(config.resolve(told, preset=False))
        from dyna import foreign

        result = foreign.evaluate_file(arguments.run, settings, **how)
    else:
        from dyna import evaluate

        changed = plain.assignments(arguments.p) | ({"reward_fn": arguments.reward} if arguments.reward else {})
        result = evaluate.evaluate_run(arguments.run, which=arguments.which, hyperparameters=changed, **how)
    mean, std = _shown(result.return_mean), _shown(result.return_std)
    print(f"return {mean} +- {std}, length {result.length_mean:.1f}")
    if arguments.video:
        print(f"video: {arguments.video}")
    return 0


def _shown(value: float) -> str:
    """With one decimal, or where that says nothing with two digits."""
    return f"{value:.1f}" if abs(value) >= 0.1 or value == 0 else f"{value:.2g}"


def _compare(words: list[str]) -> int:
    from dyna.compare import command

    return command.compare(words)


def _plot(words: list[str]) -> int:
    from dyna.compare import command

    return command.plot(words)


def _doctor(words: list[str]) -> int:
    from dyna.doctor import command

    return command.doctor(words)


def _list(words: list[str]) -> int:
    parser = flags.command("list", "List what there is: algorithms, environments or runs.")
    parser.add_argument("what", metavar="WHAT", nargs="?", default="algorithms", help="By default algorithms.")
    parser.add_argument("--runs", metavar="DIR", type=Path, default=RunConfig.runs, help="Where the runs are.")
    arguments = parser.parse(words)
    if arguments.help:
        parser.print_help()
        return 0
    from dyna import tables

    listings: dict[str, Callable[[], None]] = {
        "algorithms": tables.algorithms,
        "environments": tables.environments,
        "runs": lambda: tables.runs(arguments.runs),
    }
    if arguments.what not in listings:
        raise unknown("list", arguments.what, listings, see="`dyna list --help`")
    listings[arguments.what]()
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": _train,
    "eval": _eval,
    "compare": _compare,
    "plot": _plot,
    "doctor": _doctor,
    "list": _list,
}
