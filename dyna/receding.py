"""The seam with Stable-Baselines3 of an agent that plans anew at every step, from where the last plan has got to."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dyna.base import DynaMixin
from dyna.foresight import ForesightMixin
from dyna.plan_model import PlanModel


class RecedingHorizonMixin(DynaMixin):
    """Put before an SB3 off-policy class, it remembers what the next plans start from until their episodes end.

    The subclass writes `blank` and `respond`.
    """

    policy: ForesightMixin
    warm_start: Tensor  # [n_envs, ...] what the next plans start from
    _plan_model: PlanModel | None = None
    _plan_stamp: tuple[Any, ...] = ()

    @property
    def plan_dtype(self) -> torch.dtype:
        """Of what planners multiply."""
        return torch.float32

    def blank(self) -> Tensor:
        """What a plan starts from that knows nothing, zeros [1, ...]."""
        raise NotImplementedError

    def respond(
        self, obs: Tensor, warm: Tensor, deterministic: bool, rng: torch.Generator
    ) -> tuple[Tensor, Tensor] | None:
        """Actions [B, A] for observations [B, S] and the next plans' starts [B, ...]; None before the first fit."""
        raise NotImplementedError

    def plan_model(self) -> PlanModel:
        """The world model as planners ask it, made anew once it was fitted, loaded or written to, but by `.data`."""
        model = self.world_model
        # a fused optimiser leaves the versions of weights as they are: of a fit the buffers tell, its count among them
        parts = (*model.parameters(), *model.buffers())
        stamp = (self.plan_dtype, *((id(part), part._version) for part in parts))
        if self._plan_model is None or self._plan_stamp != stamp:
            self._plan_model, self._plan_stamp = PlanModel(model, dtype=self.plan_dtype), stamp
        return self._plan_model

    def leave_episode(self, i: int) -> None:
        """The running episode of environment i is left for a new one, which has no plan yet."""
        self.warm_start[i] = 0.0

    def forget_episodes(self) -> None:
        """New episodes start in all environments."""
        self.warm_start = self.policy.unplanned(self.n_envs)

    def _setup_model(self) -> None:
        super()._setup_model()
        self.policy.respond, self.policy.blank = self.respond, self.blank()
        self.warm_start = self.policy.unplanned(self.n_envs)

    def _setup_learn(self, *args: Any, **kwargs: Any) -> Any:
        going_on = self._last_obs is not None
        result = super()._setup_learn(*args, **kwargs)
        if not going_on or self.num_timesteps == 0 or len(self.warm_start) != self.n_envs:
            self.forget_episodes()
        return result

    def _store_transition(self, replay_buffer: Any, buffer_action: Any, new_obs: Any, *rest: Any) -> None:
        super()._store_transition(replay_buffer, buffer_action, new_obs, *rest)
        _, dones, _ = rest
        self.warm_start[torch.as_tensor(dones, dtype=torch.bool, device=self.device)] = 0.0

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "warm_start", "_plan_model", "_plan_stamp"]
