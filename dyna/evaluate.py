"""Evaluation: episodes played by a policy that does not learn from them."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from dyna import agents, envs, limits, plain, registry, runs
from dyna.config import RunConfig
from dyna.errors import UserError
from dyna.generators import stream
from dyna.guard import EnvironmentFailed, Guarded
from dyna.progress import say
from dyna.restarts import ATTEMPTS, DROPPED
from dyna.tabular import TabularAlgorithm

EPISODE_LIMIT = 10_000
"""Steps after which an episode of an environment without a time limit is cut: it might never end."""
_PLAYING = 2  # the stream of seeds, far from those of training and of evaluation in training
BEST, LAST = "best_model", "last_model"
CSV_COLUMNS = ("step", "seconds", "return_mean", "return_std", "length_mean", "episodes")


@dataclass(frozen=True)
class Evaluation:
    """The episodes of one evaluation; returns are undiscounted sums of the environment's own rewards."""

    returns: tuple[float, ...]
    lengths: tuple[int, ...]
    cut: int = 0
    """Episodes that were cut at EPISODE_LIMIT."""
    dropped: int = 0
    """Further episodes, in which the environment failed."""

    @property
    def return_mean(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))

    @property
    def return_std(self) -> float:
        """Standard deviation of the returns, divided by n as SB3 does."""
        return float(np.std(self.returns))

    @property
    def length_mean(self) -> float:
        """Mean steps an episode."""
        return float(np.mean(self.lengths))

    @property
    def advice(self) -> str:
        """What to say of episodes that were cut or dropped; empty where there were none."""
        said = []
        if self.cut:
            said.append(
                f"{self.cut} of {self.episodes} evaluation episodes were cut after {EPISODE_LIMIT:,} steps, since the "
                "environment sets no time limit: `--env-kwargs max_episode_steps=1000` sets one"
            )
        if self.dropped:
            said.append(f"the environment failed in {self.dropped} further evaluation episodes, which do not count")
        return "; ".join(said)

    @property
    def episodes(self) -> int:
        """Episodes played."""
        return len(self.returns)


def play(
    model: BaseAlgorithm,
    env: VecEnv,
    episodes: int,
    *,
    seed: int,
    deterministic: bool = True,
    before_step: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Play episodes in the one environment of `envs.make_evaluation`, whose first reset is seeded.

    Raises EnvironmentFailed where the environment does, or drops ten times as many episodes as were asked for.
    """
    limit, monitor = _limit(env), envs.monitors(env)[0]
    returns: list[float] = []
    lengths: list[int] = []
    cut = dropped = 0
    env.seed(seed)
    obs, state, start, length = env.reset(), None, np.ones(1, dtype=bool), 0
    while len(returns) < episodes:
        before_step()
        action, state = model.predict(obs, state, start, deterministic)  # type: ignore[arg-type]
        obs, _, start, infos = env.step(action)
        length += 1
        if start[0] and DROPPED in infos[0]:
            dropped, length = dropped + 1, 0
            if dropped == ATTEMPTS * episodes:
                raise EnvironmentFailed(f"{infos[0][DROPPED]}, as in {dropped - 1} episodes before")
        elif start[0]:
            returns.append(monitor.get_episode_rewards()[-1])  # what its info says is rounded
            lengths.append(length)
            length = 0
        elif length == limit:
            returns.append(sum(monitor.rewards))
            lengths.append(length)
            cut += 1
            obs, state, start, length = env.reset(), None, np.ones(1, dtype=bool), 0
    return Evaluation(tuple(returns), tuple(lengths), cut, dropped)


def evaluate_run(
    run_path: Path,
    episodes: int = 10,
    *,
    which: str = "best",
    hyperparameters: Mapping[str, Any] | None = None,
    **how: Any,
) -> Evaluation:
    """Play episodes with the best or the last model of a run; `how` is what `evaluate` takes.

    `hyperparameters` are laid over those of the training, and must be ones by which an agent plays that plans. With
    another `reward_fn` it aims at that one without learning, in the way that its class calls `for_another_reward` where
    nothing else is said. A run that was never evaluated has no best model: its last one plays. Runs no code that the
    run folder holds; raises UserError.
    """
    run, changed = runs.open(run_path), dict(hyperparameters or {})
    weights, config = _weights(run, which).absolute(), run.config  # an environment may go into another folder

    def player(env: VecEnv) -> BaseAlgorithm:
        cls = registry.find(config.algo, env.action_space)
        aim = getattr(cls, "for_another_reward", None) if "reward_fn" in changed else None
        unsaid = aim(config.hyperparameters) if aim else {}
        played = plain.merge(config.hyperparameters, {**unsaid, **changed})
        model = agents.make_player(dataclasses.replace(config, hyperparameters=played), env)
        _refuse_unplayed(config.algo, changed, getattr(cls, "plays_by", ()))
        agents.load(model, weights)
        return model

    return evaluate(config, player, episodes, **how)


def _refuse_unplayed(algo: str, changed: Mapping[str, Any], plays_by: Sequence[str]) -> None:
    """Raise UserError for a hyperparameter that would change nothing."""
    for name, value in changed.items():
        if name not in plays_by:
            others = f"it plays by {', '.join(plays_by)}" if plays_by else "only an agent that plans takes others"
            raise UserError(
                f"{algo} acts by what it learned, so {name}={plain.shown(value)} would change nothing: {others}"
            )


def evaluate(
    config: RunConfig,
    player: Callable[[VecEnv], BaseAlgorithm],
    episodes: int = 10,
    *,
    deterministic: bool = True,
    render: bool = False,
    video: Path | None = None,
    seed: int = 0,
) -> Evaluation:
    """Play episodes in the environment of a configuration, in a window or into a new .mp4 or .gif file.

    `player` makes the agent for it, and may wrap it. Raises UserError.
    """
    film = _film_format(video)
    video = Path(video).absolute() if video else None  # an environment may go into another folder
    env = envs.make_evaluation(config, "rgb_array" if video else "human" if render else None)
    try:
        model = player(env)
        env = model.get_env() or env
        _show_values(model, env)
        with _film(video, film, env) as filming:
            seed = stream(seed, _PLAYING)
            result = play(model, env, episodes, seed=seed, deterministic=deterministic, before_step=filming)
    finally:
        env.close()
    if result.advice:
        say(result.advice)
    return result


def _show_values(model: BaseAlgorithm, env: VecEnv) -> None:
    """Let an environment that draws action values draw those of an agent that keeps them in a table."""
    show = getattr(envs.monitors(env)[0].unwrapped, "show_values", None)
    if show is not None and isinstance(model, TabularAlgorithm):
        show(model.action_values, model.visits)


def _weights(run: runs.Run, which: str) -> Path:
    names = {"best": (BEST, LAST), "last": (LAST,)}
    limits.word("which", which, tuple(names))
    for name in names[which]:
        if (run.path / name).with_suffix(agents.SUFFIX).exists():
            return run.path / name
    raise UserError(f"the run {str(run.path)!r} has saved no model yet: `{run.resume_command}` goes on with it")


def _limit(env: VecEnv) -> int:
    spec = envs.monitors(env)[0].spec
    limited = envs.layers(env, TimeLimit) or (spec is not None and spec.max_episode_steps)
    return sys.maxsize if limited else EPISODE_LIMIT


def _film_format(video: Path | None) -> dict[str, Any]:
    """Arguments of imageio's writer; raises UserError for a file that is no film, or that is there already."""
    if video is None:
        return {}
    if Path(video).exists():
        raise UserError(f"{str(video)!r} is there already: choose another name for the film")
    if Path(video).suffix == ".gif":
        return {"loop": 0}
    if Path(video).suffix == ".mp4":
        return {"macro_block_size": 2}  # the least that every player shows
    raise UserError(f"the video must end in .mp4 or .gif, got {str(video)!r}")


@contextlib.contextmanager
def _film(video: Path | None, options: dict[str, Any], env: VecEnv) -> Iterator[Callable[[], None]]:
    """What films the environment as it is before a step."""
    if video is None:
        yield lambda: None
        return
    import imageio

    fps: float = env.metadata.get("render_fps") or 30  # type: ignore[assignment]
    options |= {"duration": 1000 / fps} if Path(video).suffix == ".gif" else {"fps": fps}
    Path(video).parent.mkdir(parents=True, exist_ok=True)
    writer, filmed = imageio.get_writer(video, **options), envs.layers(env, Guarded)[0]
    with writer:
        yield lambda: writer.append_data(filmed.render())
