"""The mazes are those of the book, change at the step that they say, and can be looked at."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from dyna import registry
from dyna.environments import drawing
from dyna.environments.drawing import ARROWS, Shown
from dyna.environments.grid import parse
from dyna.environments.maze import world

UP, RIGHT, DOWN, LEFT = range(4)
SMALL = ["S.#", "..G"]
IDS = {
    "dyna/Maze-v0": {"map": SMALL},
    "dyna/ChangingMaze-v0": {"maps": [SMALL, ["S#.", "..G"]], "switches": [3]},
    "dyna/DynaMaze-v0": {},
    "dyna/BlockingMaze-v0": {},
    "dyna/ShortcutMaze-v0": {},
}


def make(env_id: str, **kwargs: Any) -> gym.Env[Any, Any]:
    registry.environments()
    return gym.make(env_id, **{**IDS[env_id], **kwargs})


def test_every_maze_is_tested() -> None:
    assert {env_id for env_id in registry.environments() if env_id.startswith("dyna/") and "Maze" in env_id} == set(IDS)


@pytest.mark.parametrize("env_id", IDS)
def test_gymnasium_finds_nothing_wrong(env_id: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make(env_id).unwrapped, skip_render_check=True)


@pytest.mark.parametrize(("resolution", "free"), [(1, 47), (2, 188), (3, 423), (4, 752)])
def test_the_dyna_maze_has_as_many_free_cells_as_the_books(resolution: int, free: int) -> None:
    grid = make("dyna/DynaMaze-v0", resolution=resolution).unwrapped.grid  # type: ignore[attr-defined]
    assert (~grid.wall).sum() == free and grid.goal.sum() == resolution**2
    assert shortest(grid) <= 14 * resolution


def shortest(grid: Any) -> int:
    next_state, _ = world(grid)
    reached, steps = {grid.start}, 0
    while grid.cells not in reached:
        reached = {int(cell) for state in reached if state < grid.cells for cell in next_state[state]} | reached
        steps += 1
    return steps


def test_the_shortest_ways_are_those_of_the_book() -> None:
    assert shortest(make("dyna/DynaMaze-v0").unwrapped.grid) == 14  # type: ignore[attr-defined]
    blocking = make("dyna/BlockingMaze-v0").unwrapped.grids  # type: ignore[attr-defined]
    shortcut = make("dyna/ShortcutMaze-v0").unwrapped.grids  # type: ignore[attr-defined]
    assert [shortest(grid) for grid in blocking] == [10, 16]
    assert [shortest(grid) for grid in shortcut] == [16, 10]


def test_cells_are_numbered_row_by_row_and_walls_are_not_entered() -> None:
    maze = make("dyna/Maze-v0")
    assert maze.reset()[0] == 0 and maze.observation_space.n == 6  # type: ignore[attr-defined]
    assert [maze.step(action)[0] for action in (UP, LEFT, RIGHT, RIGHT, DOWN, LEFT, RIGHT)] == [0, 0, 1, 1, 4, 3, 4]
    assert maze.step(RIGHT)[:4] == (5, 1.0, True, False)


@pytest.mark.parametrize("env_id", ["dyna/Maze-v0", "dyna/DynaMaze-v0"])
def test_a_maze_as_a_table_is_the_maze(env_id: str) -> None:
    maze = make(env_id)
    next_state, reward = world(maze.unwrapped.grid)  # type: ignore[attr-defined]
    state, _ = maze.reset(seed=0)
    for action in np.random.default_rng(0).integers(4, size=2_000):
        expected, gain = next_state[state, action], reward[state, action]
        state, got, ended, _, _ = maze.step(action)
        assert got == gain and ended == (expected == maze.observation_space.n)  # type: ignore[attr-defined]
        if ended:
            state, _ = maze.reset()
        else:
            assert state == expected


@pytest.mark.parametrize("env_id", ["dyna/BlockingMaze-v0", "dyna/ShortcutMaze-v0"])
def test_a_maze_changes_at_its_step_and_not_before(env_id: str) -> None:
    maze = make(env_id, switch=40)
    before, after = maze.unwrapped.grids  # type: ignore[attr-defined]
    maze.reset()
    for step in range(60):
        if step in (13, 29):
            maze.reset()  # an episode's end changes nothing
        cell, action = maze.unwrapped.cell, step % 2  # type: ignore[attr-defined]
        assert maze.step(action)[0] == (before if step < 40 else after).moves[cell, action]


def test_a_wall_that_moves_over_the_agent_can_be_left() -> None:
    maze = make("dyna/ChangingMaze-v0")
    maze.reset()
    maze.step(RIGHT), maze.step(UP), maze.step(UP)
    assert maze.unwrapped.cell == 1  # type: ignore[attr-defined]
    assert [maze.step(action)[0] for action in (UP, DOWN, UP)] == [1, 4, 4]


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"map": "S.\nG"}, r"equally long, got the lengths \[1, 2\]"),
        ({"map": "S.xG"}, "got x"),
        ({"map": "..G"}, "one start S and at least one goal G, got 0 and 1"),
        ({"map": "S.."}, "got 1 and 0"),
        ({"map": ""}, "equally long"),
        ({"map": "SG", "resolution": 0}, "resolution of a map must be at least 1, got 0"),
        ({"maps": ["SG", "SG."], "switches": [1]}, "of one size"),
        ({"maps": ["SG", "SG"], "switches": []}, r"2 maps need 1 increasing switches, got \[\]"),
        ({"maps": ["SG"] * 3, "switches": [5, 5]}, r"3 maps need 2 increasing switches, got \[5, 5\]"),
    ],
)
def test_what_is_no_maze_is_refused_in_a_sentence(wrong: dict[str, Any], sentence: str) -> None:
    registry.environments()
    with pytest.raises(ValueError, match=sentence):
        gym.make("dyna/Maze-v0" if "map" in wrong else "dyna/ChangingMaze-v0", **wrong)


def shown(agent: int = 0) -> Shown:
    """A policy that goes right, then down, then right, which is worth most near the goal."""
    values = np.zeros((6, 4))
    values[0, RIGHT], values[1, DOWN], values[4, RIGHT] = 0.25, 0.5, 1.0
    return Shown(parse(SMALL), agent, values, (values > 0).astype(int))


def test_a_text_has_arrows_values_and_what_was_tried() -> None:
    assert drawing.text(shown(agent=3)).splitlines() == [
        f"{ARROWS[RIGHT]}0.25 {ARROWS[DOWN]}0.50 ██████",
        f"@     {ARROWS[RIGHT]}1.00 G",
        "3 of 16 pairs of cell and action tried",
    ]
    assert drawing.text(Shown(parse(SMALL), 3, 100 * shown().values)).splitlines() == [
        f"{ARROWS[RIGHT]}25.00  {ARROWS[DOWN]}50.00  ████████",
        f"@       {ARROWS[RIGHT]}100.00 G",
    ]
    assert drawing.text(Shown(parse(SMALL), 1)) == "S @ ██\n· · G"
    assert "0.25" not in drawing.text(Shown(parse(["S" + 20 * "." + "G"]), 0, np.ones((22, 4))))  # too wide


def test_a_picture_darkens_with_value_and_points_the_way() -> None:
    picture = drawing.picture(shown(agent=0))
    side = picture.shape[0] // 2
    assert picture.shape == (2 * side, 3 * side, 3) and picture.dtype == np.uint8
    tile = picture.reshape(2, side, 3, side, 3).swapaxes(1, 2)
    ink = (tile == drawing.INK).all(axis=-1)
    assert ink[0, 1].any() and not ink[1, 0].any()
    columns = ink[1, 1].sum(axis=0)  # an arrow to the right is widest at its left
    assert columns[: side // 2].max() > columns[side // 2 :].max()
    assert (tile[0, 2] == drawing.WALL).all() and (tile[1, 2] == drawing.GOAL).all()
    assert (tile[1, 0] == drawing.UNKNOWN).all()
    corner = tile[:, :, 1, 1].astype(int)
    assert corner[1, 1].sum() < corner[0, 1].sum()
    assert (tile[0, 0] == drawing.AGENT).all(axis=-1).any()


def test_the_terminal_shows_each_step(capsys: pytest.CaptureFixture[str]) -> None:
    maze = make("dyna/Maze-v0", render_mode="human")
    maze.reset()
    maze.step(RIGHT)
    assert capsys.readouterr().out == "@ · ██\n· · G\nS @ ██\n· · G\n"
    assert make("dyna/Maze-v0", render_mode="ansi").unwrapped.render() == "@ · ██\n· · G"
