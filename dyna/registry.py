"""Algorithms by name: `find("sac")` imports a class at the moment that it is asked for.

The table of the toolkit's own algorithms lives in `dyna/algorithms/__init__.py`, one line an algorithm. The engine
names none of them: the table is reached by its address below, when it is asked for. An installed package adds its
algorithms through the entry-point group of the same name:

    [options.entry_points]
    dyna.algorithms =
        mine = my_package.my_module:MyAlgorithm
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from dyna.errors import UserError, unknown

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvSpec
    from stable_baselines3.common.base_class import BaseAlgorithm

GROUP = "dyna.algorithms"
"""The package that holds the table, and the entry-point group through which others join."""
ENVIRONMENTS = "dyna.environments"
"""The package that registers the toolkit's own environments with Gymnasium when it is imported."""


def names() -> list[str]:
    """Every registered name: the toolkit's in the table's order, then those of other packages."""
    return list(_targets())


def check(name: str) -> None:
    """Raise UserError, naming the nearest, where no algorithm has that name; imports no algorithm."""
    if name not in _targets():
        raise unknown("algorithm", name, _targets(), see="`dyna list algorithms`")


def addresses(name: str) -> tuple[str, ...]:
    """Where an algorithm's classes are, as in `package.module:Class`; raises UserError for an unknown name."""
    check(name)
    found = _targets()[name]
    return (found,) if isinstance(found, str) else found


def classes(name: str) -> list[type[BaseAlgorithm]]:
    """The class of an algorithm, or those that share its name and differ in the actions that they take.

    Raises UserError for an unknown name and for a package that is not installed.
    """
    return [_imported(name, address) for address in addresses(name)]


def find(name: str, actions: Any = None) -> type[BaseAlgorithm]:
    """The class of an algorithm, of several the first that takes an action space, or the first of all.

    Raises UserError as `classes` does.
    """
    first, *others = classes(name)
    if actions is None or not others:
        return first
    return next((cls for cls in (first, *others) if _accepts(cls, actions)), first)


def _imported(name: str, address: str) -> type[BaseAlgorithm]:
    module, _, attribute = address.partition(":")
    try:
        found: type[BaseAlgorithm] = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name is None or "." in error.name:  # a module of an installed package: no user can mend that
            raise
        raise UserError(f"algorithm {name!r} needs the package {error.name!r}: pip install {error.name}") from error
    return found


def is_model_based(cls: type[BaseAlgorithm]) -> bool:
    """Whether the algorithm learns a world model."""
    from dyna.base import DynaMixin
    from dyna.tabular import TabularDyna

    return issubclass(cls, (DynaMixin, TabularDyna))


def is_tabular(cls: type[BaseAlgorithm]) -> bool:
    """Whether the algorithm keeps a table, and so numbers the states that it observes."""
    from dyna.tabular import TabularAlgorithm

    return issubclass(cls, TabularAlgorithm)


def environments() -> Mapping[str, EnvSpec]:
    """Every environment that Gymnasium knows by its id, the toolkit's own among them."""
    import gymnasium

    importlib.import_module(ENVIRONMENTS)
    return gymnasium.registry


def action_spaces(*classes: type[BaseAlgorithm]) -> list[str]:
    """The Gymnasium action spaces that one of the classes accepts, asked from its constructor with one probe each.

    SB3 says it only there (`supported_action_spaces`), so the answer is the one that training would give.
    """
    from gymnasium import spaces

    probes = {
        "Box": spaces.Box(-1.0, 1.0, (1,)),
        "Discrete": spaces.Discrete(2),
        "MultiDiscrete": spaces.MultiDiscrete([2, 2]),
        "MultiBinary": spaces.MultiBinary(2),
    }
    return [kind for kind, space in probes.items() if any(_accepts(cls, space) for cls in classes)]


def refuse_actions(name: str, cls: type[BaseAlgorithm], env_id: str, space: Any) -> None:
    """Raise UserError, naming the algorithms that fit, where an algorithm cannot act in an action space."""
    if not _accepts(cls, space):
        raise UserError(
            f"{name} takes {' or '.join(action_spaces(*classes(name)))} actions, {env_id} has {space}: choose "
            f"{_those(lambda other: _accepts(other, space) and not is_tabular(other))}"
        )


def refuse_images(name: str, cls: type[BaseAlgorithm], env_id: str, space: Any, action_space: Any) -> None:
    """Raise UserError, naming the algorithms that fit, where observations are images and an algorithm takes none."""
    from dyna.spaces import is_image

    if is_image(space) and not _sees(cls):
        fitting = _those(lambda other: _sees(other) and _accepts(other, action_space))
        raise UserError(
            f"{name} takes no images, {env_id} has {space}: choose {fitting}, or for a small image wrap the "
            "environment in gymnasium.wrappers.FlattenObservation"
        )


def _those(fit: Callable[[type[BaseAlgorithm]], bool]) -> str:
    """The installed algorithms that fit, as in `sac or td3`."""
    found = []
    for name in names():
        with contextlib.suppress(UserError):  # of a package that is not installed
            found += [name] if any(map(fit, classes(name))) else []
    return " or ".join(found) or "another environment, since no algorithm does"


def _sees(cls: type[BaseAlgorithm]) -> bool:
    return "CnnPolicy" in cls.policy_aliases


def _accepts(cls: type[BaseAlgorithm], action_space: Any) -> bool:
    import gymnasium

    env: gymnasium.Env[Any, Any] = gymnasium.Env()
    env.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))
    env.action_space = action_space
    policy = next(iter(cls.policy_aliases))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a probe: advice about its settings is for nobody
        try:
            cls(policy, env, _init_setup_model=False)  # type: ignore[call-arg]
        except (AssertionError, ValueError):
            return False
    return True


@functools.cache
def _targets() -> dict[str, str | tuple[str, ...]]:
    targets: dict[str, str | tuple[str, ...]] = dict(importlib.import_module(GROUP).TABLE)
    for point in entry_points(group=GROUP):
        if targets.setdefault(point.name, point.value) != point.value:
            owner = point.dist.name if point.dist else point.value
            raise UserError(f"algorithm {point.name!r} of {owner!r} has a name that is taken: it must register another")
    return targets
