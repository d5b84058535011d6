"""Seeds of their own, and the state of random generators as plain data, so that a draw can be made again."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from dyna.tree import Tree


def stream(seed: int, *key: int) -> int:
    """A seed of its own for a purpose, far from the seed itself and its neighbours, which the training uses."""
    return int(np.random.SeedSequence([seed, *key]).generate_state(1)[0])


def of_process() -> dict[str, Tree]:
    """Python's, NumPy's and torch's global generators."""
    state: dict[str, Tree] = {**of_host(), "torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_process(state: dict[str, Tree]) -> None:
    """Restore what `of_process` returned."""
    set_host(state)
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"][: torch.cuda.device_count()])


def of_host() -> dict[str, Tree]:
    """Python's and NumPy's global generators, which an environment may draw from."""
    return {"python": random.getstate(), "numpy": np.random.get_state(legacy=False)}


def set_host(state: dict[str, Tree]) -> None:
    """Restore what `of_host` returned."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])


@contextlib.contextmanager
def preserved() -> Iterator[None]:
    """Whatever is drawn inside, the global generators go on as if it had not been."""
    state = of_process()
    try:
        yield
    finally:
        set_process(state)


def set_torch(generator: torch.Generator, state: Tensor) -> None:
    """Put a generator into a saved state; one of another kind of device is seeded by what the state holds."""
    if generator.get_state().shape == state.shape:
        generator.set_state(state.cpu())
    else:  # torch has a generator of its own for each kind of device, and no way from one to the other
        generator.manual_seed(int.from_bytes(hashlib.sha256(state.cpu().numpy().tobytes()).digest()[:8], "little"))


def of_space(space: spaces.Space[Any]) -> dict[str, Tree]:
    """The generators of a space and of the spaces inside it; None for one that has drawn nothing yet."""
    generator: np.random.Generator | None = space._np_random
    return {
        "own": generator.bit_generator.state if generator is not None else None,
        "inside": [of_space(inner) for inner in _inside(space)],
    }


def set_space(space: spaces.Space[Any], state: dict[str, Tree]) -> None:
    """Restore what `of_space` returned."""
    if state["own"] is not None:
        space.np_random.bit_generator.state = state["own"]
    for inner, inner_state in zip(_inside(space), state["inside"], strict=True):
        set_space(inner, inner_state)


Generator = np.random.Generator | np.random.RandomState | random.Random
KINDS = (np.random.Generator, np.random.RandomState, random.Random)
"""The generators that an environment may hold."""


def of(generator: Generator) -> Tree:
    """The state of one generator."""
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.getstate() if isinstance(generator, random.Random) else generator.get_state(legacy=False)


def restored(generator: Any, state: Tree) -> Generator:
    """The generator in the state that `of` returned; another one where it is not of the state's kind."""
    if isinstance(state, tuple):
        generator = generator if isinstance(generator, random.Random) else random.Random()
        generator.setstate(state)
    elif "has_gauss" in state:
        generator = generator if isinstance(generator, np.random.RandomState) else np.random.RandomState()
        generator.set_state(state)
    else:
        kind = getattr(np.random, state["bit_generator"], None)
        if not (isinstance(kind, type) and issubclass(kind, np.random.BitGenerator)):
            raise ValueError(f"{state['bit_generator']!r} is none of NumPy's bit generators")
        if not (isinstance(generator, np.random.Generator) and isinstance(generator.bit_generator, kind)):
            generator = np.random.Generator(kind())
        generator.bit_generator.state = state
    return cast(Generator, generator)


def _inside(space: spaces.Space[Any]) -> list[spaces.Space[Any]]:
    inner = getattr(space, "spaces", ())
    return list(inner.values()) if isinstance(inner, dict) else list(inner)
