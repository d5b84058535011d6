"""Every hyperparameter of every algorithm is reachable, typed, and helped."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import DictReplayBuffer
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise

from dyna import config, hyperparameters, plain, presets, registry
from dyna.errors import UserError
from tests.algorithms.test_presets import spaces_of

CLASSES = [cls for name in registry.names() for cls in registry.classes(name)]
BOX = spaces.Box(-1.0, 1.0, (3,))


@dataclass(frozen=True)
class Size:
    """How large the model is."""

    width: int = 200
    """Units of a layer."""
    rate: float = 1e-3
    """Step size."""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width must be at least 1, got {self.width}")


class Nested(SAC):
    """An algorithm with a dataclass among its arguments, whose other arguments are passed on.

    :param size: Size of the model.
    :param score: A function of the user.
    """

    def __init__(
        self, policy: str, env: Any = None, size: Size = Size(width=64), score: Any = None, **sac: Any
    ) -> None:
        self.size = size
        super().__init__(policy, env, **sac)


@pytest.mark.parametrize("cls", CLASSES)
def test_every_knob_has_a_line_of_help(cls: type[BaseAlgorithm]) -> None:
    knobs = hyperparameters.knobs(cls)
    assert knobs
    assert [knob.name for knob in knobs if not knob.help or "\n" in knob.help] == []


@pytest.mark.parametrize("cls", CLASSES)
def test_every_default_is_a_value_that_its_knob_takes(cls: type[BaseAlgorithm]) -> None:
    values = {knob.name: knob.default for knob in hyperparameters.knobs(cls)}
    values["noise_type"] = "normal"
    values = {key: value.__name__ if isinstance(value, type) else value for key, value in values.items()}
    known = {knob.name for knob in hyperparameters.knobs(cls)}
    for key, value in values.items():
        if key in known and key != "noise_std":
            assert hyperparameters.parse(cls, [f"{key}={plain.shown(value)}"]) == plain.assignments(
                [f"{key}={plain.shown(value)}"]
            )


@pytest.mark.parametrize("cls", CLASSES)
def test_the_knobs_are_what_the_constructor_takes(cls: type[BaseAlgorithm]) -> None:
    knobs = {knob.name.partition(".")[0] for knob in hyperparameters.knobs(cls)}
    set_by_the_run = {"self", "env", "verbose", "tensorboard_log", "device", "seed", "_init_setup_model"}
    for parameter in inspect.signature(cls.__init__).parameters.values():
        if parameter.kind is not parameter.VAR_KEYWORD and parameter.name != "action_noise":
            assert (parameter.name in knobs) != (parameter.name in set_by_the_run)


def test_arguments_that_are_passed_on_are_knobs_too() -> None:
    knobs = {knob.name: knob for knob in hyperparameters.knobs(Nested)}
    assert knobs["buffer_size"].default == 1_000_000
    assert knobs["size.width"] == hyperparameters.Knob("size.width", 64, int, "Units of a layer.")
    assert "size" not in knobs
    assert "sac" not in knobs


def test_a_dataclass_keeps_the_defaults_of_its_argument() -> None:
    settings = hyperparameters.parse(Nested, ["size.rate=1"])
    assert settings == {"size": {"rate": 1.0}}
    assert hyperparameters.build(Nested, settings)["size"] == Size(width=64, rate=1.0)


def test_a_horizon_may_grow_where_it_is_not_a_plans() -> None:
    for algo in ("mbpo", "mbdqn"):
        cls = registry.find(algo)
        settings = hyperparameters.parse(cls, ["horizon=[1,20,0,1000]"])
        hyperparameters.check(cls, settings)
        assert settings == {"horizon": [1, 20, 0, 1000]}


def test_a_dataclass_speaks_for_itself() -> None:
    with pytest.raises(UserError, match="width must be at least 1, got 0"):
        hyperparameters.parse(Nested, ["size.width=0"])


@pytest.mark.parametrize(
    ("item", "value"),
    [
        ("learning_rate=1e-3", 1e-3),
        ("learning_rate=1", 1.0),
        ("learning_rate=lin_3e-4", "lin_3e-4"),
        ("buffer_size=1e5", 100_000),
        ("batch_size=64", 64),
        ("train_freq=[1,episode]", [1, "episode"]),
        ("train_freq=8", 8),
        ("ent_coef=auto_0.1", "auto_0.1"),
        ("ent_coef=0.1", 0.1),
        ("use_sde=true", True),
        ("policy_kwargs.net_arch=[64,64]", {"net_arch": [64, 64]}),
        ("policy_kwargs={net_arch: {pi: [64], qf: [32]}}", {"net_arch": {"pi": [64], "qf": [32]}}),
        ("policy_kwargs.activation_fn=relu", {"activation_fn": "relu"}),
        ("replay_buffer_class=DictReplayBuffer", "DictReplayBuffer"),
        ("noise_type=null", None),
    ],
)
def test_values_are_typed_by_the_constructor(item: str, value: Any) -> None:
    (found,) = hyperparameters.parse(SAC, [item]).values()
    assert repr(found) == repr(value)


@pytest.mark.parametrize(
    ("item", "sentence"),
    [
        ("batchsize=64", "unknown hyperparameter 'batchsize': the nearest is 'batch_size'"),
        ("policy_kwargs.net_ach=[64]", "'policy_kwargs.net_ach': the nearest is 'policy_kwargs.net_arch'"),
        ("policy_kwargs.use_sde=true", "policy_kwargs.use_sde is the algorithm's .* got True: give use_sde"),
        ("seed=3", "unknown hyperparameter 'seed'"),
        ("verbose=1", "unknown hyperparameter 'verbose'"),
        ("batch_size=big", "batch_size must be an integer, got 'big'"),
        ("batch_size=1.5", "batch_size must be an integer, got 1.5"),
        ("batch_size=true", "batch_size must be an integer, got True"),
        ("gamma=high", "gamma must be a number, got 'high'"),
        ("use_sde=1", "use_sde must be true or false, got 1"),
        ("learning_rate=lin_fast", "learning_rate must be a number or a linear schedule"),
        ("train_freq=[1,2,3]", r"train_freq must be an integer or a list \[an integer, a text\], got \[1, 2, 3\]"),
        ("policy_kwargs.net_arch=[a]", r"policy_kwargs.net_arch\[0\] must be an integer, got 'a'"),
        ("policy_kwargs.activation_fn=rellu", "got 'rellu': the nearest is 'ReLU'"),
        ("policy=MlpPolic", "policy must be .* got 'MlpPolic': the nearest is 'MlpPolicy'"),
        ("policy=json:loads", "policy must be .*, got 'json:loads'"),
        ("policy=no_such_module:Policy", "no module 'no_such_module' for policy='no_such_module:Policy': put"),
        ("noise_type=pink", "noise_type must be normal or ornstein-uhlenbeck"),
        ("noise_std=0.3", "noise_std=0.3 needs noise_type"),
    ],
)
def test_a_mistake_is_one_sentence_with_the_value(item: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as error:
        hyperparameters.parse(SAC, [item])
    assert "\n" not in str(error.value)


def test_a_mistake_is_not_told_of_what_cannot_be_set() -> None:
    with pytest.raises(UserError, match="unknown hyperparameter 'n_step': the nearest is") as error:
        hyperparameters.parse(registry.find("mbpo"), ["n_step=3"])
    assert "'n_steps'" not in str(error.value)


def test_a_mapping_in_which_sb3_noted_its_own_can_be_given_again() -> None:
    settings = {"policy_kwargs": {"net_arch": [8]}}
    for _ in range(2):
        made = registry.find("sac")(env="Pendulum-v1", **hyperparameters.build(SAC, settings))
        settings = {"policy_kwargs": made.policy_kwargs}
    assert settings["policy_kwargs"]["use_sde"] is False


def test_of_a_replay_that_must_be_packed_no_other_is_offered() -> None:
    helps = {knob.name: knob.help for knob in hyperparameters.knobs(registry.find("dhmbpo"))}
    assert "PackedReplayBuffer" in helps["replay_buffer_class"]
    assert "Her" not in helps["replay_buffer_class"]


def test_a_linear_schedule_falls_to_zero() -> None:
    schedule = hyperparameters.build(PPO, {"clip_range": "lin_0.2"})["clip_range"]
    assert [schedule(left) for left in (1.0, 0.5, 0.0)] == pytest.approx([0.2, 0.1, 0.0])


def test_names_become_what_they_stand_for() -> None:
    text = ["train_freq=[1,episode]", "policy_kwargs.activation_fn=nn.tanh", "replay_buffer_class=dictreplaybuffer"]
    built = hyperparameters.build(SAC, hyperparameters.parse(SAC, text))
    assert built["train_freq"] == (1, "episode")
    assert built["policy_kwargs"]["activation_fn"] is torch.nn.Tanh
    assert built["replay_buffer_class"] is DictReplayBuffer


@pytest.mark.parametrize("name", ["normal", "ornstein-uhlenbeck"])
def test_noise_has_one_number_for_each_action(name: str) -> None:
    built = hyperparameters.build(TD3, {"noise_type": name, "noise_std": 0.3}, action_space=BOX)
    noise = built["action_noise"]
    assert isinstance(noise, NormalActionNoise if name == "normal" else OrnsteinUhlenbeckActionNoise)
    np.testing.assert_array_equal(noise._sigma, [0.3, 0.3, 0.3])
    assert noise().shape == BOX.shape
    assert "noise_type" not in built


def test_noise_needs_actions_that_can_be_disturbed() -> None:
    with pytest.raises(UserError, match="noise_type='normal' needs continuous actions"):
        hyperparameters.build(TD3, {"noise_type": "normal"}, action_space=spaces.Discrete(2))


def test_the_policy_fits_the_observations_unless_it_is_named() -> None:
    image = spaces.Box(0, 255, (3, 36, 36), dtype=np.uint8)
    assert hyperparameters.build(DQN, {}, observation_space=BOX)["policy"] == "MlpPolicy"
    assert hyperparameters.build(DQN, {}, observation_space=image)["policy"] == "CnnPolicy"
    assert hyperparameters.build(DQN, {}, observation_space=spaces.Dict({"a": BOX}))["policy"] == "MultiInputPolicy"
    assert hyperparameters.build(DQN, {"policy": "MlpPolicy"}, observation_space=image)["policy"] == "MlpPolicy"
    assert hyperparameters.build(DQN, {"policy": "cnnpolicy"})["policy"] is DQN.policy_aliases["CnnPolicy"]


def test_a_checked_setting_is_checked_to_itself() -> None:
    once = hyperparameters.parse(SAC, ["buffer_size=1e5", "learning_rate=1", "train_freq=[1,episode]", "tau=1"])
    assert hyperparameters.check(SAC, once) == once
    assert plain.read(plain.write(once)) == once


def test_what_is_built_is_what_the_constructor_takes() -> None:
    settings = hyperparameters.parse(TD3, ["buffer_size=100", "noise_type=normal", "learning_rate=lin_1e-3"])
    agent = TD3(**hyperparameters.build(TD3, settings, action_space=spaces.Box(-2.0, 2.0, (1,))), env="Pendulum-v1")
    assert agent.buffer_size == 100
    assert agent.lr_schedule(0.5) == pytest.approx(5e-4)


def test_a_knob_is_plain_to_compare() -> None:
    knob = hyperparameters.knobs(SAC)[0]
    assert dataclasses.replace(knob) == knob


@pytest.mark.parametrize("name", registry.names())
def test_every_preset_is_one_that_the_algorithm_takes(name: str) -> None:
    for env in presets.blocks_of(name):
        settings = config.resolve({"algo": name, "env": env}).hyperparameters
        cls = registry.find(name, None if env == "default" else spaces_of(env)[1])
        assert hyperparameters.check(cls, settings) == settings, env


def test_a_function_of_the_user_is_found_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_schedules.py").write_text("def steep(left):\n    return left**2\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    settings = hyperparameters.parse(SAC, ["learning_rate=my_schedules:steep"])
    assert settings == {"learning_rate": "my_schedules:steep"}
    assert hyperparameters.build(SAC, settings)["learning_rate"](0.5) == 0.25


def test_a_function_that_is_not_there_is_refused_with_what_to_do() -> None:
    with pytest.raises(UserError, match="learning_rate: the module 'math' has no 'sqr', the nearest is 'sqrt'"):
        hyperparameters.parse(SAC, ["learning_rate=math:sqr"])
    with pytest.raises(UserError, match="no module 'mth' for learning_rate='mth:sqrt': put mth.py into /.* or install"):
        hyperparameters.parse(SAC, ["learning_rate=mth:sqrt"])
    with pytest.raises(UserError, match="names a file where a module belongs: write learning_rate='mth:sqrt'"):
        hyperparameters.parse(SAC, ["learning_rate=mth.py:sqrt"])
