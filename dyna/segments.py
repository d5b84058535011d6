"""Real steps that imagined ones are led along, by the noise with which the model would have made them.

A policy finds the states in which its model errs to its favour. What really came of a step is what the model expects
of it and its noise (Heess et al. 2015, 1510.09142, section 4). Where an imagined step has the noise of a real one, the
same action comes to the same state, whatever the model errs, and another departs from it as far as the model says that
actions matter (Fröhlich et al. 2022, "On-Policy Model Errors in Reinforcement Learning", 2110.07985).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from dyna.world_model import GaussianEnsemble

NEWEST = 2_000  # steps, among which half of all segments begin, for today's policy is near them: before, none are led
MOST_UNLIKELY = 5.0  # standard deviations: more than that is no noise, and would not come again elsewhere


class Segments(NamedTuple):
    """H successive steps of the environment from each of B states on."""

    obs: Tensor  # [H, B, S] env units
    action: Tensor  # [H, B, A] in [-1, 1]
    next_obs: Tensor  # [H, B, S] env units
    real: Tensor  # [H, B] bool: the step was made in the episode of the first one; the rest of the row means nothing

    @property
    def start(self) -> Tensor:
        """[B, S]."""
        return self.obs[0]

    def begun_at(self, obs: Tensor, rows: Tensor) -> Segments:
        """The same, but rows [b] begin at obs [b, S], from where nothing is known to follow."""
        begun, real = self.obs.clone(), self.real.clone()
        begun[0, rows], real[:, rows] = obs, False
        return self._replace(obs=begun, real=real)

    def first(self, length: int) -> Segments:
        """So many steps of each, from its start on."""
        return Segments(*(part[:length] for part in self))

    @torch.no_grad()
    def noise(self, model: GaussianEnsemble) -> Tensor:
        """The noise [H, B, S], in standard deviations, with which the member whose turn it is makes these steps.

        Of B rows, a multiple of the members E, each has B / E at a time (`dealt`). After the last real step there is
        none: what is expected comes.
        """
        members = model.settings.members
        obs, action, next_obs = (
            torch.cat([dealt(rows, members, t) for t, rows in enumerate(part)], 1) for part in self[:3]
        )
        state = model.state_head(model.normalise_input(obs, action))
        std = (0.5 * state.log_var).exp() * model.y_std[:-1]
        noise = ((next_obs - model.next_obs(obs, state.mean)) / std).clamp_(-MOST_UNLIKELY, MOST_UNLIKELY)
        steps = [collected(parts, t) for t, parts in enumerate(noise.chunk(len(self.obs), 1))]
        return torch.where(self.real.unsqueeze(2), torch.stack(steps), 0.0)


@dataclass(frozen=True, eq=False)
class Trail:
    """States that a rollout came to along real steps, and these steps: where further rollouts begin, and lead along."""

    imagined: Tensor  # [N, S] env units
    place: Tensor  # [N] of each in the segments: step B + row
    obs: Tensor  # [H, B, S] as all below, the segments'
    action: Tensor  # [H, B, A]
    next_obs: Tensor  # [H, B, S]
    real: Tensor  # [H, B]

    @classmethod
    def of(cls, obs: Tensor, alive: Tensor, segments: Segments) -> Trail:
        """The states [T, B, S] of a rollout that are more likely to be alive than not, by `alive` [T, B]."""
        place = (alive.flatten() > 0.5).nonzero().squeeze(1)
        return cls(obs.flatten(0, 1)[place], place, *segments)

    def sample(self, rows: int, length: int, *, rng: torch.Generator) -> tuple[Tensor, Segments]:
        """[rows, S] of the states, uniform with replacement, and the `length` real steps that each is led along.

        Raises IndexError where no so many steps follow a state in the segments.
        """
        drawn = torch.randint(len(self.place), (rows,), generator=rng, device=rng.device)
        place, step = self.place[drawn], torch.arange(length, device=rng.device).unsqueeze(1)
        steps, row = place // self.real.shape[1] + step, place % self.real.shape[1]
        parts = self.obs, self.action, self.next_obs, self.real
        return self.imagined[drawn], Segments(*(part[steps, row] for part in parts))


def dealt(rows: Tensor, members: int, turn: int = 0) -> Tensor:
    """The rows [B, .] by the members that take them, [E, B/E, .]; from turn to turn a part goes to the next member."""
    parts = rows.view(members, -1, rows.shape[1])
    return parts.roll(turn, 0) if turn else parts


def collected(parts: Tensor, turn: int = 0) -> Tensor:
    """What was dealt, [E, b, .] -> [E b, .]."""
    return (parts.roll(-turn, 0) if turn else parts).flatten(0, 1)


def draw_ages(rows: int, known: int, rng: torch.Generator) -> Tensor:
    """How many steps ago [rows] segments begin: half of them among the newest, the others among all that are known."""
    newest, age = torch.rand(2, rows, generator=rng, device=rng.device, dtype=torch.float64)
    ages: Tensor = (age * torch.where(newest < 0.5, min(known, NEWEST), known)).long()
    return ages
