"""The figures as tables: Markdown, LaTeX, CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dyna.compare import statistics
from dyna.compare.curves import AXES, Axis
from dyna.compare.overall import Overall
from dyna.compare.results import Contest, Cost, Pair, Reached, Row
from dyna.compare.statistics import Estimate

UNKNOWN = "–"
UNIT = {"steps": "steps", "seconds": "s"}


@dataclass(frozen=True)
class Table:
    """A heading, what stands above the columns, and texts; the first columns name the row."""

    key: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    names: int = 2
    """Columns of words; the others are numbers."""


def of_axis(contests: Sequence[Contest], axis: Axis) -> Table:
    """The returns at the common budget of an axis."""
    first = {"steps": "steps to threshold", "seconds": "seconds to threshold"}[axis]
    columns = ("environment", "algorithm", "seeds", "IQM [95 %]", "mean", "median", "on the way", first)
    rows = [
        (
            _budget(contest, axis),
            name(row),
            str(len(row.group.curves)),
            *_reading(row, axis),
            _reached(row.reached[axis]),
        )
        for contest in contests
        for row in contest.rows
    ]
    return Table(f"returns.{axis}", f"Return at equal {_long(axis)}", columns, tuple(rows))


def of_costs(contests: Sequence[Contest]) -> Table:
    """What a run of each algorithm took, evaluation aside."""
    known = [(contest, row, row.group.cost) for contest in contests for row in contest.rows if row.group.cost]
    kinds = tuple(dict.fromkeys(kind for _, _, cost in known for kind, count in cost.updates.items() if count))
    columns = ("environment", "algorithm", "training s", "steps/s", *(f"{kind} updates" for kind in kinds))
    columns += ("share of RL", "planner calls", "peak MiB")
    rows = [(contest.env, name(row), *_costs(cost, kinds)) for contest, row, cost in known]
    return Table("costs", "What a run takes (means of the runs; the highest memory)", columns, tuple(rows))


def of_pairs(contests: Sequence[Contest], overall: Sequence[Overall], axis: Axis) -> Table:
    """Every two algorithms: how probably one run beats another, and what can be said."""
    columns = ("environment", "algorithms", "P(first better) [95 %]", "verdict")
    listed = [(_budget(contest, axis), pair) for contest in contests for pair in contest.pairs]
    listed += [(", ".join(each.envs), pair) for each in overall if len(each.envs) > 1 for pair in each.pairs]
    rows = tuple(_pair(where, pair) for where, pair in listed if pair.axis == axis)
    return Table(f"pairs.{axis}", f"Pairs at equal {_long(axis)}", columns, rows)


def of_overall(overall: Sequence[Overall], axis: Axis) -> Table:
    """The normalised scores over several environments."""
    columns = ("environments", "algorithm", "IQM [95 %]", "mean [95 %]", "median [95 %]")
    rows = [
        (", ".join(each.envs), label, *(interval(part[label]) for part in (each.iqm, each.mean, each.median)))
        for each in overall
        if each.axis == axis and len(each.envs) > 1
        for label in each.iqm
    ]
    return Table(f"overall.{axis}", f"Normalised scores at equal {_long(axis)}", columns, tuple(rows))


def every(contests: Sequence[Contest], overall: Sequence[Overall]) -> list[Table]:
    """All tables that have rows."""
    found = [of_axis(contests, axis) for axis in AXES] + [of_costs(contests)]
    found += [of_overall(overall, axis) for axis in AXES]
    found += [of_pairs(contests, overall, axis) for axis in AXES]
    return [table for table in found if table.rows]


def markdown(tables: Sequence[Table]) -> str:
    """Markdown tables below their titles."""
    return "\n".join(_markdown(table) for table in tables)


def latex(tables: Sequence[Table]) -> str:
    """LaTeX tables for the package booktabs."""
    return "% needs \\usepackage{booktabs}\n" + "\n".join(_latex(table) for table in tables)


def curves_csv(contests: Sequence[Contest]) -> str:
    """Every evaluation of every run, in the columns that `--with` reads."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("algo", "env", "seed", "step", "return", "seconds", "source"))
    for contest in contests:
        for row in contest.rows:
            writer.writerows(_evaluations(row))
    return text.getvalue()


def name(row: Row) -> str:
    """The algorithm's name, with a mark where it was not run here."""
    return row.group.label + (" †" if row.group.foreign else "")


def number(value: float | None) -> str:
    """A number as precise as it is worth reading."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2
    text = f"{value:,.{digits}f}"
    return (text if float(text.replace(",", "")) else text.lstrip("-")).replace("-", "−")


def interval(estimate: Estimate | None) -> str:
    """A number with its interval."""
    if estimate is None:
        return UNKNOWN
    if math.isnan(estimate.low):
        return number(estimate.value)
    return f"{number(estimate.value)} [{number(estimate.low)}, {number(estimate.high)}]"


def leaders(contest: Contest, axis: Axis) -> str:
    """One sentence on who is highest at the common budget of an axis, and from whom that is not separated.

    Algorithms from elsewhere are not judged; empty where fewer than two can be.
    """
    here = [row for row in contest.rows if row.readings[axis] and not row.group.foreign]
    if len(here) < 2:
        return ""
    said = {row.group.label: f"{row.group.label} ({_value(row, axis)})" for row in here}
    best, *others = sorted(said, key=lambda label: -_middle(contest, label, axis))
    verdicts = {frozenset((pair.ours, pair.theirs)): pair.verdict for pair in contest.pairs if pair.axis == axis}
    behind = [other for other in others if verdicts[frozenset((best, other))] == statistics.ahead(best)]
    unclear = [said[other] for other in others if other not in behind]
    is_ahead = f"is ahead of {_listed([said[other] for other in behind])}" if behind else "is highest"
    return f"{said[best]} {is_ahead}" + (f", and not separated from {_listed(unclear)}" if unclear else "") + "."


def _middle(contest: Contest, label: str, axis: Axis) -> float:
    reading = next(row.readings[axis] for row in contest.rows if row.group.label == label)
    return reading.iqm.value if reading else -math.inf


def _value(row: Row, axis: Axis) -> str:
    reading = row.readings[axis]
    return interval(reading.iqm if reading else None)


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _reading(row: Row, axis: Axis) -> tuple[str, ...]:
    reading = row.readings[axis]
    if reading is None:
        return (UNKNOWN,) * 4
    return interval(reading.iqm), number(reading.mean.value), number(reading.median.value), number(reading.area.value)


def _reached(reached: Reached | None) -> str:
    if reached is None:
        return UNKNOWN
    return f"{number(reached.median)} ({reached.runs} of {reached.of})"


def _costs(cost: Cost, kinds: Sequence[str]) -> tuple[str, ...]:
    share = UNKNOWN if cost.rl_share is None else f"{cost.rl_share:.0%}".replace("%", " %")
    updates = tuple(f"{cost.updates.get(kind, 0):,.0f}" for kind in kinds)
    rest = (share, f"{cost.plans:,.0f}", number(cost.peak_memory))
    return (number(cost.seconds), number(cost.steps_per_second), *updates, *rest)


def _pair(where: str, pair: Pair) -> tuple[str, ...]:
    return where, f"{pair.ours} – {pair.theirs}", interval(pair.probability), pair.verdict


def _budget(contest: Contest, axis: Axis) -> str:
    if axis not in contest.budget:
        return contest.env
    return f"{contest.env}, {number(contest.budget[axis])} {UNIT[axis]}"


def _long(axis: Axis) -> str:
    return {"steps": "environment steps", "seconds": "training seconds"}[axis]


def _evaluations(row: Row) -> Iterator[tuple[object, ...]]:
    for curve in row.group.curves:
        for i, (step, value) in enumerate(zip(curve.steps, curve.returns, strict=True)):
            seconds = "" if curve.seconds is None else repr(float(curve.seconds[i]))
            yield row.group.label, curve.env, curve.seed, f"{step:.0f}", repr(float(value)), seconds, curve.source


def _markdown(table: Table) -> str:
    rules = ["---"] * table.names + ["---:"] * (len(table.columns) - table.names)
    lines = [table.columns, tuple(rules), *table.rows]
    body = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return f"**{table.title}**\n\n{body}\n"


def _latex(table: Table) -> str:
    kinds = "l" * table.names + "r" * (len(table.columns) - table.names)
    lines = [f"% {table.title}", rf"\begin{{tabular}}{{{kinds}}}", r"\toprule", _latex_row(table.columns), r"\midrule"]
    lines += [*map(_latex_row, table.rows), r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(cell.translate(_LATEX) for cell in cells) + r" \\"


_LATEX = str.maketrans(
    {
        **{mark: f"\\{mark}" for mark in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "−": "$-$",
        "–": "--",
        "†": r"$\dagger$",
    }
)
