"""Whether a training is still made of numbers: looked at after every `train()`, and before anything is saved."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import recursive_getattr
from torch import Tensor

from dyna import agents
from dyna.errors import Diverged

_CAUSES = ("train/ent_coef", "train/ent_coef_loss", "train/critic_loss", "train/value_loss")
"""Losses that several parts make NaN at once, those first that ask the fewest."""
WHOLE = "policy"
_PARTS = {
    "world_model": "world model",
    "ent_coef_loss": "actor",  # SAC's asks the actor for its entropy, and the temperature, which is judged itself
    "ent_coef": "temperature",
    "critic": "critic",
    "q_net": "critic",
    "quantile": "critic",
    "value": "critic",
    "actor": "actor",
    "policy_": "actor",
    "action_net": "actor",
    "log_std": "actor",
}
"""What SB3's and our names of losses and weights say of the part that they belong to, the surest first."""


class Health:
    """Looks at a model's losses and weights; the learner's own at every look, all of them when asked."""

    def __init__(self, model: BaseAlgorithm) -> None:
        self._model = model
        self._weights = _weights(model)
        # a world model is judged by its fits; the learner changes with every update
        self._learner = [weight for name, weight in self._weights.items() if not name.startswith("world_model")]

    def check(self) -> None:
        """Raise Diverged, naming the part, where a loss that was logged last or a weight is not finite."""
        logged = self._model.logger.name_to_value
        wrong = [name for name, value in logged.items() if _tells(name, value) and not math.isfinite(value)]
        if wrong:
            name = min(wrong, key=lambda name: _CAUSES.index(name) if name in _CAUSES else len(_CAUSES))
            if part(name) == WHOLE:  # a loss that belongs to several parts
                self.check_all()
            raise Diverged(part(name), f"{name} is {logged[name]}")
        if not _are_finite(self._learner):
            self.check_all()

    def check_all(self) -> None:
        """Raise Diverged, naming the part, where any weight is not finite."""
        for name, weight in self._weights.items():
            if not torch.isfinite(weight).all():
                raise Diverged(part(name), f"its weights {name} are not finite")


def part(name: str) -> str:
    """The part of the learner that a loss or a weight belongs to."""
    inside = name.removeprefix("train/").removeprefix("policy.")
    return next((part for word, part in _PARTS.items() if word in inside), WHOLE)


def _tells(name: str, value: Any) -> bool:
    """Whether a logged value should be finite: PPO's explained variance, for one, may be NaN."""
    told = name.startswith("train/") and ("loss" in name or "ent_coef" in name or "objective" in name)
    return told and isinstance(value, (float, np.floating))


def _are_finite(weights: list[Tensor]) -> bool:
    """One pass, and on a GPU one wait; huge weights may be taken for infinite ones."""
    return (
        bool(torch.isfinite(torch.stack([weight.sum(dtype=torch.float32) for weight in weights])).all())
        if weights
        else True
    )


def _weights(model: BaseAlgorithm) -> dict[str, Tensor]:
    found = {
        f"{name}.{key}": weight.detach()
        for name, module in agents.modules(model).items()
        for key, weight in module.named_parameters()
    }
    return found | {name: recursive_getattr(model, name).detach() for name in model._get_torch_save_params()[1]}
