"""Command-line flags made from `RunConfig`: names, defaults and help stand there and nowhere else.

argparse, not tyro: a mistake must come back as one sentence, and tyro prints a panel of several lines that it has no
option to change; flags that were not given must stay apart from defaults, for presets lie between the two.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NoReturn

from dyna import plain
from dyna.annotations import kind_of
from dyna.config import RunConfig, kinds
from dyna.docstrings import field_help
from dyna.errors import UserError, unknown


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are UserErrors, one sentence each."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=_formatter, **options)
        # argparse's own pattern takes -1e3 and -inf for flags
        self._negative_number_matcher = re.compile(r"-(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$|-\.?inf$")

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message.removeprefix('argument ')}: `{self.prog} --help` shows what can be given")

    def parse(self, argv: list[str]) -> argparse.Namespace:
        """The arguments; raises UserError, naming the nearest flag for one that does not exist."""
        namespace, rest = self.parse_known_args(argv)
        for word in rest:
            if word.startswith("-"):
                flag = word.partition("=")[0]
                raise unknown("flag", flag, self._option_string_actions, see=f"`{self.prog} --help`")
        if rest:
            self.error(f"unexpected {rest[0]!r}")
        return namespace


def _formatter(prog: str) -> argparse.HelpFormatter:
    return argparse.HelpFormatter(prog, max_help_position=32, width=min(shutil.get_terminal_size().columns, 110))


def command(name: str, description: str) -> Parser:
    """The parser of a command, with the flags that every command has."""
    parser = Parser(prog=f"dyna {name}", description=description, add_help=False)
    parser.add_argument("-h", "--help", action="store_true", help="Show this.")
    parser.add_argument("--debug", action="store_true", help="Show the traceback of an error.")
    return parser


def add_flags(parser: argparse.ArgumentParser, but: Collection[str] = ()) -> None:
    """One flag for each field of RunConfig but some, absent from the namespace where it is not given."""
    helps = field_help(RunConfig)
    for field in dataclasses.fields(RunConfig):
        if field.name in but:
            continue
        default = "" if field.default is dataclasses.MISSING else f" (default: {plain.shown(field.default)})"
        parser.add_argument(
            *(name for name in field.metadata["short"] if not name.startswith("--")),
            _flag_name(field.name),
            *(name for name in field.metadata["short"] if name.startswith("--")),
            dest=field.name,
            metavar=field.metadata["metavar"],
            help=f"{helps[field.name]}{default}".replace("%", "%%"),
            default=argparse.SUPPRESS,
            **_arity(field.name),
        )


def given(namespace: argparse.Namespace, but: Collection[str] = ()) -> dict[str, Any]:
    """The fields that flags were given for, as checked plain data; raises UserError for a value of the wrong kind."""
    found = {}
    for name in kinds().kinds:
        if hasattr(namespace, name) and name not in but:
            found[name] = _value(name, getattr(namespace, name))
    checked: dict[str, Any] = kinds().check(found, "")
    return checked


def whole(name: str, text: str, least: int) -> int:
    """The integer that a flag was given; raises UserError for what is none, or too small."""
    value = int(kind_of(int).check(plain.read(text), name))
    if value < least:
        raise UserError(f"{name} must be at least {least}, got {value}")
    return value


def add_overwrite(parser: argparse.ArgumentParser) -> None:
    """The flag of a command that writes a FILE, to be judged by `refuse_taken`."""
    parser.add_argument("--overwrite", action="store_true", help="Write over FILE where it is there already.")


def refuse_taken(path: Path, *, overwrite: bool) -> None:
    """Raise UserError for a file that holds something, unless it may be written over; a device is no file."""
    if os.path.isfile(path) and os.path.getsize(path) and not overwrite:
        raise UserError(f"{str(path)!r} is there already: choose another name, or add --overwrite")


def changes(flags: Mapping[str, Any], stored: RunConfig) -> list[str]:
    """The flags that would make a resumed run another run than the stored one."""
    free = {field.name for field in dataclasses.fields(stored) if field.metadata["on_resume"]}
    before = stored.settings()
    after = plain.merge(before, flags)
    return [_flag_name(name) for name in flags if name not in free and after[name] != before[name]]


def _value(name: str, text: str | list[str]) -> Any:
    if isinstance(text, list):
        return plain.assignments(text)
    if kinds().kinds[name].fits(text):  # a text stays as it was typed: `--env 1` is no number
        return text
    return plain.read(text)


def _arity(name: str) -> dict[str, Any]:
    kind = kinds().kinds[name]
    if not kind.fits({}):
        return {}
    if kind.fits(True):  # yes or no, or a mapping of options: the flag alone means yes
        return {"nargs": "?", "const": "true"}
    return {"nargs": "+", "action": "extend"}


def _flag_name(field: str) -> str:
    return "--" + field.replace("_", "-")
