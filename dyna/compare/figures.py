"""Curves for a paper: environments side by side, environment steps above training seconds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dyna.compare.curves import AXES, Axis
from dyna.compare.results import Contest, Group
from dyna.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"),
    *("#8C6D31", "#999999", "#882255"),
)
"""Told apart by colour-blind readers (Okabe & Ito 2008, a brown, a grey, a wine red), in the report's order."""
FORMATS = (".png", ".svg", ".pdf")
COLUMNS = 4
PANEL = (1.9, 1.55)  # inches
WAYS = {"steps": "environment steps", "seconds": "training seconds"}
STYLE: Any = {
    "font.size": 7,
    "axes.titlesize": 8,
    "axes.labelsize": 7,
    "xtick.labelsize": 6,
    "ytick.labelsize": 6,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "dyna",
    "pdf.fonttype": 42,
}


def save(contests: Sequence[Contest], paths: Sequence[Path], axes: Sequence[Axis] = AXES) -> None:
    """Draw the interquartile mean and its 95 % interval of every algorithm; raises UserError for a format unknown."""
    for path in paths:
        if path.suffix not in FORMATS:
            raise UserError(f"the file must end in {', '.join(FORMATS)}, or for numbers .csv, got {str(path)!r}")
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        shown = [axis for axis in axes if any(_drawn(contest, axis) for contest in contests)]
        if not shown:
            raise UserError("no curve has seconds: leave out --axis seconds")
        columns = min(COLUMNS, len(contests))
        rows = -(-len(contests) // columns) * len(shown)
        figure = Figure(figsize=(max(PANEL[0] * columns, 3.2), PANEL[1] * rows + 0.3), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False)
        _draw(contests, shown, columns, panels)
        _legend(figure, contests)
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            metadata = {"Date": None} if path.suffix == ".svg" else {}
            figure.savefig(path, dpi=300, metadata=metadata)


def colours(contests: Sequence[Contest]) -> dict[str, int]:
    """The place of each algorithm in COLOURS, the same in every environment."""
    labels = dict.fromkeys(row.group.label for contest in contests for row in contest.rows)
    return {label: place for place, label in enumerate(labels)}


def _draw(contests: Sequence[Contest], axes: Sequence[Axis], columns: int, panels: Any) -> None:
    places = colours(contests)
    for number, contest in enumerate(contests):
        block, column = divmod(number, columns)
        for line, axis in enumerate(axes):
            panel = panels[block * len(axes) + line][column]
            _panel(panel, contest, axis, places)
            panel.set_xlabel(WAYS[axis])
            if line == 0:
                panel.set_title(contest.env)
            if column == 0:
                panel.set_ylabel("return")
    for unused in range(len(contests) % columns or columns, columns):
        for line in range(len(axes)):
            panels[-len(axes) + line][unused].set_axis_off()


def _panel(panel: Axes, contest: Contest, axis: Axis, places: dict[str, int]) -> None:
    if contest.threshold is not None:
        panel.axhline(contest.threshold, color="0.6", linewidth=0.6, linestyle=(0, (1, 2)))
    for group in _drawn(contest, axis):
        band = group.band(axis)
        if band is None:
            continue
        colour = COLOURS[places[group.label] % len(COLOURS)]
        marker = "." if len(band["at"]) == 1 else ""
        panel.fill_between(band["at"], band["low"], band["high"], color=colour, alpha=0.18, linewidth=0)
        dashes = (0, (4, 2)) if group.foreign else "solid"
        panel.plot(band["at"], band["iqm"], color=colour, linewidth=1.1, linestyle=dashes, marker=marker)
    panel.set_xlim(left=0)
    panel.margins(y=0.08)
    panel.locator_params(axis="x", nbins=5)
    panel.locator_params(axis="y", nbins=5)


def _legend(figure: Figure, contests: Sequence[Contest]) -> None:
    from matplotlib.lines import Line2D

    foreign = {row.group.label: row.group.foreign for contest in contests for row in contest.rows}
    handles = [
        Line2D(
            [],
            [],
            color=COLOURS[place % len(COLOURS)],
            linewidth=1.4,
            linestyle=(0, (4, 2)) if foreign[label] else "solid",
            label=f"{label} (not run here)" if foreign[label] else label,
        )
        for label, place in colours(contests).items()
    ]
    longest = max((len(str(handle.get_label())) for handle in handles), default=0)
    fitting = min(max(int(figure.get_figwidth() / (0.5 + 0.06 * longest)), 1), 6)  # inches of a line and of a letter
    columns = math.ceil(len(handles) / max(1, math.ceil(len(handles) / fitting)))  # rows of one length
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)


def _drawn(contest: Contest, axis: Axis) -> list[Group]:
    return [row.group for row in contest.rows if row.group.last(axis) is not None]
