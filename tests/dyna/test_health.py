"""Learning that runs into NaN or infinity ends the run at once, names the part, and keeps the last good checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from stable_baselines3 import DQN, PPO, SAC

from dyna import actor_critic, checkpoint, fitting, health, runs
from dyna.actor_critic import Losses
from dyna.algorithms.mbpo import MBPO
from dyna.config import RunConfig
from dyna.errors import Diverged, RunFailed
from dyna.train import train

NET = {"policy_kwargs": {"net_arch": [8]}}
OFF = {**NET, "learning_starts": 50, "batch_size": 8, "buffer_size": 500}
MODEL = {"members": 3, "elites": 2, "width": 8, "depth": 1, "max_updates": 20}
DYNA = {**NET, "learning_starts": 50, "batch_size": 8, "gradient_steps": 4, "rollouts": 2, "world_model": MODEL}
POISON = 130
"""The step from which on something is NaN."""


def config(algo: str, env: str, hyperparameters: dict[str, Any], folder: Path) -> RunConfig:
    common = {"steps": 300, "eval_every": 0, "checkpoint_every": 50, "device": "cpu", "runs": folder}
    return RunConfig(env=env, algo=algo, hyperparameters=hyperparameters, **common)


def poisoned(cls: type, weights: Callable[[Any], torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """From a step on, training begins with NaN in some weights."""
    learn = cls.train

    def spoilt(self: Any, *args: Any, **kwargs: Any) -> None:
        if self.num_timesteps >= POISON:
            with torch.no_grad():
                weights(self).view(-1)[0] = math.nan
        learn(self, *args, **kwargs)

    monkeypatch.setattr(cls, "train", spoilt)


CASES: dict[str, tuple[type, str, str, dict[str, Any], Callable[[Any], torch.Tensor], str]] = {
    "mbpo, critic": (MBPO, "mbpo", "Pendulum-v1", DYNA, lambda m: next(m.critic.parameters()), "critic"),
    "mbpo, actor": (MBPO, "mbpo", "Pendulum-v1", DYNA, lambda m: next(m.actor.parameters()), "actor"),
    "mbpo, temperature": (MBPO, "mbpo", "Pendulum-v1", DYNA, lambda m: m.log_ent_coef, "temperature"),
    "sac": (SAC, "sac", "Pendulum-v1", OFF, lambda m: next(m.critic.parameters()), "critic"),
    "sac, actor": (SAC, "sac", "Pendulum-v1", OFF, lambda m: next(m.actor.parameters()), "actor"),
    "sac, temperature": (SAC, "sac", "Pendulum-v1", OFF, lambda m: m.log_ent_coef, "temperature"),
    "dqn": (DQN, "dqn", "CartPole-v1", OFF, lambda m: next(m.policy.parameters()), "critic"),
    "ppo": (
        PPO,
        "ppo",
        "CartPole-v1",
        {**NET, "n_steps": 64, "batch_size": 32},
        lambda m: m.policy.value_net.weight,
        "(actor|critic)",  # one loss, one step: both are NaN at once
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_nan_is_noticed_within_one_update_and_the_part_is_named(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cls, algo, env, hyperparameters, weights, part = CASES[case]
    poisoned(cls, weights, monkeypatch)
    with pytest.raises(RunFailed, match=f"the {part} has diverged: .*start a new run with a lower -p learning_rate"):
        train(config(algo, env, hyperparameters, tmp_path), progress=False)
    (run,) = runs.find_all(tmp_path)
    summary = run.summary()
    first = {"ppo": 192, "dqn": 132}.get(algo, POISON)  # where its first update after that is
    assert (summary["status"], summary["steps"]) == ("failed", first)
    good = checkpoint.load(run.checkpoints)
    assert good is not None and not good.damaged
    assert good.step < first and f"the good checkpoint of step {good.step} is kept" in summary["error"]
    for weight in good.tree["training"]["parameters"]["policy"].values():
        assert torch.isfinite(weight).all()
    assert not (run.path / "last_model.zip").exists()


def test_a_world_model_that_runs_into_nan_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoilt(model: Any, *args: Any) -> None:
        with torch.no_grad():
            next(model.state_network.parameters()).fill_(math.nan)

    monkeypatch.setattr(fitting, "update", spoilt)
    with pytest.raises(RunFailed, match=r"step 5\d: the world model has diverged: .*-p world_model.learning_rate"):
        train(config("mbpo", "Pendulum-v1", DYNA, tmp_path), progress=False)


def test_the_part_that_was_first_is_named() -> None:
    def losses(**wrong: float) -> Losses:
        return Losses(**{name: torch.tensor(wrong.get(name, 1.0)) for name in Losses._fields})

    nan = math.nan
    assert actor_critic.read([losses(), losses(critic=2.0)])["critic"] == 2.0
    for last, part in (
        (losses(critic=nan, actor=nan), "critic"),
        (losses(actor=nan), "critic"),  # the actor itself is sound: its loss asks the critic, which has just been moved
        (losses(critic=nan, actor=nan, entropy=nan), "actor"),
        (losses(critic=nan, actor=nan, alpha=math.inf), "temperature"),
    ):
        with pytest.raises(Diverged, match=f"the {part} has diverged: in update 2 of 3, "):
            actor_critic.read([losses(), last, losses(**dict.fromkeys(Losses._fields, nan))])


def test_names_of_weights_and_losses_tell_the_part() -> None:
    for name, part in {
        "train/critic_loss": "critic",
        "train/value_loss": "critic",
        "train/ent_coef_loss": "actor",
        "train/ent_coef": "temperature",
        "train/policy_gradient_loss": "actor",
        "policy.critic_target.q_networks.0.weight": "critic",
        "policy.quantile_net.quantile_net.0.weight": "critic",
        "policy.mlp_extractor.policy_net.0.weight": "actor",
        "policy.mlp_extractor.value_net.0.weight": "critic",
        "log_ent_coef": "temperature",
        "world_model.state_network.layers.0.weight": "world model",
        "train/loss": "policy",
    }.items():
        assert health.part(name) == part, name
