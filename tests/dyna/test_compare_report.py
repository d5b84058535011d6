"""The report says what the curves say: no more than they separate, nothing beyond where they end."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dyna.compare import document, figures, foreign, gather, overall, report, results, tables
from dyna.compare.curves import Curve
from dyna.compare.execute import Job
from dyna.compare.grids import Cell
from dyna.compare.plan import Comparison
from dyna.compare.results import Cost, Group
from dyna.config import RunConfig
from dyna.errors import UserError
from tests import browser

STEPS = np.arange(100.0, 1001.0, 100.0)


def curve(label: str, seed: int, top: float, *, env: str = "A-v0", pace: float = 0.1, end: int = 10) -> Curve:
    """Rises in a straight line to `top` at step 1000, at `pace` seconds a step, up to the `end`-th evaluation."""
    return Curve(env, label, seed, STEPS[:end], (STEPS / 1000 * top)[:end], (STEPS * pace)[:end])


def group(
    label: str, tops: Sequence[float], *, family: str = "model-free", foreign: bool = False, **rest: object
) -> Group:
    curves = tuple(curve(label, seed, top, **rest) for seed, top in enumerate(tops))  # type: ignore[arg-type]
    cost = Cost(100.0, 10.0, {"critic": 900.0, "actor": 900.0, "model": 200.0}, 0.9, 5.0, 512.0)
    return Group(curves[0].env, label, curves, family, None if foreign else cost, foreign)


def test_algorithms_meet_where_the_last_of_them_has_come_to() -> None:
    slow = group("slow", [100, 100, 100], pace=1.0, end=5)
    fast = group("fast", [300, 310, 320], pace=0.1)
    contest = results.contest("A-v0", [slow, fast], None)
    assert contest.budget == {"steps": 500.0, "seconds": pytest.approx(100.0)}
    at_steps, at_seconds = contest.rows[0].readings["steps"], contest.rows[0].readings["seconds"]
    assert at_steps and at_steps.iqm.value == 50.0
    assert at_seconds and at_seconds.iqm.value == 10.0, "the return of step 100, which took 100 seconds"


def test_where_one_was_not_evaluated_yet_nobody_is_ahead_of_it() -> None:
    slow, fast = group("slow", [500, 510, 520], pace=20.0), group("fast", [100, 110, 120])
    contest = results.contest("A-v0", [slow, fast], None)
    assert contest.budget["seconds"] == pytest.approx(100.0), "the first evaluation of slow comes after 2,000"
    assert contest.rows[0].readings["seconds"] is None and contest.rows[1].readings["seconds"] is not None
    assert [pair.axis for pair in contest.pairs] == ["steps"]


def test_curves_are_drawn_once_and_others_of_their_seed_beside_them() -> None:
    one, other = curve("a", 0, 1.0), curve("a", 0, 2.0)
    (group,) = gather.grouped([one, other, replace(one, source="read again"), curve("a", 1, 3.0)])
    assert [(each.seed, each.returns[-1]) for each in group.curves] == [(0, 1.0), (2, 2.0), (1, 3.0)]


def test_seeds_that_tie_all_count() -> None:
    tied = [replace(curve("a", seed, -200.0), seconds=None) for seed in range(3)]
    (group,) = gather.grouped(tied)
    assert len(group.curves) == 3


def test_a_picture_of_seconds_that_nobody_measured_is_refused(tmp_path: Path) -> None:
    blind = replace(curve("a", 0, 1.0), seconds=None)
    with pytest.raises(UserError, match="no curve has seconds: leave out --axis seconds"):
        report.draw([blind], tmp_path / "a.png", ("seconds",))


def test_what_was_not_run_here_moves_no_budget_and_is_not_judged() -> None:
    short = group("paper", [900.0], foreign=True, end=3)
    contest = results.contest("A-v0", [group("ours", [1, 2, 3]), short], None)
    assert contest.budget["steps"] == 1000.0
    assert contest.rows[1].readings["steps"] is None, "nothing is drawn on beyond its end"
    assert contest.pairs == () and tables.leaders(contest, "steps") == ""


def test_a_curve_without_seconds_is_on_one_axis_only() -> None:
    blind = replace(group("b", [1, 2, 3]), curves=tuple(replace(c, seconds=None) for c in group("b", [1, 2, 3]).curves))
    contest = results.contest("A-v0", [group("a", [1, 2, 3]), blind], 1.0)
    assert "seconds" not in contest.budget and contest.rows[1].reached["seconds"] is None
    assert blind.band("seconds") is None and blind.band("steps") is not None


def test_a_threshold_that_half_of_the_runs_miss_has_no_median() -> None:
    def reached(tops: Sequence[float]) -> results.Reached:
        found = results.contest("A-v0", [group("a", tops)], 50.0).rows[0].reached["steps"]
        assert found is not None
        return found

    assert reached([100, 100, 50]) == results.Reached(500.0, 3, 3)
    assert reached([100, 100, 0]) == results.Reached(500.0, 2, 3)
    assert reached([100, 0, 0]) == results.Reached(math.inf, 1, 3)
    assert reached([0, 0]) == results.Reached(math.inf, 0, 2)


def test_the_mean_on_the_way_is_the_area_below_the_curve() -> None:
    areas = group("a", [100.0]).areas("steps", 1000.0)
    assert areas is not None and areas[0] == pytest.approx(55.0)  # from 10 at step 100 to 100 at step 1000


def test_the_leader_is_named_with_those_who_are_not_behind() -> None:
    a, b, c = group("a", [10, 11, 12]), group("b", [11, 12, 13]), group("c", [0, 1, 2])
    said = tables.leaders(results.contest("A-v0", [a, b, c], None), "steps")
    assert said == (
        "b (12.0 [11.0, 13.0]) is ahead of c (1.00 [0.00, 2.00]), and not separated from a (11.0 [10.0, 12.0])."
    )
    two = results.contest("A-v0", [group("a", [10, 11]), group("c", [0, 1])], None)
    assert tables.leaders(two, "steps").startswith("a (10.5 [10.0, 11.0]) is highest, and not separated from c")


def test_scores_of_several_environments_lie_between_the_first_evaluations_and_the_threshold() -> None:
    contests = [
        results.contest("A-v0", [group("a", [100, 100, 100]), group("b", [50, 50, 50])], 200.0),
        results.contest("B-v0", [group("a", [8, 8, 8], env="B-v0"), group("b", [4, 4, 4], env="B-v0")], None),
    ]
    assert overall.scale(contests[0]) == (7.5, 200.0) and overall.scale(contests[1]) == (pytest.approx(0.6), 8.0)
    steps, _ = overall.overall(contests)
    assert steps.envs == ("A-v0", "B-v0")
    assert steps.mean["a"].value == pytest.approx(((100 - 7.5) / 192.5 + 1) / 2)
    assert steps.profiles["a"].share[0] == 1.0 and steps.profiles["a"].share[-1] == 0.0
    assert steps.pairs[0].verdict == "a is ahead"


def test_costs_are_means_and_the_share_of_rl_is_that_of_all_gradients() -> None:
    runs = [
        {"steps": 100, "seconds": 10.0, "updates": {"critic": 60, "actor": 30, "model": 10, "plans": 7}},
        {
            "steps": 100,
            "seconds": 30.0,
            "updates": {"critic": 60, "actor": 30, "model": 10, "plans": 9},
            "peak_memory": 3,
        },
    ]
    cost = results.cost(runs)
    assert (cost.seconds, cost.steps_per_second, cost.rl_share, cost.plans, cost.peak_memory) == (
        20.0,
        5.0,
        0.9,
        8.0,
        3,
    )
    assert results.cost([{"steps": 1, "seconds": 1.0}]).rl_share is None


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    return Comparison("</script> & co", [], {}, tmp_path, argv=("dyna", "compare", "--name", "x"))


@pytest.fixture
def contests() -> list[results.Contest]:
    rng = np.random.default_rng(0)

    def noisy(label: str, top: float, env: str, pace: float, **rest: object) -> Group:
        return group(label, list(top * (1 + 0.1 * rng.normal(size=5))), env=env, pace=pace, **rest)

    found = []
    for env in ("Hopper-v5", "My_Env-v0"):
        ours = [noisy("model_based", 900, env, 0.4, family="model-based"), noisy("sac", 700, env, 0.1)]
        found.append(results.contest(env, [*ours, noisy("paper", 500, env, 0.1, foreign=True)], 800.0))
    return found


def write(comparison: Comparison, contests: Sequence[results.Contest]) -> Path:
    """A page with a failed run in it."""
    cell = Cell("sac", RunConfig(env="Hopper-v5", algo="sac", runs=comparison.runs))
    jobs = [Job(cell, "failed", error="the arm fell off"), Job(replace(cell, label="td3"), "waiting")]
    data = document.document(comparison, jobs, contests, overall.overall(contests), "2 runs side by side")
    path = comparison.runs / report.PAGE
    path.write_text(document.page(data), encoding="utf-8")
    return path


def test_the_page_asks_for_nothing_from_elsewhere(comparison: Comparison, contests: list[results.Contest]) -> None:
    text = write(comparison, contests).read_text()
    assert text.count("</script>") == 2, "no text of the data ends the script"
    for word in ("src=", "@import", "url(", '<link rel="stylesheet"', "https://"):
        assert word not in text


def test_the_page_works_in_a_browser(comparison: Comparison, contests: list[results.Contest], tmp_path: Path) -> None:
    if browser.find() is None:
        pytest.skip("no Chromium is installed")
    path = write(comparison, contests)
    with browser.Page(tmp_path / "profile") as page:
        for width, dark in ((1200, False), (390, True)):
            page.open(path, width, dark=dark)
            assert page.run("document.querySelectorAll('#panels path.line').length") == 6
            assert page.run("document.querySelectorAll('#panels path.foreign').length") == 2
            assert page.run("document.documentElement.scrollWidth") == width, "nothing runs over the edge"
            assert "1,000 steps" in page.run("document.getElementById('returns').textContent")
            drawn = page.run("document.querySelectorAll('#panels path.line')[1].getAttribute('d')")
            page.run("document.querySelector('button[data-axis=seconds]').click()")
            assert page.run("document.documentElement.dataset.axis") == "seconds"
            assert "training seconds" in page.run("document.querySelector('#panels svg').textContent")
            assert page.run("document.querySelectorAll('#panels path.line')[1].getAttribute('d')") != drawn
            assert "Return at equal training seconds" in page.run(
                "document.getElementById('returns-title').textContent"
            )
            page.run("document.querySelector('#legend button').click()")
            assert page.run("document.querySelectorAll('#panels path.line').length") == 4
            page.run("document.getElementById('single').click()")
            assert page.run("document.querySelectorAll('#panels path.run').length") == 20
            assert "1 of 2 runs failed" in page.run("document.getElementById('alerts').textContent")
            assert "the arm fell off" in page.run("document.querySelector('tr.red').textContent")
            paper = page.run("getComputedStyle(document.body).backgroundColor")
            assert paper == ("rgb(20, 22, 26)" if dark else "rgb(255, 255, 255)")
            page.screenshot(tmp_path / "page.png")
            assert (tmp_path / "page.png").stat().st_size > 20_000
        assert page.complaints == []


def test_the_tables_are_whole_in_every_format(contests: list[results.Contest]) -> None:
    every = tables.every(contests, overall.overall(contests))
    assert [table.key for table in every] == [
        "returns.steps", "returns.seconds", "costs", "overall.steps", "overall.seconds", "pairs.steps", "pairs.seconds",
    ]  # fmt: skip
    assert all(len(row) == len(table.columns) for table in every for row in table.rows)
    markdown, latex = tables.markdown(every), tables.latex(every)
    assert "| Hopper-v5, 1,000 steps | paper † | 5 |" in markdown
    assert (
        r"My\_Env-v0, 1,000 steps & model\_based & 5 &" in latex and r"90 \%" in latex and r"paper $\dagger$" in latex
    )
    assert latex.count(r"\begin{tabular}") == latex.count(r"\bottomrule") == len(every)


def test_the_curves_come_back_from_their_csv(contests: list[results.Contest], tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_text(tables.curves_csv(contests))
    before = [each for contest in contests for row in contest.rows for each in row.group.curves]
    after = foreign.read(path)
    assert [(each.env, each.label, each.seed) for each in after] == [
        (each.env, each.label, each.seed) for each in before
    ]
    for ours, theirs in zip(before, after, strict=True):
        np.testing.assert_array_equal(ours.returns, theirs.returns)
        np.testing.assert_array_equal(ours.along("seconds"), theirs.along("seconds"))


def test_the_data_is_strict_json(comparison: Comparison, contests: list[results.Contest]) -> None:
    together = overall.overall(contests)
    data = document.document(comparison, [], [*contests, results.contest("C-v0", [group("a", [1])], 9.0)], together, "")
    text = json.dumps(data, allow_nan=False)
    assert json.loads(text)["contests"][2]["algorithms"][0]["reached"]["steps"] == {"median": None, "runs": 0, "of": 1}
    assert shlex.join(data["command"]) == "dyna compare --name x"


@pytest.mark.parametrize("number", [1, 2, 5])
def test_a_picture_has_a_panel_for_each_environment_and_axis(number: int, tmp_path: Path) -> None:
    found = [results.contest(f"E{i}-v0", [group("a", [1, 2, 3], env=f"E{i}-v0")], None) for i in range(number)]
    figures.save(found, [tmp_path / "curves.png", tmp_path / "curves.svg"])
    text = (tmp_path / "curves.svg").read_text()
    assert [text.count(f">E{i}-v0<") for i in range(number)] == [1] * number
    assert text.count(">environment steps<") == text.count(">training seconds<") == number
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    with pytest.raises(UserError, match=r"must end in \.png, \.svg, \.pdf, or for numbers \.csv, got "):
        figures.save(found, [tmp_path / "curves.doc"])


def test_ten_algorithms_have_ten_colours(tmp_path: Path) -> None:
    found = [results.contest("A-v0", [group(f"a{i}", [1, 2]) for i in range(10)], None)]
    figures.save(found, [tmp_path / "curves.svg"])
    assert len(set(re.findall(r"stroke: (#\w{6}); stroke-width: 1\.4", (tmp_path / "curves.svg").read_text()))) == 10
    text = document.page({})
    assert re.findall(r"const COLOURS = (\d+);", text) == [str(len(figures.COLOURS))]
    by_light = [dict(re.findall(r"--c(\d+): (#\w{6});", part)) for part in text.split("prefers-color-scheme: dark")]
    assert [len(set(palette.values())) for palette in by_light] == [len(figures.COLOURS)] * 2
