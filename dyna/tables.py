"""Tables for people: algorithms, environments, runs, hyperparameters, and what a run has reached."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dyna import docstrings, plain, registry
from dyna.errors import UserError

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

    from dyna.runs import Run

WIDTH = 120
"""Columns where the output goes to a file or a pipe, which has no width of its own."""


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows below their headings; only the last column wraps."""
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        last = column == columns[-1]
        grid.add_column(column, no_wrap=not last, overflow="fold", min_width=20 if last else None)
    for row in rows:
        grid.add_row(*map(Text, row))
    Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False).print(grid)


def algorithms() -> None:
    """Every registered algorithm: family, action spaces and a line about it."""
    table(("name", "family", "actions", "what it is"), map(_algorithm, registry.names()))


def _algorithm(name: str) -> tuple[str, str, str, str]:
    try:
        classes = registry.classes(name)
    except UserError as missing:
        return name, "", "", str(missing)
    cls = classes[0]
    family = "model-based" if registry.is_model_based(cls) else "model-free"
    return name, family, " ".join(registry.action_spaces(*classes)), docstrings.summary(cls)


def environments() -> None:
    """Every environment that Gymnasium knows here, in its newest version, by family."""
    newest: dict[tuple[Any, str], Any] = {}
    for spec in registry.environments().values():
        known = newest.setdefault((spec.namespace, spec.name), spec)
        if (spec.version or 0) >= (known.version or 0):
            newest[spec.namespace, spec.name] = spec
    families: dict[str, list[str]] = {}
    for spec in newest.values():
        families.setdefault(_family(spec), []).append(spec.id)
    table(("family", "environments"), ((family, "  ".join(ids)) for family, ids in sorted(families.items())))
    print("your own, from the current folder or an installed package: --env module:ClassName or --env module:Id-v0")


def _family(spec: Any) -> str:
    if spec.namespace:
        return str(spec.namespace)
    module = spec.entry_point if isinstance(spec.entry_point, str) else getattr(spec.entry_point, "__module__", "other")
    parts = module.partition(":")[0].split(".")
    return parts[2] if parts[:2] == ["gymnasium", "envs"] and len(parts) > 2 else parts[0]


def runs(root: Path) -> None:
    """One row for each run below a folder, oldest first."""
    from dyna.runs import find_all

    found = find_all(root)
    if not found:
        print(f"no runs in {str(root)!r}: `dyna train` makes one")
        return
    rows = ((*map(_cell, _reached(_summary(run)).values()), str(run.path)) for run in found)
    table(("status", "steps", "seconds", "best return", "final return", "run"), rows)


def _summary(run: Run) -> Mapping[str, Any]:
    try:
        return {**run.summary(), "status": run.status}
    except UserError:  # killed before it wrote one
        return {"status": "unreadable"}


def _reached(summary: Mapping[str, Any]) -> dict[str, Any]:
    return {key: summary.get(key) for key in ("status", "steps", "seconds", "best_return_mean", "final_return_mean")}


def knobs(cls: type[BaseAlgorithm], preset: Mapping[str, Any]) -> None:
    """The hyperparameters of an algorithm; the preset's value follows a default that it replaces."""
    from dyna import hyperparameters

    replaced = _dotted(preset)
    rows = []
    for knob in hyperparameters.knobs(cls):
        inside = [f"{key}={plain.shown(value)}" for key, value in replaced.items() if _within(key, knob.name)]
        rows.append((knob.name, knob.shown_default, knob.help + (f" Preset: {', '.join(inside)}." if inside else "")))
    table(("hyperparameter", "default", "meaning"), rows)


def _dotted(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in settings.items():
        inside = _dotted(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
        found.update(inside)
    return found


def _within(key: str, knob: str) -> bool:
    return key == knob or key.startswith(f"{knob}.")


def reached(run: Run) -> None:
    """What a run has reached."""
    summary = run.summary()
    values = _reached(summary)
    names = {"plans": "plans made"}
    counts = summary.get("updates") or {}
    values |= {names.get(name, f"{name} updates"): count for name, count in counts.items() if count}
    values["dropped episodes"] = summary.get("dropped_episodes") or None
    values["world model holdout error"] = (summary.get("world_model") or {}).get("holdout_error")
    rows = [(name.replace("_", " "), _cell(value)) for name, value in values.items() if value is not None]
    table(("reached", ""), rows)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
