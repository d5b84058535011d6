"""Plain data - what YAML can write: numbers, texts, truths, null, lists and mappings with text keys.

YAML is read by the core schema of YAML 1.2 (section 10.3.2), not by PyYAML's 1.1: `1e-3` is a number, `no` is a text
and `2024-01-01` is not a date. Python's `None` and `1_000_000` are understood as well.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import yaml

from dyna.errors import UserError

MOST = 100_000
"""Values that a text may stand for."""
_SCHEMA = {
    "null": r"~|null|Null|NULL|None|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?(0|[1-9][0-9_]*)",
    "float": r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
    "merge": r"<<",
}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[Any, Any] = {}

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """The mapping as it stands in the text, where what it merges has not come in yet; refuses a key given twice."""
        node = super().compose_mapping_node(anchor)
        seen: dict[tuple[str, str], yaml.Mark] = {}
        for key, _ in node.value:
            here = key.start_mark
            first = seen.setdefault((key.tag, str(key.value)), here)
            if first is not here and not key.tag.endswith(":merge"):
                problem = f"the key {key.value!r} stands twice, in lines {first.line + 1} and {here.line + 1}: keep one"
                raise yaml.composer.ComposerError(None, None, problem, here)
        return node


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers: dict[Any, Any] = {}

    def ignore_aliases(self, data: object) -> bool:
        return True


for _kind, _pattern in _SCHEMA.items():
    for _either in (_Loader, _Dumper):
        _either.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"^(?:{_pattern})$"), None)


def read(text: str) -> Any:
    """The data that a YAML text stands for; raises UserError where it is no YAML."""
    try:
        data = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{_short(text)!r} is not YAML: {getattr(error, 'problem', None) or error}") from error
    _refuse_large(data, text)
    return data


def write(data: Any) -> str:
    """Plain data as YAML text; `read` gives it back equal."""
    # all but ASCII is escaped: PyYAML writes some line breaks (U+0085) so that it reads them back as spaces
    return str(yaml.dump(data, Dumper=_Dumper, sort_keys=False, width=100))


def data(value: Any, name: str) -> Any:
    """A value as plain data, tuples as lists and NumPy's scalars as Python's; raises UserError for what is none."""
    if isinstance(value, Mapping):
        return {_scalar(key, name): data(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [data(item, f"{name}[{index}]") for index, item in enumerate(value)]
    return _scalar(value, name)


def unwrapped(value: Any) -> Any:
    """What a scalar of NumPy holds; anything else as it is."""
    numpy = sys.modules.get("numpy")  # whoever holds one has imported it, and a mistyped flag need not wait for it
    return value.item() if numpy and isinstance(value, numpy.generic) else value


def shown(value: Any) -> str:
    """A value on one line, as a user would type it."""
    if value is None or isinstance(value, (bool, dict, list)):
        text = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, sort_keys=False, width=10_000)
        return str(text).splitlines()[0]
    return value.__name__ if isinstance(value, type) else str(value)


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """A new mapping with `over` laid on `under`, key by key and mapping by mapping; lists are replaced."""
    merged = deepcopy(dict(under))
    for key, value in over.items():
        below = merged.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(below, value) if both else deepcopy(value)  # type: ignore[arg-type]
    return merged


def assignments(items: Sequence[str]) -> dict[str, Any]:
    """`["a=1", "b.c=[2,3]"]` as `{"a": 1, "b": {"c": [2, 3]}}`; raises UserError for an item that is no KEY=VALUE."""
    found: dict[str, Any] = {}
    for item in items:
        key, equals, text = item.partition("=")
        path = key.strip().split(".")
        if not (equals and text.strip() and all(path)):
            raise UserError(f"{item!r} is not KEY=VALUE: write it as in batch_size=256")
        if _has_comment(text):  # what follows would be dropped and nobody told
            raise UserError(
                f"{_short(item)!r} has a # that begins a comment: put quotes round the text, as in a='[\"#b\"]'"
            )
        value = read(text)
        for name in reversed(path):
            value = {name: value}
        found = merge(found, value)
    return found


def _scalar(value: Any, name: str) -> Any:
    found = unwrapped(value)
    if found is None or type(found) in (bool, int, float, str):
        return found
    raise UserError(f"{name} must be a number, a text, a truth, null, or a list or mapping of these, got {found!r:.80}")


def _has_comment(text: str) -> bool:
    """Whether a # stands between the tokens of a YAML text, up to the first place where it is no YAML."""
    end = 0
    try:
        for token in yaml.scan(text):
            if "#" in text[end : token.start_mark.index]:
                return True
            end = token.end_mark.index
    except (yaml.YAMLError, ValueError):
        pass  # `read` tells
    return False


def _refuse_large(data: Any, text: str) -> None:
    """A short text can stand for more values than a memory holds, or for a list that holds itself, by its aliases."""
    left = [data]
    for _ in range(MOST):
        if not left:
            return
        value = left.pop()
        if isinstance(value, Mapping):
            left += value.values()
        elif isinstance(value, list):
            left += value
    raise UserError(f"{_short(text)!r} stands for more than {MOST:,} values: write it without aliases")


def _short(text: str, width: int = 60) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."
