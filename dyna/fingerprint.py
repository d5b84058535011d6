"""What an environment evidently holds, as a hash an attribute: enough to tell that two are not in the same state.

Looked at are plain values, arrays, tensors and random generators, in containers and in objects of the environment's own
package, as deep as they lie. What other packages, compiled ones above all, keep to themselves is not evident.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Mapping, Set
from operator import itemgetter
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import PassiveEnvChecker, RecordEpisodeStatistics
from torch import Tensor

from dyna import generators
from dyna.tree import ATOMS

VALUES = 20_000
"""Looked at in one attribute at most."""
ONLOOKERS = (PassiveEnvChecker, RecordEpisodeStatistics)
"""Wrappers that change nothing that a learner sees, whatever they keep."""
_NOT_STATE = ("env", "_cached_spec", "spec")  # of a wrapper: the next layer, and what is looked up when asked for


def of(layer: gym.Env[Any, Any]) -> dict[str, str]:
    """A hash for each attribute of an environment or a wrapper; of a wrapper, without what it wraps."""
    if isinstance(layer, ONLOOKERS):
        return {}
    packages = {cls.__module__.partition(".")[0] for cls in type(layer).__mro__} - {"builtins", "typing", "abc"}
    return {name: _hash(value, packages) for name, value in vars(layer).items() if name not in _NOT_STATE}


def _hash(value: Any, packages: set[str]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    met: dict[int, Any] = {}  # also keeps what is met alive, so that no two have one id
    waiting = [value]
    for _ in range(VALUES):
        if not waiting:
            break
        each = waiting.pop()
        if id(each) in met:
            digest.update(b"again")
            continue
        if type(each) not in ATOMS:
            met[id(each)] = each
        digest.update(f"{type(each).__qualname__} ".encode())
        digest.update(_content(each))
        waiting += reversed([*_inside(each, packages)])
    return digest.hexdigest()


def _content(value: Any) -> bytes:
    """What a value says itself."""
    if type(value) in ATOMS:
        return repr(value).encode()
    if isinstance(value, Tensor):
        value = value.detach().cpu().float().numpy() if value.is_floating_point() else value.detach().cpu().numpy()
    if isinstance(value, (np.ndarray, np.generic)) and not value.dtype.hasobject:
        return f"{value.dtype} {value.shape} ".encode() + value.tobytes()
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    return f"{len(value)} ".encode() if isinstance(value, (list, tuple, deque, Mapping, Set)) else b""


def _inside(value: Any, packages: set[str]) -> Iterator[Any]:
    """What a value holds."""
    if isinstance(value, generators.KINDS):
        yield generators.of(value)
    elif isinstance(value, gym.Space):  # its generator is put back by itself
        return
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from (key, item)
    elif isinstance(value, (list, tuple, deque)):
        yield from value
    elif isinstance(value, Set):
        yield from sorted(map(repr, value))
    elif type(value).__module__.partition(".")[0] in packages:
        yield from sorted(getattr(value, "__dict__", {}).items(), key=itemgetter(0))  # their order is no state
