"""Values written as names: `lin_3e-4` a schedule, `relu` the class `torch.nn.ReLU`, `module:function` a function."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeGuard, get_origin

from dyna.errors import UserError, nearest
from dyna.imports import user_module
from dyna.kinds import Kind


@dataclass(frozen=True)
class Schedule(Kind):
    """A number that falls linearly to zero over the run, written as RL Zoo does: `lin_3e-4`."""

    @property
    def expected(self) -> str:
        return "a linear schedule such as lin_3e-4"

    def fits(self, value: Any) -> bool:
        if not (isinstance(value, str) and value.startswith("lin_")):
            return False
        try:
            return math.isfinite(float(value.removeprefix("lin_")))
        except ValueError:
            return False

    def make(self, value: Any) -> Any:
        from stable_baselines3.common.utils import LinearSchedule

        return LinearSchedule(float(value.removeprefix("lin_")), 0.0, 1.0)


@dataclass(frozen=True)
class ClassNamed(Kind):
    """A class, by its name in one of the usual homes (letter case aside: `relu`) or as `module:Class`."""

    base: type
    known: Mapping[str, type] | None = None
    """The classes to choose from; None searches the usual homes."""
    homes: ClassVar[tuple[str, ...]] = (
        "torch.nn",
        "torch.optim",
        "stable_baselines3",
        "stable_baselines3.common.torch_layers",
        "stable_baselines3.common.buffers",
        "dyna.buffers",
    )

    @property
    def expected(self) -> str:
        return f"the name of a {self.base.__name__} class or module:Class"

    def fits(self, value: Any) -> bool:
        return isinstance(value, str)

    def plain(self, value: Any, name: str) -> Any:
        self._find(value, name)
        return value

    def make(self, value: Any) -> Any:
        return self._find(value, "value")

    def _find(self, value: str, name: str) -> type:
        if ":" in value:
            found = imported(value, name)
            if not self._fitting(found):
                raise UserError(f"{name} must be {self.expected}, got {value!r}, which is no {self.base.__name__}")
            return found
        wanted = value.rpartition(".")[2].lower()  # RL Zoo writes nn.ReLU
        seen: list[str] = []
        for home in self._homes():
            for key, found in home.items():
                if key.lower() == wanted and self._fitting(found):
                    return found
            seen += [key for key, found in home.items() if self._fitting(found)]
        raise UserError(f"{name} must be {self.expected}, got {value!r}: the nearest is {nearest(wanted, seen)!r}")

    def _homes(self) -> Iterator[Mapping[str, Any]]:
        if self.known is not None:
            yield self.known
        else:
            yield from (vars(importlib.import_module(home)) for home in self.homes)

    def _fitting(self, found: Any) -> TypeGuard[type]:
        # Python 3.10 counts list[int], a type alias of a module, among the types
        return isinstance(found, type) and get_origin(found) is None and issubclass(found, self.base)


@dataclass(frozen=True)
class FunctionNamed(Kind):
    """A function, as `module:function`."""

    @property
    def expected(self) -> str:
        return "a function as module:function"

    def fits(self, value: Any) -> bool:
        return isinstance(value, str) and ":" in value

    def plain(self, value: Any, name: str) -> Any:
        if not callable(imported(value, name)):
            raise UserError(f"{name} must be {self.expected}, got {value!r}, which cannot be called")
        return value

    def make(self, value: Any) -> Any:
        return imported(value, "value")


def imported(address: str, name: str) -> Any:
    """What `module:attribute` stands for; raises UserError, with `name` in its sentence, where there is none."""
    path, _, attribute = address.partition(":")
    module = user_module(path, f"{name}={address!r}")
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise UserError(
            f"{name}: the module {path!r} has no {attribute!r}, the nearest is {nearest(attribute, vars(module))!r}"
        ) from None
