"""Laws of the tabular family as Stable-Baselines3's algorithms; what the figures of the book say is tested beside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv

from dyna.algorithms import DynaQ, DynaQPlus, PrioritizedSweeping, QLearning
from dyna.config import RunConfig
from dyna.environments.maze import world
from dyna.errors import UserError
from dyna.evaluate import evaluate_run
from dyna.kernels import tabular
from dyna.kernels.episodes import World, dyna_episode, sweeping_episode
from dyna.restarts import DROPPED
from dyna.rows import new_stream
from dyna.tabular import TabularAlgorithm, TabularDyna
from dyna.train import train
from tests.book import Dyna, grids, rewards

FAMILY = (QLearning, DynaQ, DynaQPlus, PrioritizedSweeping)
BOOK = {"gamma": 0.95, "epsilon": 0.1, "learning_rate": 0.5}


class Corridor(gym.Env[Any, Any]):
    """Three cells in a row; to the right is worth 1 each time, and behind the last one is the end, or a time limit."""

    def __init__(self, how: str, start: int = 0) -> None:
        self.how = how
        self.observation_space = spaces.Discrete(3, start=start)
        self.action_space = spaces.Discrete(2, start=start)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.cell = 0
        return self.seen, {}

    @property
    def seen(self) -> int:
        return self.cell + int(self.observation_space.start)  # type: ignore[attr-defined]

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action)
        right = action - self.action_space.start == 1  # type: ignore[attr-defined]
        over = bool(right and self.cell == 2)
        self.cell = min(2, self.cell + 1) if right else max(0, self.cell - 1)
        info = {DROPPED: "it failed"} if self.how == "dropped" and over else {}
        return self.seen, float(right), over and self.how == "ends", over and self.how != "ends", info


def lives_on(agent: TabularAlgorithm, steps: int, seed: int) -> tuple[np.ndarray, Any]:
    """The same life in compiled episodes: the values and the random words that are left."""
    (grid,) = grids("dyna/DynaMaze-v0")
    maze, random = World(*world(grid)), new_stream(np.random.default_rng(seed))
    values, table = np.zeros((grid.cells + 1, 4)), tabular.new_table(grid.cells, 4, 4 * grid.cells)
    queue = tabular.new_queue(4 * grid.cells)
    while steps:
        if isinstance(agent, PrioritizedSweeping):
            _, made, _ = sweeping_episode(
                values, table, queue, maze, grid.start, steps, agent.planning_steps, 0.5, 0.95, 0.1, agent.theta, random
            )
        else:
            assert isinstance(agent, DynaQ)
            acting, untried = getattr(agent, "acting_kappa", 0.0), isinstance(agent, DynaQPlus)
            _, made = dyna_episode(
                values, table, maze, grid.start, steps, agent.planning_steps, 0.5, 0.95, 0.1, agent.planning_kappa,
                acting, untried, random,
            )  # fmt: skip
        steps -= made
    return values, random


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (DynaQ, {"planning_steps": 10}),
        (DynaQPlus, {"planning_steps": 5, "kappa": 1e-3}),
        (DynaQPlus, {"planning_steps": 5, "kappa": 1e-2, "bonus": "acting"}),
        (PrioritizedSweeping, {"planning_steps": 5}),
    ],
)
def test_an_agent_lives_the_life_of_the_compiled_experiments(kind: type[TabularDyna], settings: dict[str, Any]) -> None:
    agent = kind(env=gym.make("dyna/DynaMaze-v0"), seed=3, memory="last", **BOOK, **settings).learn(2_000)
    values, random = lives_on(agent, 2_000, seed=3)
    assert np.array_equal(agent.policy.values, values) and values.any()
    assert np.array_equal(agent.random, random)


@pytest.mark.parametrize(("kappa", "bonus"), [(1e-4, "planning"), (1e-2, "acting")])
def test_an_agent_earns_what_the_compiled_experiments_earn_in_a_maze_that_changes(kappa: float, bonus: str) -> None:
    earned: list[bool] = []

    class Note(BaseCallback):
        def _on_step(self) -> bool:
            earned.append(self.locals["rewards"][0] == 1.0)
            return True

    env = gym.make("dyna/BlockingMaze-v0", switch=500)
    settings = {**BOOK, "learning_rate": 1.0, "planning_steps": 10}
    DynaQPlus(env=env, seed=0, memory="last", kappa=kappa, bonus=bonus, **settings).learn(1_500, Note())
    expected = rewards("dyna/BlockingMaze-v0", Dyna(1.0, 10, kappa, bonus == "acting"), 500, 1_500, runs=1)
    assert earned == expected[0].tolist() and sum(earned[500:]) > 5


def test_dyna_q_without_planning_is_q_learning() -> None:
    plain = QLearning(env=gym.make("dyna/DynaMaze-v0"), seed=1, **BOOK).learn(2_000)
    dyna = DynaQ(env=gym.make("dyna/DynaMaze-v0"), seed=1, planning_steps=0, **BOOK).learn(2_000)
    assert np.array_equal(plain.action_values, dyna.action_values)
    assert plain.updates["critic"] == dyna.updates["critic"] == dyna.updates["model"] == 2_000


@pytest.mark.parametrize("kind", FAMILY)
@pytest.mark.parametrize(("how", "last"), [("ends", 1.0), ("runs out", 2.0)])
def test_a_time_limit_bootstraps_and_an_end_does_not(kind: type[TabularAlgorithm], how: str, last: float) -> None:
    agent = kind(env=Corridor(how), seed=0, gamma=0.5, learning_rate=0.5, epsilon=0.5).learn(1_500)
    # an endless corridor is worth 1 + 1/2 + 1/4 ... from each cell
    expected = {"ends": [1.75, 1.5, 1.0], "runs out": [2.0, 2.0, 2.0]}[how]
    assert agent.action_values.max(axis=1) == pytest.approx(expected, rel=0.01)
    assert agent.action_values[2, 1] == pytest.approx(last, rel=0.01)
    assert not agent.policy.values[agent.end].any()


def test_states_and_actions_may_count_from_anywhere() -> None:
    plain, shifted = (DynaQ(env=Corridor("ends", start), seed=0, gamma=0.5).learn(300) for start in (0, 7))
    assert np.array_equal(plain.action_values, shifted.action_values)
    assert shifted.predict(9, deterministic=True)[0] == plain.predict(2, deterministic=True)[0] + 7 == 8


def test_a_step_that_failed_is_not_learnt_from() -> None:
    agent = DynaQ(env=Corridor("dropped"), seed=0, gamma=0.5).learn(500)
    assert agent.visits is not None
    assert agent.visits[2].tolist()[1] == 0 and agent.action_values[2, 1] == 0.0


@pytest.mark.parametrize("kind", FAMILY)
def test_a_saved_agent_is_the_same_and_goes_on(kind: type[TabularAlgorithm], tmp_path: Path) -> None:
    agent = kind(env=gym.make("FrozenLake-v1"), seed=2, epsilon=LinearSchedule(0.9, 0.1, 1.0)).learn(600)
    agent.save(tmp_path / "agent.zip")
    loaded = kind.load(tmp_path / "agent.zip", env=gym.make("FrozenLake-v1"))
    for name, state in agent.get_parameters().items():
        assert all(np.array_equal(value, loaded.get_parameters()[name][key]) for key, value in state.items()), name
    assert loaded.predict(np.arange(16), deterministic=True)[0].tolist() == agent.action_values.argmax(axis=1).tolist()
    assert loaded.gamma == agent.gamma and loaded.updates == agent.updates
    loaded.learn(50, reset_num_timesteps=False)
    assert loaded.num_timesteps == 650


def test_a_table_that_has_grown_is_loaded() -> None:
    agent = DynaQ(env=gym.make("FrozenLake-v1"), seed=0, planning_steps=1, epsilon=1.0).learn(3_000)
    fresh = DynaQ(env=gym.make("FrozenLake-v1"), seed=0)
    assert len(agent.world_model.arrays.pair) > len(fresh.world_model.arrays.pair)
    fresh.set_parameters(agent.get_parameters())
    for mine, theirs in zip(fresh.world_model.arrays, agent.world_model.arrays, strict=True):
        assert np.array_equal(mine, theirs)
    assert agent.world_model.arrays.visits.sum() == 3_000


def test_a_model_of_counts_has_the_frequencies_of_what_was_seen() -> None:
    agent = DynaQ(env=gym.make("FrozenLake-v1"), seed=0, epsilon=1.0, planning_steps=0).learn(6_000)
    table = agent.world_model.arrays
    outcome, followers = table.first[0 * 4 + 2], {}
    while outcome >= 0:  # to the right of the start: on, down, or against the upper edge
        followers[int(table.next_state[outcome])] = int(table.seen[outcome])
        outcome = table.after[outcome]
    assert set(followers) == {0, 1, 4} and sum(followers.values()) == table.visits[2]
    assert min(followers.values()) > 0.25 * sum(followers.values())


def test_full_updates_solve_what_the_counts_describe() -> None:
    """Value iteration on the counted frequencies of a slippery lake, written as matrices, has the same fixed point."""
    agent = PrioritizedSweeping(env=gym.make("FrozenLake-v1"), seed=0, epsilon=1.0, gamma=0.9, theta=1e-9)
    agent.planning_steps = 100_000
    agent.learn(3_000)
    table, moves, gain = agent.world_model.arrays, np.zeros((64, 17)), np.zeros(64)
    for outcome in range(table.counters[tabular.OUTCOMES]):
        share = table.seen[outcome] / table.visits[table.pair[outcome]]
        moves[table.pair[outcome], table.next_state[outcome]] += share
        gain[table.pair[outcome]] += share * table.reward[outcome]
    values = np.zeros(17)
    for _ in range(500):
        values = np.append((gain + 0.9 * moves @ values).reshape(16, 4).max(axis=1), 0.0)
    np.testing.assert_allclose(agent.action_values.max(axis=1), values[:-1], atol=1e-6)


@pytest.mark.parametrize("env_id", ["FrozenLake-v1", "Taxi-v4", "CliffWalking-v1", "Blackjack-v1"])
@pytest.mark.parametrize("kind", FAMILY)
def test_an_environment_takes_what_is_predicted(kind: type[TabularAlgorithm], env_id: str, tmp_path: Path) -> None:
    """Gymnasium looks actions up in a dictionary, which an array, even of one number, has no place in."""
    kind("TablePolicy", gym.make(env_id), seed=0).learn(200).save(tmp_path / "agent.zip")
    agent, env = kind.load(tmp_path / "agent.zip"), gym.make(env_id)
    obs, _ = env.reset(seed=0)
    for i in range(50):
        obs, _, terminated, truncated, _ = env.step(agent.predict(obs, deterministic=i % 2 == 0)[0])
        if terminated or truncated:
            obs, _ = env.reset()


def test_several_environments_share_a_table() -> None:
    envs = DummyVecEnv([lambda: gym.make("FrozenLake-v1")] * 3)
    agent = DynaQ(env=envs, seed=0, planning_steps=2).learn(300)
    assert agent.num_timesteps == agent.updates["model"] == 300 and agent.updates["critic"] == 900


def test_observations_of_many_parts_are_numbered() -> None:
    agent = DynaQ(env=gym.make("Blackjack-v1"), seed=0, gamma=1.0, epsilon=0.5).learn(3_000)
    assert agent.action_values.shape == (32 * 11 * 2, 2)
    assert agent.predict((20, 10, 0), deterministic=True)[0] == 0  # sticks
    batch = (np.array([20, 20]), np.array([10, 10]), np.array([0, 0]))
    assert agent.predict(batch, deterministic=True)[0].tolist() == [0, 0]


def test_a_random_action_is_as_frequent_as_epsilon_says() -> None:
    agent = QLearning(env=Corridor("ends"), seed=0, epsilon=0.4)
    agent.action_values[:, 1] = 1.0
    drawn = agent.predict(np.zeros(5_000, int))[0]
    assert (drawn == 0).mean() == pytest.approx(0.2, abs=0.02)
    assert (agent.predict(np.zeros(50, int), deterministic=True)[0] == 1).all()


def test_exploration_follows_a_schedule() -> None:
    agent = QLearning(env=Corridor("ends"), seed=0, epsilon=LinearSchedule(1.0, 0.0, 0.5)).learn(400)
    assert agent.policy.epsilon.item() == 0.0
    assert agent.predict(0)[0] == agent.predict(0, deterministic=True)[0] == 1


def test_two_runs_with_one_seed_are_the_same_and_with_two_they_are_not() -> None:
    first, again, other = (DynaQ(env=gym.make("FrozenLake-v1"), seed=seed).learn(500) for seed in (5, 5, 6))
    assert np.array_equal(first.action_values, again.action_values)
    assert not np.array_equal(first.visits, other.visits)


def test_a_callback_ends_learning() -> None:
    class Stop(BaseCallback):
        def _on_step(self) -> bool:
            return self.num_timesteps < 70

    assert DynaQ(env=gym.make("FrozenLake-v1"), seed=0).learn(500, Stop()).num_timesteps == 70


@pytest.mark.parametrize("kind", [DynaQ, PrioritizedSweeping])
def test_the_shortest_way_along_a_cliff_is_found(kind: type[TabularAlgorithm]) -> None:
    agent = kind(env=gym.make("CliffWalking-v1"), seed=0, learning_rate=1.0, planning_steps=20).learn(2_000)
    returns, _ = evaluate_policy(agent, Monitor(gym.make("CliffWalking-v1", max_episode_steps=100)), 1)
    assert returns == -13.0


@pytest.mark.parametrize(
    ("kind", "wrong", "sentence"),
    [
        (QLearning, {"learning_rate": 1.5}, r"learning_rate must be in \[0, 1\], got 1.5"),
        (QLearning, {"epsilon": -0.1}, r"epsilon must be in \[0, 1\], got -0.1"),
        (QLearning, {"gamma": 2.0}, r"gamma must be in \[0, 1\], got 2.0"),
        (QLearning, {"device": "cuda"}, "a table is kept on the CPU, got device='cuda'"),
        (QLearning, {"policy": "MlpPolicy"}, "policy must be TablePolicy, got 'MlpPolicy'"),
        (QLearning, {"env": None}, "QLearning needs an environment, got env=None"),
        (QLearning, {"env": "CartPole-v1"}, "a table has a row for each state, which Box"),
        (DynaQ, {"planning_steps": -1}, "planning_steps must be at least 0, got -1"),
        (DynaQ, {"memory": "none"}, "memory must be counts or last, got 'none'"),
        (DynaQPlus, {"kappa": -1.0}, "kappa must be at least 0, got -1.0"),
        (DynaQPlus, {"bonus": "both"}, "bonus must be planning or acting, got 'both'"),
        (PrioritizedSweeping, {"theta": -1.0}, "theta must be at least 0, got -1.0"),
        (PrioritizedSweeping, {"planning_steps": -1}, "planning_steps must be at least 0, got -1"),
    ],
)
def test_settings_that_make_no_sense_are_refused_in_a_sentence(
    kind: type[TabularAlgorithm], wrong: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        kind(**{"env": "FrozenLake-v1", **wrong})


def test_a_table_that_would_not_fit_into_memory_is_refused() -> None:
    env = Corridor("ends")
    env.observation_space = spaces.MultiBinary(40)
    with pytest.raises(UserError, match="a table of 1,099,511,627,776 states and 2 actions is too large"):
        QLearning(env=env)


def test_an_evaluation_shows_arrows_values_and_what_was_tried(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"planning_steps": 50, "memory": "last", "learning_rate": 0.5, "gamma": 0.95}
    config = RunConfig(
        env="dyna/DynaMaze-v0", algo="dyna-q", steps=1_500, hyperparameters=settings, eval_every=0, runs=tmp_path
    )
    run = train(config, progress=False)
    capsys.readouterr()
    assert evaluate_run(run.path, 1, render=True).length_mean < 20
    shown = capsys.readouterr().out
    assert "@" in shown and "↑0.95" in shown and "of 184 pairs of cell and action tried" in shown
