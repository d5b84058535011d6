"""Run folders: claimed, locked, read."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import math
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dyna import checkpoint, files, locks
from dyna.config import RunConfig
from dyna.errors import UserError
from dyna.machine import processor
from dyna.sources import code_version

CONFIG, META, SUMMARY = "config.yaml", "meta.json", "summary.json"
STATUSES = ("running", "finished", "interrupted", "failed")
_PACKAGES = ("dyna", "torch", "stable-baselines3", "sb3-contrib", "gymnasium", "numpy", "mujoco")


@dataclass(frozen=True)
class Run:
    """A run folder and the configuration in it."""

    path: Path
    config: RunConfig

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoint"

    @property
    def resume_command(self) -> str:
        """What goes on with the run, to be pasted into a shell."""
        return f"{called('dyna')} train --resume {shlex.quote(str(self.path))}"

    @property
    def extend_command(self) -> str:
        """What goes on with a finished run for twice its steps, and past a return at which it was to stop."""
        summary, until = self.summary(), self.config.until
        last = summary.get("final_return_mean")
        reached = until is not None and isinstance(last, float) and last >= until
        steps = 2 * max(summary["steps"], self.config.steps)
        return f"{self.resume_command} -n {steps}" + (" --until null" if reached else "")

    def summary(self) -> dict[str, Any]:
        """What the run has reached so far; raises UserError where its file cannot be read."""
        path = self.path / SUMMARY
        try:
            summary = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"the summary of the run {str(self.path)!r} cannot be read: {error}") from error
        steps = summary.get("steps") if isinstance(summary, dict) else None
        if type(steps) is not int or summary.get("status") not in STATUSES:
            raise UserError(f"{path} is no run's summary: it lacks a number of steps, or a status of {STATUSES}")
        found: dict[str, Any] = summary
        return found

    def write_summary(self, **values: Any) -> None:
        """Replace values in the summary, in one step, and drop an error that is None; raises OSError."""
        old = self.summary() if (self.path / SUMMARY).exists() else {}
        new = {key: _json(value) for key, value in {**old, **values}.items() if (key, value) != ("error", None)}
        files.replace(self.path / SUMMARY, json.dumps(new, indent=1) + "\n")

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Keep other processes from writing into the folder; raises UserError where one does. Ends with the process."""
        return locks.locked(self.path, "the run")

    def is_locked(self) -> bool:
        """Whether a process is writing into the folder; nothing is written to find it out."""
        return locks.is_locked(self.path)

    @property
    def status(self) -> str:
        """The summary's status, but `died` where it says running and no process is; raises UserError."""
        status: str = self.summary()["status"]
        return "died" if status == "running" and not self.is_locked() else status

    def meta(self) -> dict[str, Any]:
        """Where and by what the run was made; empty where nobody noted it, or the file cannot be read."""
        try:
            meta = json.loads((self.path / META).read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        return meta if isinstance(meta, dict) else {}

    def note_code(self) -> None:
        """Add to the run's description that other code goes on with it, where that is so; raises OSError."""
        meta, now = self.meta(), code_version(self.config.algo, self.config.env)
        before = str(meta.get("code"))
        if not before.endswith(now):
            meta["code"] = f"{before}, then {now}"
            files.replace(self.path / META, json.dumps(meta, indent=1) + "\n")

    def differences(self) -> list[str]:
        """What computes otherwise than where the run began: packages and threads, which change how sums are rounded."""
        began = self.meta()
        try:
            before = {"Python": began["python"], "threads": began["threads"], **began["versions"]}
        except (KeyError, TypeError):
            return [f"{META} does not tell with which packages the run began"]
        now = {"Python": platform.python_version(), "threads": _threads(self.config), **_versions()}
        return [f"{name} was {before.get(name)} and is {now[name]}" for name in now if now[name] != before.get(name)]

    def tidy(self) -> None:
        """Remove what a process left that died while it replaced a file."""
        for path in self.path.glob(".*.tmp*"):
            path.unlink()

    def continued(self, config: RunConfig) -> Run:
        """The run with a configuration that may ask for more steps; raises UserError where there is nothing left to do.

        Only the fields that `--resume` accepts may differ from the stored configuration.
        """
        for field in dataclasses.fields(RunConfig):
            ours, theirs = getattr(self.config, field.name), getattr(config, field.name)
            if ours != theirs and field.name != "runs" and not field.metadata.get("on_resume"):
                raise UserError(
                    f"the run {str(self.path)!r} has {field.name}={ours!r}, so it cannot go on with {theirs!r}: "
                    "start a new run"
                )
        summary = self.summary()
        if config.steps < min(summary["steps"], self.config.steps) and summary["status"] != "finished":
            raise UserError(
                f"the run {str(self.path)!r} has made {summary['steps']} steps, got -n {config.steps}: ask for more"
            )
        if summary["status"] == "finished" and (config.steps <= summary["steps"] or config == self.config):
            raise UserError(
                f"the run {str(self.path)!r} has finished its {summary['steps']} steps: `{self.extend_command}` goes on"
            )
        return dataclasses.replace(self, config=dataclasses.replace(config, runs=self.config.runs))

    def write_config(self) -> None:
        """Store the configuration; raises OSError."""
        files.replace(self.path / CONFIG, self.config.to_yaml())


def called(program: str) -> str:
    """A program's name, or the path of it beside the one that runs, where the name is not on the PATH."""
    beside = Path(sys.argv[0]).with_name(program)
    if shutil.which(program) or not beside.is_file():
        return program
    return shlex.quote(os.path.relpath(beside))


def create(
    config: RunConfig, argv: Sequence[str] | None = None, observations: Sequence[str] = (), device: str = "cpu"
) -> Run:
    """Claim a new folder below `config.runs`, which no other process can claim, and describe the run in it.

    Of `observations`, what each number of one is called, and of the torch device that networks are computed on
    `meta.json` keeps a note for whoever reads the run.
    """
    parent = _parent(config)
    time = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d_%H-%M-%S")
    for attempt in range(1, 10_000):
        path = parent / (f"{time}_seed{config.seed}" + (f"_{attempt}" if attempt > 1 else ""))
        try:
            path.mkdir(parents=True)
            break
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(f"the run folder {str(path)!r} cannot be made ({error}): choose another --runs") from error
    run = Run(path, config)
    identity = {"algo": config.algo, "env": config.env, "seed": config.seed}
    try:
        files.replace(path / META, json.dumps(_meta(config, argv, observations, device), indent=1) + "\n")
        run.write_summary(**identity, steps=0, seconds=0.0, status="running")
        run.write_config()  # last: a folder without it is no run, wherever the process may have died
    except OSError as error:
        raise UserError(f"nothing can be written into {str(path)!r} ({error}): choose another --runs") from error
    return run


def open(path: Path) -> Run:
    """The run in a folder; raises UserError where there is none."""
    path = Path(path)
    try:
        text = (path / CONFIG).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"there is no run in {str(path)!r}: `dyna list runs` shows all ({error})") from error
    try:
        return Run(path, RunConfig.from_yaml(text))
    except UserError as error:
        raise UserError(f"{path / CONFIG}: {error}") from error


def find_all(root: Path) -> list[Run]:
    """Every run in a folder of runs, or in a part of one, oldest first; without a valid configuration it is none."""
    found = []
    for depth in range(4):  # a run, those of an algorithm, of an environment, all
        for path in root.glob("*/" * depth + CONFIG):
            with contextlib.suppress(UserError):
                found.append(open(path.parent))
    return sorted(found, key=lambda run: run.path.name)


def repetitions(config: RunConfig) -> Iterator[Run]:
    """Every run of a configuration below `config.runs`, newest first, whatever code made it."""
    wanted = config.to_yaml()
    for path in sorted(_parent(config).glob(f"*/{CONFIG}"), reverse=True):
        with contextlib.suppress(UserError):
            if dataclasses.replace(open(path.parent).config, runs=config.runs).to_yaml() == wanted:
                yield Run(path.parent, config)


def find_unfinished(config: RunConfig) -> Run | None:
    """The newest run of the same configuration that left a checkpoint but has not finished, and that nobody writes.

    A run that other code began is not taken: what it has learnt is not what this code would have.
    """
    now = code_version(config.algo, config.env)
    for found in repetitions(config):
        with contextlib.suppress(UserError):
            unfinished = found.status in ("died", "interrupted", "failed") and checkpoint.steps(found.checkpoints)
            if unfinished and found.meta().get("code") == now:
                return found
    return None


def _json(value: Any) -> Any:
    """JSON has no NaN: what could not be measured is null."""
    if isinstance(value, dict):
        return {key: _json(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _parent(config: RunConfig) -> Path:
    return config.runs / file_safe(config.env) / file_safe(config.algo)


def file_safe(name: str) -> str:
    """A name as one that every file system takes."""
    return re.sub(r"[^\w.-]+", "_", name).strip(".") or "_"


def _meta(config: RunConfig, argv: Sequence[str] | None, observations: Sequence[str], device: str) -> dict[str, Any]:
    import torch

    return {
        "argv": list(sys.argv if argv is None else argv),
        "git_commit": _git_commit(),
        "code": code_version(config.algo, config.env),
        "python": platform.python_version(),
        "versions": _versions(),
        "platform": platform.platform(),
        "processor": processor(),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "cores": os.cpu_count(),
        "threads": _threads(config),
        "observations": list(observations),
    }


def _threads(config: RunConfig) -> int:
    import torch

    return config.threads or torch.get_num_threads()


def _versions() -> dict[str, str]:
    return {name: found for name in _PACKAGES if (found := _version(name))}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # not every environment needs every package
        return None


def _git_commit() -> str | None:
    try:
        shown = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):  # no git, or no repository
        return None
    return shown.stdout.strip()
