"""Kinds of values: what plain data must look like, and the object that it stands for.

A setting travels as plain data, because it must fit into `config.yaml`, and becomes an object at the last moment: a
list `[1, episode]` becomes a tuple, a mapping a dataclass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from dyna.errors import UserError, unknown
from dyna.plain import data, unwrapped


class Kind:
    """Any plain data; every other kind narrows this one."""

    @property
    def expected(self) -> str:
        """What fits, in words that can follow "must be"."""
        return "any value"

    def fits(self, value: Any) -> bool:
        """Whether the data has the outer shape of this kind."""
        return True

    def plain(self, value: Any, name: str) -> Any:
        """Fitting data, normalised (`1e5` is 100000 for an integer); raises UserError for a part that does not fit."""
        return data(value, name)

    def make(self, value: Any) -> Any:
        """The object that checked data stands for."""
        return value

    def check(self, value: Any, name: str) -> Any:
        """The data, normalised; raises UserError holding the name, the value and what was expected."""
        value = unwrapped(value)
        if not self.fits(value):
            raise UserError(f"{name} must be {self.expected}, got {value!r}")
        return self.plain(value, name)


def either(words: Iterable[str]) -> str:
    """`a, b or c`."""
    *first, last = list(words) or ["nothing"]
    return f"{', '.join(first)} or {last}" if first else last


@dataclass(frozen=True)
class MadeInPython(Kind):
    """An object that no plain data stands for."""

    class_name: str

    @property
    def expected(self) -> str:
        return f"a {self.class_name} (made in Python, not on the command line)"

    def fits(self, value: Any) -> bool:
        return False


@dataclass(frozen=True)
class Scalar(Kind):
    """A number, a text, a truth, null or a path."""

    words: str
    accepts: Callable[[Any], bool]
    normalise: Callable[[Any], Any]
    object: Callable[[Any], Any]

    @property
    def expected(self) -> str:
        return self.words

    def fits(self, value: Any) -> bool:
        return self.accepts(value)

    def plain(self, value: Any, name: str) -> Any:
        return self.normalise(value)

    def make(self, value: Any) -> Any:
        return self.object(value)


@dataclass(frozen=True)
class Choice(Kind):
    """One of a few values, from `Literal`."""

    options: tuple[Any, ...]

    @property
    def expected(self) -> str:
        return either(map(str, self.options))

    def fits(self, value: Any) -> bool:
        return isinstance(value, (str, int, float)) and value in self.options


@dataclass(frozen=True)
class OneOf(Kind):
    """Several kinds, from a union: the first that the data fits."""

    kinds: tuple[Kind, ...]

    @property
    def expected(self) -> str:
        return either(kind.expected for kind in self.kinds if not isinstance(kind, MadeInPython))

    def fits(self, value: Any) -> bool:
        return any(kind.fits(value) for kind in self.kinds)

    def plain(self, value: Any, name: str) -> Any:
        return self._fitting(value).plain(value, name)

    def make(self, value: Any) -> Any:
        return self._fitting(value).make(value)

    def _fitting(self, value: Any) -> Kind:
        return next(kind for kind in self.kinds if kind.fits(value))


def _is_list(value: Any) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, str)


@dataclass(frozen=True)
class ListOf(Kind):
    """A list of one kind; `container` is what the object is."""

    kind: Kind
    container: type

    @property
    def expected(self) -> str:
        return f"a list in which each item is {self.kind.expected}"

    def fits(self, value: Any) -> bool:
        return _is_list(value)

    def plain(self, value: Any, name: str) -> Any:
        return [self.kind.check(item, f"{name}[{index}]") for index, item in enumerate(value)]

    def make(self, value: Any) -> Any:
        return self.container(self.kind.make(item) for item in value)


@dataclass(frozen=True)
class TupleOf(Kind):
    """A list of a fixed length, whose object is a tuple."""

    kinds: tuple[Kind, ...]

    @property
    def expected(self) -> str:
        return f"a list [{', '.join(kind.expected for kind in self.kinds)}]"

    def fits(self, value: Any) -> bool:
        return _is_list(value) and len(value) == len(self.kinds)

    def plain(self, value: Any, name: str) -> Any:
        return [kind.check(item, f"{name}[{i}]") for i, (kind, item) in enumerate(zip(self.kinds, value, strict=True))]

    def make(self, value: Any) -> Any:
        return tuple(kind.make(item) for kind, item in zip(self.kinds, value, strict=True))


@dataclass(frozen=True)
class MapOf(Kind):
    """A mapping from any names to one kind."""

    kind: Kind

    @property
    def expected(self) -> str:
        return "a mapping"

    def fits(self, value: Any) -> bool:
        return isinstance(value, Mapping)

    def plain(self, value: Any, name: str) -> Any:
        return {str(key): self.kind.check(item, f"{name}.{key}") for key, item in value.items()}

    def make(self, value: Any) -> Any:
        return {key: self.kind.make(item) for key, item in value.items()}


@dataclass(frozen=True)
class Fields(Kind):
    """A mapping with known keys, handed to a factory as keyword arguments."""

    kinds: Mapping[str, Kind]
    factory: Callable[..., Any] = dict
    noun: str = "key"
    see: str = "the help"
    untold: frozenset[str] = frozenset()
    """Keys that are never suggested for a mistyped one."""

    @property
    def expected(self) -> str:
        return "a mapping"

    def fits(self, value: Any) -> bool:
        return isinstance(value, Mapping)

    def plain(self, value: Any, name: str) -> Any:
        inside = f"{name}." if name else ""
        for key in value:
            if key not in self.kinds:
                told = (f"{inside}{known}" for known in self.kinds if known not in self.untold)
                raise unknown(self.noun, f"{inside}{key}", told, see=self.see)
        return {key: self.kinds[key].check(item, f"{inside}{key}") for key, item in value.items()}

    def make(self, value: Any) -> Any:
        made = {key: self.kinds[key].make(item) for key, item in value.items()}
        try:
            return self.factory(**made)
        except ValueError as error:  # the dataclass refuses a value, in a sentence (house style 5)
            raise UserError(str(error)) from error
