"""The seam with Stable-Baselines3 for algorithms that keep a table of action values instead of networks."""

from __future__ import annotations

import sys
import time
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import FloatSchedule, safe_mean
from torch import Tensor

from dyna import limits
from dyna.errors import UserError
from dyna.kernels import Doubles, Indices, Random, tabular
from dyna.kernels.tabular import Numbers
from dyna.numbering import Numbering
from dyna.restarts import DROPPED
from dyna.rows import new_stream
from dyna.transition_table import TransitionTable

LARGEST = 100_000_000
"""Action values that a table may have: 0.8 GB, and 6 to 8 GB with a world model of as many pairs."""
_PLAYING = 1  # the policy's stream of random numbers, apart from the learner's


class TablePolicy(BasePolicy):
    """Epsilon-greedy on a table of action values; deterministic, the greedy action, of equal ones the first."""

    table: Tensor
    epsilon: Tensor

    def __init__(
        self, observation_space: spaces.Space[Any], action_space: spaces.Discrete, seed: int | None = None
    ) -> None:
        super().__init__(observation_space, action_space)
        self.number = Numbering(observation_space)
        self.first_action = int(action_space.start)
        states, actions = self.number.n, int(action_space.n)
        if states * actions > LARGEST:
            raise UserError(
                f"a table of {states:,} states and {actions} actions is too large, it may have {LARGEST:,} values: "
                "choose an algorithm with networks (`dyna list algorithms`), or round what is observed"
            )
        self.random = new_stream(np.random.default_rng(None if seed is None else [seed, _PLAYING]))
        # the last row is the end, which is worth nothing
        self.register_buffer("table", torch.zeros(states + 1, actions, dtype=torch.float64))
        self.register_buffer("epsilon", torch.zeros(1, dtype=torch.float64))

    @property
    def values(self) -> Doubles:
        """The action values [S + 1, A], the end's among them: what compiled loops read and write."""
        values: Doubles = self.table.numpy()
        return values

    def predict(
        self,
        observation: Any,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """SB3's predict; an observation may be a Tuple or a Dict too."""
        states = self.number(observation)
        actions = self._act(states.ravel(), deterministic).reshape(states.shape)
        return actions[()], state  # of one observation a number: Gymnasium's environments look it up in a dictionary

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {"observation_space": self.observation_space, "action_space": self.action_space}

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        return torch.from_numpy(self._act(self.number(observation), deterministic))

    def _act(self, states: Indices, deterministic: bool) -> Indices:
        rows = self.values[states]
        if deterministic:
            actions = rows.argmax(axis=1)
        else:
            epsilon = self.epsilon.item()
            actions = np.array([tabular.choose(row, epsilon, self.random) for row in rows], np.int64)
        return np.asarray(actions + self.first_action, np.int64)


class TabularAlgorithm(BaseAlgorithm):
    """Learns a table of action values at every step, acting epsilon-greedily on it.

    A subclass writes `observe`. States are numbered from the observation; the end of the task is one more of them,
    number `self.end`, whose values stay zero. Everything is drawn from `self.random`, seeded by the seed.

    :param policy: TablePolicy, or a subclass of it.
    :param env: Environment, or its Gymnasium id.
    :param learning_rate: Share of the error that an update removes; a number or a schedule.
    :param gamma: Discount.
    :param epsilon: Probability of a random action while learning; a number or a schedule.
    :param stats_window_size: Episodes over which logged returns and lengths are averaged.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"TablePolicy": TablePolicy}
    policy: TablePolicy
    random: Random
    updates: dict[str, int]

    def __init__(
        self,
        policy: str | type[TablePolicy] = "TablePolicy",
        env: GymEnv | str | None = None,
        learning_rate: float | Schedule = 0.1,
        gamma: float = 0.99,
        epsilon: float | Schedule = 0.1,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        if str(device) not in ("auto", "cpu"):
            raise UserError(f"a table is kept on the CPU, got device={str(device)!r}: leave it out")
        if isinstance(policy, str) and policy not in self.policy_aliases:
            raise UserError(f"policy must be {' or '.join(self.policy_aliases)}, got {policy!r}")
        if not 0.0 <= gamma <= 1.0:
            raise UserError(f"gamma must be in [0, 1], got {gamma}")
        for name, value in (("learning_rate", learning_rate), ("epsilon", epsilon)):
            if isinstance(value, (int, float)) and not 0.0 <= value <= 1.0:
                raise UserError(f"{name} must be in [0, 1], got {value}")
        super().__init__(
            policy,
            env,
            learning_rate,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device="cpu",
            support_multi_env=True,
            seed=seed,
            supported_action_spaces=(spaces.Discrete,),
        )
        self.gamma, self.epsilon = gamma, epsilon
        self.updates = {"critic": 0, "actor": 0, "model": 0, "distil": 0, "plans": 0}
        if _init_setup_model:
            self._setup_model()

    def observe(self, state: int, action: int, reward: float, next_state: int, learning_rate: float) -> None:
        """Learn from one step; actions count from 0, and the next state is `self.end` where the task ended."""
        raise NotImplementedError

    def preferences(self, state: int) -> Doubles:
        """What exploration is greedy on [A]: the action values."""
        values: Doubles = self.policy.values[state]
        return values

    @property
    def end(self) -> int:
        """The number of the state that all ends are."""
        return self.policy.number.n

    @property
    def action_values(self) -> Doubles:
        """The action values [S, A]."""
        return self.policy.values[: self.end]

    @property
    def visits(self) -> Numbers | None:
        """How often each action was tried in each state [S, A], where the algorithm remembers that."""
        return None

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 100,
        tb_log_name: str = "table",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> TabularAlgorithm:
        """SB3's learn; every step is a rollout of its own. `log_interval` counts episodes."""
        total, callback = self._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        callback.on_training_start(locals(), globals())
        going_on = True
        while going_on and self.num_timesteps < total:
            callback.on_rollout_start()
            going_on = self._step(callback, log_interval)
            callback.on_rollout_end()
        callback.on_training_end()
        return self

    def _step(self, callback: BaseCallback, log_interval: int | None) -> bool:
        """One step of every environment, learnt from; returns whether the callbacks want another."""
        assert self.env is not None
        epsilon = self._epsilon_schedule(self._current_progress_remaining)
        states = self.policy.number(self._last_obs)
        actions = [tabular.choose(self.preferences(state), epsilon, self.random) for state in states]
        obs, rewards, dones, infos = self.env.step(np.array(actions) + self.policy.first_action)
        self.num_timesteps += self.n_envs
        callback.update_locals(locals())
        if not callback.on_step():
            return False
        self._update_info_buffer(infos, dones)
        self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
        learning_rate = self.lr_schedule(self._current_progress_remaining)
        next_states = self._next_states(obs, dones, infos)
        for i, info in enumerate(infos):
            if DROPPED not in info:  # a step that an environment failed to make is none
                self.observe(int(states[i]), actions[i], float(rewards[i]), int(next_states[i]), learning_rate)
        self._last_obs, self._last_episode_starts = obs, dones  # type: ignore[assignment]
        self.policy.epsilon.fill_(epsilon)
        for _ in range(int(dones.sum())):
            self._episode_num += 1
            if log_interval is not None and self._episode_num % log_interval == 0:
                self.dump_logs()
        return True

    def _next_states(self, obs: Any, dones: np.ndarray, infos: list[dict[str, Any]]) -> Indices:
        """The states that the steps led to; the environments that are done have been reset already."""
        next_states = self.policy.number(obs)
        for i in np.flatnonzero(dones):
            timeout = infos[i].get("TimeLimit.truncated", False)  # bootstraps: Pardo et al. 2018
            next_states[i] = self.policy.number(infos[i]["terminal_observation"]) if timeout else self.end
        return next_states

    def dump_logs(self) -> None:
        """Write what SB3 writes about episodes, and how much is known of the environment."""
        assert self.ep_info_buffer is not None
        seconds = max((time.time_ns() - self.start_time) / 1e9, sys.float_info.epsilon)
        if self.ep_info_buffer:
            self.logger.record("rollout/ep_rew_mean", safe_mean([info["r"] for info in self.ep_info_buffer]))
            self.logger.record("rollout/ep_len_mean", safe_mean([info["l"] for info in self.ep_info_buffer]))
        self.logger.record("rollout/exploration_rate", self.policy.epsilon.item())
        self.logger.record("time/episodes", self._episode_num, exclude="tensorboard")
        self.logger.record("time/fps", int((self.num_timesteps - self._num_timesteps_at_start) / seconds))
        self.logger.record("time/time_elapsed", int(seconds), exclude="tensorboard")
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.record("train/n_updates", self.updates["critic"], exclude="tensorboard")
        self.logger.dump(step=self.num_timesteps)

    def set_random_seed(self, seed: int | None = None) -> None:
        """SB3's, and the stream from which this algorithm draws."""
        super().set_random_seed(seed)
        self.random = new_stream(np.random.default_rng(seed))

    def _setup_model(self) -> None:
        if getattr(self, "observation_space", None) is None:
            raise UserError(f"{type(self).__name__} needs an environment, got env=None: pass one, or its Gymnasium id")
        self._setup_lr_schedule()
        self._epsilon_schedule = FloatSchedule(self.epsilon)
        self.set_random_seed(self.seed)
        self.policy = self.policy_class(self.observation_space, self.action_space, self.seed)  # type: ignore[assignment]
        self.policy.epsilon.fill_(self._epsilon_schedule(self._current_progress_remaining))

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy"], []


class TabularDyna(TabularAlgorithm):
    """A tabular algorithm with a world model, the table of what was seen.

    :param memory: What the model keeps of an action in a state: counts of all that followed, or the last outcome alone.
    """

    world_model: TransitionTable

    def __init__(
        self,
        policy: str | type[TablePolicy] = "TablePolicy",
        env: GymEnv | str | None = None,
        memory: Literal["counts", "last"] = "counts",
        **tabular_algorithm: Any,
    ) -> None:
        limits.word("memory", memory, ("counts", "last"))
        self.memory = memory
        super().__init__(policy, env, **tabular_algorithm)

    @property
    def visits(self) -> Numbers | None:
        visits: Numbers = self.world_model.arrays.visits.reshape(self.action_values.shape)
        return visits

    @property
    def world_model_metrics(self) -> dict[str, float]:
        """How much is known of the environment."""
        return self.world_model.metrics()

    def dump_logs(self) -> None:
        """Besides, how much the world model knows."""
        for name, value in self.world_model_metrics.items():
            self.logger.record(f"world_model/{name}", value)
        super().dump_logs()

    def _setup_model(self) -> None:
        super()._setup_model()
        states, actions = self.action_values.shape
        self.world_model = TransitionTable(states, actions, latest=self.memory == "last")

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "world_model"], []
