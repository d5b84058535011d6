"""The seam with Stable-Baselines3: an off-policy algorithm whose buffer also dreams."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from torch import Tensor

from dyna import audit, envs, generators, limits
from dyna.allowances import Carry
from dyna.buffers import ImaginedBuffer, MixedReplay, PackedReplayBuffer
from dyna.errors import UserError
from dyna.imagination import horizon_error, imagine
from dyna.spaces import is_image, names
from dyna.truncation import RejectAll, Truncation, truncation
from dyna.types import Transitions
from dyna.world_model import EnsembleSettings, GaussianEnsemble, KnownReward, KnownTermination

EARLY_UPDATES = 2_000  # while a step still tells much that is new, none of its updates is left out
FIRST_ROWS = 20  # transitions that the first fit waits for
STARTS_AT_ONCE = 10_000  # rollouts imagined side by side, for the sake of memory
RESCORED_STEPS = 5  # depth to which predictions are held against real steps that came later

log = logging.getLogger("dyna")
SelfDyna = TypeVar("SelfDyna", bound="DynaMixin")


def with_actions(env: GymEnv | str | None, kind: type[spaces.Space[Any]], otherwise: str) -> Any:
    """The environment, made where only its id was given, and None while SB3 loads, which its types do not tell.

    Raises UserError where its actions are of another kind.
    """
    made = maybe_make_env(cast(Any, env), 0)
    if made is not None and not isinstance(made.action_space, kind):
        raise UserError(f"{kind.__name__} actions are needed, got {made.action_space}: {otherwise}")
    return made


def _of_the_model(seed: int | None) -> int:
    """The seed from which a model draws; of None, one that nobody foretells."""
    return int(np.random.SeedSequence(seed).generate_state(1)[0])


class DynaMixin(OffPolicyAlgorithm):
    """Put before an SB3 off-policy class, it adds a world model, imagined replay and what a checkpoint needs of them.

    `learn`, `collect_rollouts`, `predict`, callbacks and `VecEnv` stay SB3's. The subclass writes `train` and
    `imagination_policy`, calls `settle` before SB3's constructor, then `refit` and `dream` as its paper does. Where
    other classes are to say when its updates are made, these alone are in `teach`.

    :param replay_buffer_class: A PackedReplayBuffer, or a class of yours that is one.
    """

    lives_by_model: ClassVar[bool] = False
    """Whether nothing is learned where nothing is imagined."""
    not_to_be_set: ClassVar[dict[str, tuple[Any, str]]] = {
        "n_steps": (1, "learns from one-step transitions"),
        "use_sde": (False, "does not explore by gSDE"),
        "use_sde_at_warmup": (False, "does not explore by gSDE"),
        "sde_sample_freq": (-1, "does not explore by gSDE"),
        "optimize_memory_usage": (False, "packs its replay already"),
    }
    """SB3's arguments that cannot be set: by name the value that each has, and why."""

    late_updates: float = 1.0
    """Share of its updates that a learner makes, evenly, after the first 2,000."""

    replay_buffer: PackedReplayBuffer
    model_every: int
    pace: Carry
    updates: dict[str, int]
    world_model_metrics: dict[str, float]

    def settle(
        self,
        *,
        world_model: EnsembleSettings,
        truncate: str | Mapping[str, Any] | Truncation,
        real_share: float,
        imagined_capacity: int,
        reward_fn: KnownReward | None,
        termination_fn: KnownTermination | None,
    ) -> None:
        """Check and keep the settings that the set-up needs; raises UserError."""
        limits.check({"real_share": real_share})
        if not isinstance(world_model, EnsembleSettings):
            raise UserError(f"world_model must be EnsembleSettings, got {world_model!r:.80}")
        for name, function in {"reward_fn": reward_fn, "termination_fn": termination_fn}.items():
            if not (function is None or callable(function)):
                raise UserError(f"{name} must be a function, got {function!r:.80}")
        self.world_model_settings = world_model
        self.truncate = truncation(truncate)
        if world_model.elites < (least := getattr(self.truncate, "least_members", 1)):
            raise UserError(
                f"truncate={type(self.truncate).__name__} compares the members that imagination believes: "
                f"world_model.elites must be at least {least}, got {world_model.elites}"
            )
        self.real_share = real_share
        self.imagined_capacity = imagined_capacity
        self.reward_fn, self.termination_fn = reward_fn, termination_fn
        self.updates = {"critic": 0, "actor": 0, "model": 0, "distil": 0, "plans": 0}
        self.world_model_metrics = {}
        self._fitted_at: int | None = None  # step of the last fit, below 0 where it was before steps were counted anew

    def imagination_policy(self, obs: Tensor) -> Tensor:
        """The action that imagination takes: obs [B, S] -> [B, A] in [-1, 1], drawn from `self.rng`."""
        raise NotImplementedError

    def refit(self) -> None:
        """Fit the world model, and tell the learner what it must know of the data."""
        self.fit_world_model()

    def teach(self, updates: int, batch_size: int) -> None:
        """Make so many updates of the learner."""
        raise NotImplementedError

    def paced(self, updates: int) -> int:
        """How many of so many updates a learner that is always on makes now."""
        return updates if self._n_updates < EARLY_UPDATES else self.pace.whole(self.late_updates * updates)

    @property
    def dreams(self) -> bool:
        """Whether imagined rows can ever reach the learner."""
        return self.real_share < 1.0 and not isinstance(self.truncate, RejectAll)

    def fit_interval(self) -> int:
        """Environment steps from the last fit of the world model to the next."""
        return self.model_every

    def is_fit_due(self) -> bool:
        """Whether the time has come for the next fit of the world model."""
        return self.may_fit(self.fit_interval())

    def may_fit(self, every: int) -> bool:
        """Whether `every` environment steps have passed since the last fit, and there is enough to learn from."""
        if not self.dreams or len(self.replay_buffer) < max(self.learning_starts, FIRST_ROWS):
            return False
        return self._fitted_at is None or self.num_timesteps - self._fitted_at >= every

    def count_anew(self, back: int) -> None:
        """Another call of `learn` counts steps so many lower, from zero; the replay is what it was."""
        if self._fitted_at is not None:
            self._fitted_at -= back

    def lessons(self, rows: int) -> Tensor | None:
        """From which of so many real transitions, oldest first, the heads of the model learn, [B, 3]; None is all."""
        return None

    @property
    def known_steps(self) -> int:
        """How many of the newest real steps are of the dynamics as they are, as far as is known."""
        stored = len(self.replay_buffer)
        lessons = self.lessons(stored)
        return stored if lessons is None else int(lessons[:, 0].sum())

    @property
    def unchanged_steps(self) -> int | None:
        """How many of the newest real steps are of the world as it is in every respect; None is all."""
        return None

    def fit_world_model(self) -> None:
        """Refit the ensemble on all real transitions and measure the truncation rule's thresholds on them.

        Before that, the old model is held against what it has not seen: error and calibration by depth. Raises
        UserError where an exact reward or end disagrees with the data, RunFailed where these are not finite, Diverged
        where the loss is not.
        """
        data = self.replay_buffer.all_transitions()
        self._rescore(data)
        self._audit(data)
        self._fitted_at = self.num_timesteps
        lessons, n_envs = self.lessons(len(data.obs)), self.replay_buffer.n_envs
        self.world_model_metrics = self.world_model.fit(data, rng=self.rng, lessons=lessons, n_envs=n_envs)
        self.updates["model"] += int(self.world_model_metrics["updates"])
        self.truncate.calibrate(self.world_model, data, self.imagination_policy, rng=self.rng)
        for name, value in self.world_model_metrics.items():
            self.logger.record(f"world_model/{name}", value)

    def dream(self, starts: int, horizon: int, keep_versions: int) -> None:
        """Imagine from `starts` real observations; rows of all but the newest `keep_versions` models are dropped.

        Raises Diverged where what is imagined is not finite.
        """
        self.imagined.drop_older_than(self.world_model.version - keep_versions + 1)
        made = 0
        for start in torch.split(self.replay_buffer.sample_obs(starts), STARTS_AT_ONCE):
            rows = imagine(self.world_model, self.imagination_policy, start, horizon, self.truncate, rng=self.rng)
            self.imagined.add(rows)
            made += len(rows.obs)
            if len(rows.obs):
                self.logger.record_mean("imagination/uncertainty", float(rows.uncertainty.mean()))
                self.logger.record_mean("imagination/terminated", float(rows.terminated.mean()))
        self.logger.record("imagination/rows", made)
        self.logger.record("imagination/rows_per_start", made / starts)

    def _audit(self, data: Transitions) -> None:
        """Hold the user's exact functions against the data, and list in the run folder where they disagree."""
        found = audit.compare(self.world_model, data)
        if not found or self.logger.dir is None:
            return
        listed = Path(self.logger.dir) / audit.FILE
        observed = envs.before_flattening(self.get_env(), self.observation_space)
        audit.write(found, data, listed, names(observed), names(self.action_space, "action"))
        audit.refuse(found, data.terminated, listed)
        for each in found:
            if each.wrong.any() and not self.world_model_metrics.get(f"{each.name}_disagreements"):
                log.warning("%s: %s lists them", each.sentence, listed)

    def _rescore(self, data: Transitions) -> None:
        newest = 0 if self._fitted_at is None else max(0, self.num_timesteps - self._fitted_at)
        seen = max(0, len(data.obs) - newest)
        rows = data.at(slice(seen, None)).windows(RESCORED_STEPS, self.replay_buffer.n_envs) + seen
        if len(rows):
            error = horizon_error(self.world_model, data.at(rows))
            for name, value in error.metrics().items():
                self.logger.record(name, value)

    def extra_state(self) -> dict[str, Any]:
        """What a checkpoint holds beyond SB3's own: nested dict of tensors, arrays, numbers and strings."""
        return {
            "imagined": self.imagined.state_dict(),
            "replay": self.replay.state_dict(),
            "truncate": self.truncate.state_dict(),
            "rng": self.rng.get_state(),
            "fitted_at": self._fitted_at,
            "updates": dict(self.updates),
            "owed": self.pace.owed,
            "world_model_metrics": dict(self.world_model_metrics),
        }

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what `extra_state` returned."""
        self.imagined.load_state_dict(state["imagined"])
        self.replay.load_state_dict(state["replay"])
        self.truncate.load_state_dict(state["truncate"])
        generators.set_torch(self.rng, state["rng"])
        self._fitted_at = state["fitted_at"]
        self.updates = dict(state["updates"])
        self.pace.owed = state.get("owed", state.get("pace", {}).get("owed", 0.0))  # all updates were made once
        self.world_model_metrics = dict(state["world_model_metrics"])

    def set_random_seed(self, seed: int | None = None) -> None:
        """As SB3's, which it calls; the model, imagination and both kinds of replay draw anew from the seed, too."""
        super().set_random_seed(seed)
        if seed is not None and hasattr(self, "rng"):  # SB3 calls it first while it is being set up
            self.rng.manual_seed(_of_the_model(seed))
            self.imagined.reseed(np.random.default_rng(_of_the_model(seed)))
            self.replay_buffer.reseed(None)  # SB3 has seeded NumPy's global generator

    def load_replay_buffer(self, path: Any, truncate_last_traj: bool = True) -> None:
        """As SB3's; raises UserError for a buffer of another class, or of other environments."""
        mine = self.replay_buffer
        super().load_replay_buffer(path, truncate_last_traj)
        loaded, self.replay_buffer = self.replay_buffer, mine
        if not isinstance(loaded, PackedReplayBuffer):
            raise UserError(f"a PackedReplayBuffer is needed, {path} holds a {type(loaded).__name__}")
        ours, theirs = ((each.n_envs, *each.row_sizes) for each in (mine, loaded))
        if ours != theirs:
            raise UserError(
                f"{path} holds steps of (environments, numbers of an observation and of an action) {theirs}, the agent "
                f"has {ours}: give it such environments first"
            )
        self.replay_buffer = self.replay.real = loaded

    def _setup_model(self) -> None:
        self._refuse_what_does_not_fit()
        super()._setup_model()
        # the model draws from generators of its own: the learner's stream of numbers stays SB3's, draw for draw
        seed = _of_the_model(self.seed)
        self.rng = torch.Generator(device=self.device).manual_seed(seed)
        obs_size, action_size = spaces.flatdim(self.observation_space), spaces.flatdim(self.action_space)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.world_model = GaussianEnsemble(
                obs_size,
                action_size,
                self.world_model_settings,
                reward_fn=self.reward_fn,
                termination_fn=self.termination_fn,
                device=self.device,
            )
        self.imagined = ImaginedBuffer(
            self.imagined_capacity, obs_size, action_size, device=self.device, rng=np.random.default_rng(seed)
        )
        self.replay = MixedReplay(self.replay_buffer, self.imagined, self.real_share)
        self.pace = Carry()

    def learn(
        self: SelfDyna,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfDyna:
        """As SB3's; where no `tb_log_name` is given, TensorBoard's folder bears the name of the class."""
        name = tb_log_name or type(self).__name__
        return super().learn(total_timesteps, callback, log_interval, name, reset_num_timesteps, progress_bar)

    def _setup_learn(self, *args: Any, **kwargs: Any) -> Any:
        kept, needed = self.replay_buffer.buffer_size, -(-max(self.learning_starts, FIRST_ROWS) // self.n_envs)
        if self.dreams and kept < needed:
            raise UserError(
                f"buffer_size must be at least {needed * self.n_envs}, for the world model is first fitted to as many "
                f"steps (learning_starts={self.learning_starts}), got {self.buffer_size}"
            )
        before = self.num_timesteps
        result = super()._setup_learn(*args, **kwargs)
        if (back := before - self.num_timesteps) > 0:
            self.count_anew(back)
        return result

    def _refuse_what_does_not_fit(self) -> None:
        name, space = type(self).__name__, getattr(self, "observation_space", None)
        if space is None:
            raise UserError(f"{name} needs an environment, got env=None: pass one, or its Gymnasium id")
        fitting = tuple(self.policy_aliases.values())
        if fitting and not issubclass(self.policy_class, fitting):
            kinds = " or ".join(sorted({kind.__name__ for kind in fitting}))
            raise UserError(f"policy must be MlpPolicy or a {kinds}, got {self.policy_class.__name__}")
        limits.check(vars(self))
        if self.gradient_steps == 0:
            raise UserError(f"{name} learns nothing without updates, got gradient_steps=0: leave it out")
        if self.lives_by_model and not self.dreams:
            raise UserError(
                f"{name} learns nothing without its world model, got real_share={self.real_share} and "
                f"truncate={type(self.truncate).__name__}: a real_share below 1 and another rule let it imagine"
            )
        if is_image(space):
            raise UserError(
                f"{name} takes no images, got {space}: flatten a small one by gymnasium.wrappers.FlattenObservation"
            )
        if not isinstance(space, spaces.Box) or len(space.shape) != 1:
            raise UserError(
                f"{name} takes flat Box observations, got {space}: wrap the environment in dyna.spaces.learnable"
            )
        if self._vec_normalize_env is not None:
            raise UserError(
                f"{name} normalises inside its model, got an environment in VecNormalize: pass it unwrapped"
            )
        for setting, (value, reason) in self.not_to_be_set.items():
            if (got := getattr(self, setting)) != value:
                raise UserError(f"{name} {reason}, got {setting}={got}: leave it out")
        if self.replay_buffer_class is None:
            self.replay_buffer_class = PackedReplayBuffer
        if not issubclass(self.replay_buffer_class, PackedReplayBuffer):
            raise UserError(f"{name} needs a PackedReplayBuffer, got {self.replay_buffer_class.__name__}: leave it out")

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        names, tensors = super()._get_torch_save_params()
        return [*names, "world_model"], tensors

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "world_model", "imagined", "replay", "rng", "pace"]
