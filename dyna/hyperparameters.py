"""Hyperparameters: what an algorithm's constructor can be told, read from the constructor itself.

Names, defaults and annotations come from its signature, help from its docstring (`:param name: ...`), and the fields of
a dataclass argument from the dataclass; nothing is listed a second time. Settings are nested plain data
(`{"learning_rate": 3e-4, "world_model": {"width": 128}}`) until `build` makes the constructor's arguments of them.
"""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from dyna import limits
from dyna.annotations import kind_of
from dyna.docstrings import field_help, param_help
from dyna.errors import UserError
from dyna.kinds import Fields, Kind, OneOf
from dyna.named import ClassNamed
from dyna.plain import assignments, shown

if TYPE_CHECKING:
    import gymnasium
    from stable_baselines3.common.base_class import BaseAlgorithm

NOT_KNOBS = frozenset({"self", "env", "verbose", "tensorboard_log", "device", "seed"})
"""Constructor arguments that a run sets from its own configuration."""


@dataclass(frozen=True)
class Knob:
    """One hyperparameter."""

    name: str
    """The key, dotted inside a dataclass: `world_model.width`."""
    default: Any
    """What the constructor takes where nothing is set; `inspect.Parameter.empty` where it must be given."""
    annotation: Any
    """The type that the constructor asks for."""
    help: str
    """One line."""

    @property
    def shown_default(self) -> str:
        """The default as a user would write it."""
        return "must be given" if self.default is inspect.Parameter.empty else shown(self.default)


NOISE = (
    Knob("noise_type", None, Literal["normal", "ornstein-uhlenbeck"] | None, "Noise on collected actions."),
    Knob("noise_std", 0.1, float, "Standard deviation of that noise, for actions in [-1, 1]."),
)
"""What stands in for SB3's `action_noise`, an object; the names are RL Zoo's."""


UNDOCUMENTED = {"policy_delay": "Updates of the critic for each update of the actor."}
"""Help for the arguments that sb3-contrib's docstrings leave out (CrossQ's)."""


def knobs(cls: type[BaseAlgorithm]) -> list[Knob]:
    """Every hyperparameter that can be set of an algorithm, the fields of dataclass arguments one by one."""
    found: list[Knob] = []
    for knob in (each for each in _arguments(cls) if each.name not in getattr(cls, "not_to_be_set", ())):
        found += _fields(knob) if dataclasses.is_dataclass(knob.default) else [knob]
    return found


def parse(cls: type[BaseAlgorithm], items: Sequence[str]) -> dict[str, Any]:
    """`["batch_size=64", "world_model.width=128"]` as checked settings; raises UserError for what does not fit."""
    return check(cls, assignments(items))


def check(cls: type[BaseAlgorithm], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, normalised; raises UserError for an unknown key or a value that does not fit."""
    kind = _kind(cls, settings)
    checked: dict[str, Any] = kind.check(settings, "")
    limits.check({name: value for name, value in checked.items() if value is not None})  # types refuse other Nones
    kind.make(checked)  # a dataclass judges its values when it is made
    if "noise_std" in checked and checked.get("noise_type") is None:
        raise UserError(f"noise_std={checked['noise_std']} needs noise_type: set it to normal or ornstein-uhlenbeck")
    return checked


def build(
    cls: type[BaseAlgorithm],
    settings: Mapping[str, Any],
    *,
    observation_space: gymnasium.Space[Any] | None = None,
    action_space: gymnasium.Space[Any] | None = None,
) -> dict[str, Any]:
    """The constructor's keyword arguments, `policy` among them; raises UserError as `check` does.

    The spaces choose the policy where the settings name none (SB3's `MultiInputPolicy` for Dict observations,
    `CnnPolicy` for images), and size the action noise.
    """
    checked = check(cls, settings)
    arguments: dict[str, Any] = _kind(cls, checked).make(checked)
    policy = checked.get("policy") or _default_policy(cls, observation_space)
    arguments["policy"] = policy if policy in cls.policy_aliases else _policy(cls).make(policy)
    noise, std = arguments.pop("noise_type", None), arguments.pop("noise_std", NOISE[1].default)
    if noise is not None:
        arguments["action_noise"] = _action_noise(noise, std, action_space)
    return arguments


def _arguments(cls: type[BaseAlgorithm]) -> list[Knob]:
    helps = {**UNDOCUMENTED, **param_help(cls)}
    found: list[Knob] = []
    for name, parameter, annotation in _parameters(cls):
        if name == "action_noise":
            found += NOISE
        elif name not in NOT_KNOBS and not name.startswith("_"):
            default = _default_policy(cls, None) if name == "policy" else parameter.default
            text = helps.get(name, "")
            if name == "policy_kwargs":
                text += f" Keys: {', '.join(_policy_kwargs(cls, {}).kinds)}."
            found.append(Knob(name, default, annotation, text))
    return found


def _fields(knob: Knob) -> list[Knob]:
    helps, hints = field_help(type(knob.default)), typing.get_type_hints(type(knob.default))
    values = {field.name: getattr(knob.default, field.name) for field in dataclasses.fields(knob.default)}
    return [Knob(f"{knob.name}.{name}", value, hints[name], helps.get(name, "")) for name, value in values.items()]


def _parameters(cls: type) -> list[tuple[str, inspect.Parameter, Any]]:
    """Named parameters of the constructor; where it passes **kwargs on, those of its ancestors too."""
    found: dict[str, tuple[str, inspect.Parameter, Any]] = {}
    for owner in cls.__mro__:
        if "__init__" not in vars(owner):
            continue
        passes_on = False
        for name, parameter in inspect.signature(owner.__init__).parameters.items():  # type: ignore[misc]
            passes_on |= parameter.kind is parameter.VAR_KEYWORD
            if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                found.setdefault(name, (name, parameter, _annotation(owner, parameter)))
        if not passes_on:
            break
    return list(found.values())


def _annotation(owner: type, parameter: inspect.Parameter) -> Any:
    if parameter.annotation is parameter.empty:
        return Any
    if not isinstance(parameter.annotation, str):
        return parameter.annotation
    names = owner.__init__.__globals__  # type: ignore[misc]
    try:
        return typing.get_type_hints(type("", (), {"__annotations__": {"it": parameter.annotation}}), names)["it"]
    except NameError:  # imported for type checkers only: the constructor itself will judge the value
        return Any


def _kind(cls: type[BaseAlgorithm], settings: Mapping[str, Any]) -> Fields:
    kinds = {knob.name: kind_of(knob.annotation, knob.default) for knob in _arguments(cls)}
    if "policy" in kinds:
        kinds["policy"] = _policy(cls)
    if "policy_kwargs" in kinds:
        kinds["policy_kwargs"] = OneOf((_policy_kwargs(cls, settings), kind_of(type(None))))
    refused = frozenset(getattr(cls, "not_to_be_set", ()))
    return Fields(kinds, noun="hyperparameter", see="`dyna train --algo NAME --help`", untold=refused)


def _policy(cls: type[BaseAlgorithm]) -> Kind:
    from stable_baselines3.common.policies import BasePolicy

    return ClassNamed(BasePolicy, cls.policy_aliases)


def _policy_kwargs(cls: type[BaseAlgorithm], settings: Mapping[str, Any]) -> Fields:
    named = _policy(cls).check(settings.get("policy", _default_policy(cls, None)), "policy")
    policy = _policy(cls).make(named)
    keys = settings.get("policy_kwargs")
    noted = keys.get("use_sde") if isinstance(keys, Mapping) else None  # by SB3, in the mapping that it was given
    if noted:
        raise UserError(f"policy_kwargs.use_sde is the algorithm's to set, got {noted}: give use_sde itself")
    given = {"self", "observation_space", "action_space", "lr_schedule"}  # by SB3, when it makes the policy
    given |= {"use_sde"} if noted is None else set()
    kinds = {name: kind_of(annotation) for name, _, annotation in _parameters(policy) if name not in given}
    return Fields(kinds, noun="hyperparameter", see="the help of policy_kwargs")


def _default_policy(cls: type[BaseAlgorithm], observation_space: gymnasium.Space[Any] | None) -> str:
    from gymnasium import spaces
    from stable_baselines3.common.preprocessing import is_image_space

    aliases: dict[str, type] = cls.policy_aliases
    wanted = "Mlp"
    if isinstance(observation_space, spaces.Dict):
        wanted = "MultiInput"
    elif observation_space is not None and is_image_space(observation_space):
        wanted = "Cnn"
    return next((alias for alias in aliases if alias.startswith(wanted)), next(iter(aliases)))


def _action_noise(name: str, std: float, action_space: gymnasium.Space[Any] | None) -> Any:
    import numpy as np
    from gymnasium import spaces
    from stable_baselines3.common import noise

    if not isinstance(action_space, spaces.Box):
        raise UserError(f"noise_type={name!r} needs continuous actions, got {action_space}: leave noise_type out")
    kinds = {"normal": noise.NormalActionNoise, "ornstein-uhlenbeck": noise.OrnsteinUhlenbeckActionNoise}
    zeros = np.zeros(action_space.shape)
    return kinds[name](mean=zeros, sigma=zeros + std)
