"""Curves that were not run here: published ones as CSV, and the log folders of SB3 and of RL Zoo."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml

from dyna import runs
from dyna.compare.curves import MONITOR, Curve, of_run, read_columns
from dyna.errors import UserError
from dyna.logs import EVALUATIONS

NPZ = "evaluations.npz"
COLUMNS = "algo, env, seed, step, return[, seconds]"


def read(path: Path) -> list[Curve]:
    """Every curve of a CSV file, of a run, or of all runs and logs below a folder, in the order of their names.

    A CSV file has the columns COLUMNS. A folder is a run's, or holds SB3's `evaluations.npz`, or only a `monitor.csv`,
    whose curve is then the mean of the last hundred training episodes. Raises UserError where there is no curve.
    """
    found = _from_csv(path) if path.is_file() else list(_below(path))
    if not found:
        raise UserError(
            f"there are no curves in {str(path)!r}: give a CSV file ({COLUMNS}), a run, or SB3's or RL Zoo's logs"
        )
    return found


def refuse_read(file: Path, paths: Sequence[Path]) -> None:
    """Raise UserError for a file that `read` of one of the paths takes a curve from."""
    if not os.path.isfile(file):
        return
    target = file.resolve()
    for path in (each.resolve() for each in paths):
        if target == path or (path in target.parents and _is_log(target)):
            raise UserError(f"{str(file)!r} is one of the files to be drawn: choose another name")


def _below(folder: Path) -> Iterator[Curve]:
    for inner in sorted({folder, *(file.parent for file in folder.rglob("*") if _is_log(file))}):
        curve = _of_folder(inner)
        if curve is not None:
            yield curve


def _is_log(file: Path) -> bool:
    return file.name in (runs.CONFIG, EVALUATIONS, NPZ) or file.name.endswith(MONITOR)


def _of_folder(folder: Path) -> Curve | None:
    if (folder / runs.SUMMARY).exists():
        curve = of_run(runs.open(folder))
        return curve and replace(curve, source=str(folder))
    if (folder / NPZ).exists():
        return _from_npz(folder / NPZ)
    monitors = sorted(folder.glob(f"*{MONITOR}"))
    return _from_monitors(monitors) if monitors else None


def _from_csv(path: Path) -> list[Curve]:
    kinds: dict[str, Callable[[str], object]] = {
        "algo": str,
        "env": str,
        "seed": _whole,
        "step": float,
        "return": float,
        "seconds": _maybe,
    }
    columns = read_columns(path, kinds, optional=("seed", "seconds"))
    lines = len(columns["step"])
    columns["seed"] = columns["seed"] or [0] * lines
    columns["seconds"] = columns["seconds"] or [float("nan")] * lines
    rows: dict[tuple[str, str, int], list[tuple[float, float, float]]] = {}
    for algo, env, seed, *point in zip(*columns.values(), strict=True):
        rows.setdefault((str(env), str(algo), seed), []).append(tuple(point))
    return [_from_points(path, *who, np.array(sorted(points))) for who, points in rows.items()]


def _from_points(path: Path, env: str, algo: str, seed: int, points: np.ndarray) -> Curve:
    steps, returns, seconds = points.T
    if len(np.unique(steps)) < len(steps):
        raise UserError(f"{path} has two returns for one step of {algo} on {env}, seed {seed}: give seeds of their own")
    if not np.isfinite(points[:, :2]).all():
        raise UserError(f"{path} has a step or a return of {algo} on {env}, seed {seed}, that is no finite number")
    return Curve(env, algo, seed, steps, returns, seconds if np.isfinite(seconds).all() else None, str(path))


def _from_npz(path: Path) -> Curve:
    """What SB3's EvalCallback wrote: `timesteps` [T] and `results` [T, episodes]."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            steps, results = arrays["timesteps"], arrays["results"]
            returns = results.reshape(len(steps), -1).mean(1)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} is no log of SB3's evaluations: {error}") from error
    env, algo, seed = _who(path.parent)
    return Curve(env, algo, seed, steps.astype(float), returns.astype(float), None, str(path.parent))


def _from_monitors(paths: list[Path]) -> Curve | None:
    """The mean of the last hundred training episodes, as SB3 prints it, after each episode.

    With several environments side by side their episodes are put in the order of time.
    """
    episodes = []
    for path in paths:
        columns = read_columns(path, {"r": float, "l": float, "t": float}, skip=1)
        episodes += list(zip(columns["t"], columns["l"], columns["r"], strict=True))
    if not episodes:
        return None
    seconds, lengths, returns = np.array(sorted(episodes), dtype=float).T
    sums = np.cumsum(np.insert(returns, 0, 0.0))
    last = np.arange(1, len(returns) + 1)
    first = np.maximum(last - 100, 0)
    env, algo, seed = _who(paths[0].parent)
    means = (sums[last] - sums[first]) / (last - first)
    return Curve(env, algo, seed, np.cumsum(lengths), means, seconds, str(paths[0].parent))


def _who(folder: Path) -> tuple[str, str, int]:
    """Environment, algorithm and seed: from RL Zoo's args.yml, else from the monitor's head and the folder's name."""
    args = _zoo_arguments(folder)
    numbered = re.fullmatch(r"(.+?)_(?:seed_?)?(\d+)", folder.name)  # sac_seed1, or RL Zoo's <algo>/<env>_<number>/
    name, number = numbered.groups() if numbered else (folder.name, "0")
    env = args.get("env") or _monitored(folder) or (name if re.search(r"-v\d+$", name) else None)
    if env is None:
        raise UserError(
            f"{folder} does not tell the environment of its evaluations: keep its monitor.csv beside them, or call the "
            "folder as RL Zoo does, <algorithm>/<environment>_<seed>"
        )
    algo = args.get("algo") or (folder.parent.name if name == env else name)
    seed = args.get("seed", "")
    return env, algo, int(seed if seed.isdigit() else number)


def _zoo_arguments(folder: Path) -> dict[str, str]:
    """RL Zoo's `args.yml`, a list of pairs under a Python tag; it is read as texts and nothing is constructed."""
    for path in sorted(folder.glob("*/args.yml")):
        try:
            root = yaml.compose(path.read_text(encoding="utf-8"), yaml.SafeLoader)
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UserError(f"{path} cannot be read: {error}") from error
        pairs = root.value[0].value if isinstance(root, yaml.SequenceNode) and root.value else []
        items = [pair.value for pair in pairs if isinstance(pair, yaml.SequenceNode) and len(pair.value) == 2]
        return {key.value: value.value for key, value in items if isinstance(value, yaml.ScalarNode)}
    return {}


def _monitored(folder: Path) -> str | None:
    for path in sorted(folder.glob(f"*{MONITOR}")):
        head = path.read_text(encoding="utf-8").partition("\n")[0]
        try:
            return str(json.loads(head.removeprefix("#"))["env_id"])
        except (ValueError, KeyError, TypeError):
            return None
    return None


def _whole(text: str) -> int:
    return int(float(text))


def _maybe(text: str) -> float:
    return float(text) if text else float("nan")
