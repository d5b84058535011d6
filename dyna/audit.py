"""What users say of their environment, a reward and a termination function, held against what the environment did."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from dyna import files
from dyna.errors import UserError
from dyna.types import Transitions

if TYPE_CHECKING:
    from dyna.world_model import GaussianEnsemble

FILE = "world_model_audit.csv"
LISTED = 1_000  # transitions at most: a function that is wrong everywhere must not fill the disk
TOLERATED = 0.01  # share of the ends, and of the other steps, on which rounding may let a right function disagree
EXACT = 1e-2  # of the spread of what was seen: disagreement begins there
ROUNDING = 1e-5  # of a value itself: float32 in the buffer, maybe float64 in the environment


class Audit(NamedTuple):
    """One function beside the environment, row by row."""

    name: str  # reward_fn or termination_fn
    given: Tensor  # [B] what the function returned
    seen: Tensor  # [B] what the environment did
    wrong: Tensor  # [B] bool, where they disagree

    @property
    def sentence(self) -> str:
        """How many transitions disagree, and the first of them."""
        row = int(self.wrong.nonzero()[0])
        return (
            f"{self.name} disagrees with the environment on {int(self.wrong.sum())} of {len(self.wrong)} transitions "
            f"(the first: {float(self.given[row]):.4g} against {float(self.seen[row]):.4g}; actions come in [-1, 1])"
        )


def called(
    name: str, function: Callable[[Tensor, Tensor, Tensor], Tensor], obs: Tensor, action: Tensor, next_obs: Tensor
) -> Tensor:
    """What a user's function returns [B], in the dtype of obs [B, S]; raises UserError where it raises or misfits."""
    try:
        given = function(obs, action, next_obs)
    except Exception as error:  # the user's code
        inputs = f"tensors of shape {tuple(obs.shape)}, {tuple(action.shape)} and {tuple(next_obs.shape)}"
        raise UserError(f"{name} raised {type(error).__name__}: {error} (it was given {inputs}): mend it") from error
    if not isinstance(given, Tensor) or given.shape != obs.shape[:1]:
        got = str(tuple(given.shape)) if isinstance(given, Tensor) else f"a {type(given).__name__}"
        raise UserError(f"{name} must return a tensor of shape {tuple(obs.shape[:1])}, got {got}: one value a row")
    return given.to(obs)


def compare(model: GaussianEnsemble, data: Transitions) -> list[Audit]:
    """Each function that the user gave, beside the data [B, .]; raises UserError as `called` does."""
    obs, action, reward, next_obs, terminated = data
    pairs = (("reward_fn", model.reward_fn, reward), ("termination_fn", model.termination_fn, terminated))
    found = []
    for name, function, seen in pairs:
        if function is not None:
            given = called(name, function, obs, action, next_obs)
            tolerance = EXACT * (float(seen.std(correction=0)) or 1.0) + ROUNDING * seen.abs()
            found.append(Audit(name, given, seen, ~((given - seen).abs() <= tolerance)))  # NaN disagrees too
    return found


def refuse(audits: Sequence[Audit], terminated: Tensor, listed: Path | None = None) -> None:
    """Raise UserError where a function is wrong on a hundredth of the ends, or of the other steps: terminated [B]."""
    for each in audits:
        for group in (terminated > 0, terminated == 0):
            if group.any() and each.wrong[group].float().mean() > TOLERATED:
                where = f"; {listed} lists them" if listed else ""
                raise UserError(f"{each.sentence}: correct it, or leave it out to learn it{where}")


def write(audits: Sequence[Audit], data: Transitions, path: Path, obs: Sequence[str], action: Sequence[str]) -> None:
    """List the transitions that functions disagree on, 1,000 a function at most; raises OSError.

    `obs` [S] and `action` [A] say what each number is called.
    """
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["function", "row", "given", "seen", *obs, *action, *(f"next {name}" for name in obs)])
    for each in audits:
        for row in each.wrong.nonzero().flatten().tolist()[:LISTED]:
            values = torch.cat([data.obs[row], data.action[row], data.next_obs[row]])
            lines.writerow([each.name, row, float(each.given[row]), float(each.seen[row]), *values.tolist()])
    files.replace(path, text.getvalue())
