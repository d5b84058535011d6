"""What to compare: environments times algorithms times seeds, from flags or from a suite's file."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dyna
from dyna import config, envs, plain, registry
from dyna.annotations import kind_of
from dyna.config import RunConfig
from dyna.errors import UserError
from dyna.kinds import Fields

SUITES = Path("tests", "benchmarks", "suites")
"""Where a checkout of the toolkit keeps its suites; an installed wheel has none."""
OWN = ("env", "algo", "seed", "until", "runs")
"""Settings of a run that a grid sets itself, or that would end curves at different steps."""
SEEDS = 5
EVALUATIONS = 20
"""Evaluations of a run for which no `eval_every` is given."""


@dataclass(frozen=True)
class Cell:
    """One run of the grid, and the name that its curve has."""

    label: str
    config: RunConfig

    def __str__(self) -> str:
        return f"{self.label} on {self.config.env}, seed {self.config.seed}"


@dataclass(frozen=True)
class Grid:
    """Environments times algorithms times seeds, with the settings that they share."""

    env: Sequence[str]
    algo: Sequence[str]
    seeds: int = SEEDS
    """Seeds 0, 1, ... of each algorithm in each environment."""
    threshold: float | None = None
    """A return to be reached; by default the environment's own, if it has one."""
    label: str | None = None
    """The curves' name, for a grid of one algorithm that stands beside another with other settings."""
    preset: bool = True
    """Whether the algorithms' presets lie below the settings."""
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Further fields of RunConfig."""

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise UserError(f"seeds must be at least 1, got {self.seeds}")
        if self.settings.get("eval_every") == 0:
            raise UserError("a comparison lives on evaluations, got eval_every 0: give a number of steps")
        if self.label is not None and len(self.algo) != 1:
            raise UserError(f"label names the curves of one algorithm, got {self.label!r} for {', '.join(self.algo)}")

    def cells(self, runs: Path) -> list[Cell]:
        """The runs, with every name and value judged; raises UserError."""
        found = []
        for env, algo, seed in itertools.product(self.env, self.algo, range(self.seeds)):
            steps = self.settings.get("steps", RunConfig.steps)
            shared = {"steps": steps, "eval_every": max(1, steps // EVALUATIONS), **self.settings}
            given = {**shared, "env": env, "algo": algo, "seed": seed, "runs": str(runs)}
            found.append(Cell(self.label or algo, config.checked(config.resolve(given, preset=self.preset))))
        return found


def cells(grids: Sequence[Grid], runs: Path) -> list[Cell]:
    """The runs of all grids, first seeds first, so that what was stopped early holds something of everything.

    Raises UserError where two runs have one name, or an algorithm cannot act in an environment.
    """
    found = [cell for grid in grids for cell in grid.cells(runs)]
    named: set[tuple[str, str, int]] = set()
    for cell in found:
        name = (cell.config.env, cell.label, cell.config.seed)
        if name in named:
            raise UserError(f"two grids have a run of {cell}: give one of them another label")
        named.add(name)
    _check_actions(found)
    return sorted(found, key=lambda cell: cell.config.seed)


def thresholds(grids: Sequence[Grid], given: Mapping[str, float]) -> dict[str, float]:
    """The return to be reached in each environment that has one: the given, the grid's, or the environment's own."""
    found: dict[str, float] = {}
    for grid in grids:
        for env in grid.env:
            own = envs.reward_threshold(env)
            threshold = given.get(env, given.get("", grid.threshold if grid.threshold is not None else own))
            if threshold is not None:
                found[env] = threshold
    return found


def read_suite(name: str) -> list[Grid]:
    """The grids of a suite, given by its file or by the name of one in SUITES; raises UserError.

    The file is a mapping of settings, with a list `grids` of such mappings laid over it where it needs several.
    """
    path = _suite_path(name)
    try:
        suite = plain.read(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the suite {str(path)!r} cannot be read: {error}") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if not isinstance(suite, Mapping):
        raise UserError(f"{path} must be a mapping as in `env: [Pendulum-v1]`, got {suite!r}")
    shared = {key: value for key, value in suite.items() if key != "grids"}
    blocks = suite.get("grids", [{}])
    if not isinstance(blocks, list) or not all(isinstance(block, Mapping) for block in blocks):
        raise UserError(f"{path}: grids must be a list of mappings, got {blocks!r}")
    try:
        return [grid_of(plain.merge(shared, block)) for block in blocks]
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def grid_of(data: Mapping[str, Any]) -> Grid:
    """The grid that plain data describes; raises UserError."""
    kinds = {name: kind for name, kind in config.kinds().kinds.items() if name not in OWN}
    words = kind_of(str | list[str])
    own = {
        "env": words,
        "algo": words,
        "seeds": kind_of(int),
        "threshold": kind_of(float | None),
        "label": kind_of(str | None),
        "preset": kind_of(bool),
    }
    given = Fields({**kinds, **own}, see="`dyna compare --help`").check(data, "")
    rest: dict[str, Any] = {name: given[name] for name in ("seeds", "threshold", "label", "preset") if name in given}
    settings = {name: value for name, value in given.items() if name not in own}
    return Grid(_listed("env", given.get("env")), _listed("algo", given.get("algo")), **rest, settings=settings)


def restrict(grids: Sequence[Grid], env: Sequence[str], algo: Sequence[str], given: Mapping[str, Any]) -> list[Grid]:
    """A suite's grids with only the environments and algorithms that were asked for, and with other settings.

    An algorithm is asked for by its name or by the label of its curves.
    Raises UserError for one that the suite does not have, or where nothing is left.
    """
    for noun, asked, known in (
        ("environment", env, [name for grid in grids for name in grid.env]),
        ("algorithm or label", algo, [name for grid in grids for name in (*grid.algo, grid.label) if name]),
    ):
        for name in asked:
            if name not in known:
                raise UserError(f"the suite has no {noun} {name!r}: it has {', '.join(dict.fromkeys(known))}")
    own = {name: value for name, value in given.items() if name in ("seeds", "preset")}
    settings = {name: value for name, value in given.items() if name not in own}
    left = []
    for grid in grids:
        envs_left = [name for name in grid.env if not env or name in env]
        algos_left = [name for name in grid.algo if not algo or name in algo or grid.label in algo]
        if envs_left and algos_left:
            settled = plain.merge(grid.settings, settings)
            left.append(dataclasses.replace(grid, env=envs_left, algo=algos_left, settings=settled, **own))
    if not left:
        raise UserError(f"the suite runs none of {', '.join(algo)} on any of {', '.join(env)}")
    return left


def _suite_path(name: str) -> Path:
    if Path(name).suffix in (".yaml", ".yml"):
        return Path(name)
    folder = Path(dyna.__file__).resolve().parents[1] / SUITES
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in known:
        there = f"{SUITES} has {', '.join(known)}" if known else f"suites come with the source code, in {SUITES}"
        raise UserError(f"there is no suite {name!r}: {there}, and --suite FILE.yaml takes one of yours")
    return folder / f"{name}.yaml"


def _listed(name: str, given: Any) -> list[str]:
    words = [given] if isinstance(given, str) else list(given or [])
    if not words:
        raise UserError(f"a comparison needs {name}: give one or more")
    return list(dict.fromkeys(words))


def _check_actions(cells: Sequence[Cell]) -> None:
    seen: dict[str, Any] = {}
    for cell in cells:
        name = cell.config.env + plain.shown(dict(cell.config.env_kwargs))
        if name not in seen:
            seen[name] = envs.action_space(cell.config)
        cls = registry.find(cell.config.algo, seen[name])
        registry.refuse_actions(cell.config.algo, cls, cell.config.env, seen[name])
