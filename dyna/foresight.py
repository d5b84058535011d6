"""Policies that plan before they act, behind SB3's `predict`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor

from dyna.errors import UserError

Respond = Callable[[Tensor, Tensor, bool, torch.Generator], tuple[Tensor, Tensor] | None]
"""Observations [B, S], what their plans start from [B, ...], whether to draw nothing, and a generator for the search ->
actions [B, A] in [-1, 1] and what the next plans start from [B, ...]; None while there is nothing to plan with."""


class ForesightMixin(BasePolicy):
    """Put before an SB3 policy class, it plans where it can, and leaves the rest to that class.

    The state that `predict` returns is what the next plan starts from.
    """

    respond: Respond
    blank: Tensor  # [1, ...] a start that knows nothing

    def unplanned(self, n: int) -> Tensor:
        """What n plans start from that know nothing [n, ...]."""
        return self.blank.repeat(n, *[1] * (self.blank.dim() - 1))

    def predict(
        self,
        observation: Any,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """SB3's predict; with `deterministic`, every plan draws the same random numbers, else those of torch.

        So then an action does not depend on what else is asked at the same time. Raises UserError for a policy without
        its agent.
        """
        if not hasattr(self, "respond"):
            raise UserError(
                f"a {type(self).__name__} plans with its agent's world model, and this one was made or loaded without "
                "an agent: load the agent and call its predict"
            )
        obs, vectorized = self.obs_to_tensor(observation)
        assert isinstance(obs, Tensor)  # Dict observations are refused
        obs = obs.to(self.blank.device)  # a policy without weights does not know where its agent is
        warm = self.unplanned(len(obs))
        if state is not None:
            warm.copy_(torch.as_tensor(state[0]))
        if episode_start is not None:
            warm[torch.as_tensor(episode_start, device=warm.device)] = self.blank[0]
        each, seed = (1, 0) if deterministic else (len(obs), int(torch.randint(2**62, ())))
        action, after = [], []
        for asked, start in zip(torch.split(obs.float(), each), torch.split(warm, each), strict=True):
            rng = torch.Generator(obs.device).manual_seed(seed)
            response = self.respond(asked, start, deterministic, rng)
            if response is None:
                return super().predict(observation, state, episode_start, deterministic)
            action.append(response[0])
            after.append(response[1])
        actions = self.unscale_action(self.shaped(torch.cat(action)))
        return actions if vectorized else actions[0], (torch.cat(after).cpu().numpy(),)

    def shaped(self, actions: Tensor) -> np.ndarray:
        """Actions [B, A] as `unscale_action` takes them: continuous ones in the shape of their space."""
        values: np.ndarray = actions.cpu().numpy()
        return values.reshape(-1, *self.action_space.shape) if isinstance(self.action_space, spaces.Box) else values
