"""Windows of steps that are under way: a plan's promise waits here for its outcome."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from dyna.packed import PackedReplayBuffer
from dyna.types import Transitions

NONE = -1  # age of an environment's window where none is under way


class Closed(NamedTuple):
    """Windows of equal length that have just ended."""

    envs: Tensor  # [W] int64, the environments in which
    length: int  # steps; fewer than the horizon where an episode ended
    planned: Tensor  # [W] J_plan
    policy: Tensor  # [W] J_pi; NaN where no plan was made


class Windows:
    """One window an environment at most; the next begins after the last has ended, so that they never overlap."""

    def __init__(self, n_envs: int, horizon: int, device: torch.device | str = "cpu") -> None:
        self.horizon = horizon
        self.age = torch.full((n_envs,), NONE)
        self.planned = torch.zeros(n_envs, device=device)
        self.policy = torch.zeros(n_envs, device=device)

    def waiting(self) -> Tensor:
        """The environments [W] in which none is under way."""
        return (self.age == NONE).nonzero().squeeze(1)

    def under_way(self) -> Tensor:
        """Where one is, bool [n_envs]."""
        return self.age != NONE

    def begin(self, envs: Tensor, planned: Tensor, policy: Tensor) -> None:
        """Windows in some environments [W], with what is promised of them [W]."""
        self.age[envs.cpu()] = 0
        self.planned[envs], self.policy[envs] = planned, policy

    def advance(self, done: Tensor) -> list[Closed]:
        """One more step of every environment, with which some episodes ended (bool [n_envs]); what it closes."""
        self.age[self.under_way()] += 1
        ended = self.under_way() & (done | (self.age == self.horizon))
        closed = []
        for length in sorted(set(self.age[ended].tolist())):
            envs = (ended & (self.age == length)).nonzero().squeeze(1)
            closed.append(Closed(envs, length, self.planned[envs], self.policy[envs]))
        self.age[ended] = NONE
        return closed

    def drop(self, envs: Tensor | slice | int = slice(None)) -> None:
        """Forget the windows of one, some or all environments: their outcome would not be that of their promise."""
        self.age[envs] = NONE

    def state_dict(self) -> dict[str, Any]:
        """What is under way."""
        return {"age": self.age, "planned": self.planned, "policy": self.policy}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for name, value in state.items():
            getattr(self, name).copy_(value)


def newest_steps(replay: PackedReplayBuffer, closed: Closed) -> Transitions:
    """The last steps [length, W, .] of the environments of windows that have just ended, oldest first."""
    ago = torch.arange(closed.length - 1, -1, -1)[:, None]
    slots = (replay.pos - 1 - ago) % replay.buffer_size
    rows = slots * replay.n_envs + closed.envs.cpu()
    steps = replay.gather(rows.flatten().numpy())
    return Transitions(*(part.view(*rows.shape, *part.shape[1:]) for part in steps))
