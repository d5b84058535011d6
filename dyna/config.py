"""What a run is made of: flags over YAML over preset over defaults, frozen."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dyna import plain, presets
from dyna.annotations import dataclass_kind, kind_of
from dyna.errors import UserError
from dyna.kinds import Fields


def _flag(default: Any, metavar: str, *short: str, on_resume: bool = False) -> Any:
    """A field with what its flag needs besides the name, the default and the help that it has anyway."""
    metadata = {"metavar": metavar, "short": short, "on_resume": on_resume}
    if isinstance(default, dict):
        return field(default_factory=dict, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class RunConfig:
    """Everything that is needed to run a training again; stored as `config.yaml` in the run folder.

    Raises UserError for a value that no run could use.
    """

    env: str = _flag("Pendulum-v1", "ENV")
    """A Gymnasium id, `module:Id-v0` or `module:ClassName`; the current folder is importable."""
    algo: str = _flag("planfirst", "ALGO")
    """An algorithm's name; `dyna list algorithms` shows them."""
    steps: int = _flag(5_000, "STEPS", "-n", "--n-timesteps", on_resume=True)
    """Environment steps to train for, those before a resumption included."""
    seed: int = _flag(0, "K")
    """Seed of every random generator of the run."""
    hyperparameters: Mapping[str, Any] = _flag({}, "KEY=VALUE", "-p")
    """Constructor arguments of the algorithm that differ from its defaults; dotted keys reach inside one."""
    env_kwargs: Mapping[str, Any] = _flag({}, "KEY=VALUE")
    """Keyword arguments of the environment."""
    n_envs: int = _flag(1, "N")
    """Parallel environments."""
    normalize: bool | Mapping[str, Any] = _flag(False, "BOOL|MAPPING")
    """Wrap the environment in SB3's VecNormalize (RL Zoo's `normalize`); a mapping gives its arguments."""
    eval_every: int = _flag(1_000, "STEPS", on_resume=True)
    """Evaluate every so many steps; 0 never."""
    eval_episodes: int = _flag(10, "N", on_resume=True)
    """Episodes an evaluation."""
    until: float | None = _flag(None, "RETURN", on_resume=True)
    """Stop as soon as an evaluation's mean return reaches this."""
    checkpoint_every: int = _flag(1_000, "STEPS", on_resume=True)
    """Steps between two checkpoints, each made at an episode's end if one comes soon."""
    on_env_error: Literal["stop", "restart"] = _flag("stop", "stop|restart", on_resume=True)
    """Where the environment raises or returns what no learner can use: stop, or drop the episode and restart."""
    device: str = _flag("auto", "DEVICE", on_resume=True)
    """Where networks are computed: auto (a GPU for images, where there is one, else the CPU, which is faster for
    networks so small), cpu or cuda."""
    threads: int = _flag(1, "N", on_resume=True)
    """Threads that torch may use; small networks gain nothing from more, 0 leaves torch's choice."""
    runs: Path = _flag(Path("runs"), "DIR")
    """Where run folders are made."""

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise UserError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.seed > MOST_SEED:
            raise UserError(f"seed must be at most {MOST_SEED}, got {self.seed}")
        if self.until is not None and not self.eval_every:
            raise UserError(f"until is judged by evaluations, got until={self.until} with eval_every=0: set eval_every")
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise UserError(f"device must be auto, cpu or cuda, got {self.device!r}")

    def settings(self) -> dict[str, Any]:
        """The fields as plain data."""
        values = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}

    def to_yaml(self) -> str:
        """The configuration as YAML that `from_yaml` gives back equal and `dyna train --config` runs again."""
        return HEADER + plain.write({**self.settings(), "preset": False})

    @classmethod
    def from_yaml(cls, text: str) -> RunConfig:
        """The configuration that a YAML text holds, defaults where it holds nothing; raises UserError."""
        settings = {key: value for key, value in settings_of(text).items() if key != "preset"}
        config: RunConfig = kinds().make(settings)
        return config


HEADER = "# `dyna train --config` with this file runs it again.\n"

_LEAST = {
    "steps": 1,
    "seed": 0,
    "n_envs": 1,
    "eval_every": 0,
    "eval_episodes": 1,
    "checkpoint_every": 1,
    "threads": 0,
}
MOST_SEED = 2**32 - 1
"""What NumPy's global generator takes, which environments may draw from."""


@functools.cache
def kinds() -> Fields:
    """What each field accepts."""
    return dataclasses.replace(dataclass_kind(RunConfig), see="`dyna train --help`")


def settings_of(text: str) -> dict[str, Any]:
    """The checked settings of a configuration file's text, of which `preset` says whether a preset goes below them."""
    data = plain.read(text)
    if not isinstance(data, Mapping):
        raise UserError(f"a configuration must be a mapping as in `steps: 5000`, got {data!r}")
    known = dataclasses.replace(kinds(), kinds={**kinds().kinds, "preset": kind_of(bool)})
    settings: dict[str, Any] = known.check(data, "")
    return settings


def read(path: Path) -> dict[str, Any]:
    """`settings_of` a file; raises UserError, with the path, where it cannot be read or does not fit."""
    try:
        return settings_of(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the configuration file {str(path)!r} cannot be read: {error}") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def resolve(flags: Mapping[str, Any], file: Mapping[str, Any] | None = None, *, preset: bool = True) -> RunConfig:
    """Flags over the file over the algorithm's preset for the environment over the defaults.

    Hyperparameters and other mappings are laid over each other key by key. A file that says `preset: false` - every
    stored `config.yaml` does, for it holds the preset already - is taken without.
    """
    file = dict(file or {})
    preset &= bool(file.pop("preset", True))
    chosen = plain.merge(file, kinds().check(flags, ""))
    if preset:
        algo, env = (chosen.get(name, getattr(RunConfig, name)) for name in ("algo", "env"))
        chosen = plain.merge(kinds().check(presets.load(algo, env), ""), chosen)
    config: RunConfig = kinds().make(chosen)
    return config


def checked(settings: RunConfig) -> RunConfig:
    """The settings with every name and value judged, before anything is written; raises UserError."""
    from dyna import registry

    settings = kinds().make(kinds().check(settings.settings(), ""))
    registry.check(settings.algo)
    from dyna import envs, hyperparameters  # torch takes seconds to import; a mistyped name is told at once

    envs.check_id(settings.env)
    given = hyperparameters.check(envs.learner(settings), settings.hyperparameters)
    return dataclasses.replace(settings, hyperparameters=given)
