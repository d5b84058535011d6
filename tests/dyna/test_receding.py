"""The world model that planners ask is the one of now, and made once until that changes."""

from pathlib import Path

import pytest
import torch

from dyna.algorithms.pets import PETS
from dyna.plan_model import PlanModel
from dyna.world_model import EnsembleSettings
from tests.probes import ActionRewardEnv

OBS, ACTION = torch.linspace(-1, 1, 8).view(2, 4, 1), torch.linspace(1, -1, 8).view(2, 4, 1)


def made(seed: int) -> PETS:
    world = EnsembleSettings(members=3, elites=2, width=16, depth=1, max_updates=20)
    how = {"learning_starts": 30, "horizon": 2, "candidates": 8, "elites": 2, "particles": 2}
    return PETS(env=ActionRewardEnv(), seed=seed, device="cpu", world_model=world, **how).learn(40)


def is_of_now(agent: PETS) -> bool:
    asked = (model.next_mean(OBS, ACTION) for model in (agent.plan_model(), PlanModel(agent.world_model)))
    return torch.equal(*asked)


def test_it_is_made_once_until_the_next_fit() -> None:
    agent = made(0)
    first = agent.plan_model()
    agent.predict(OBS[0].numpy())
    assert agent.plan_model() is first
    agent.refit()
    assert agent.plan_model() is not first and is_of_now(agent)


@pytest.mark.parametrize("by", ["parameters", "checkpoint", "hand"])
def test_weights_that_come_from_elsewhere_are_seen(by: str, tmp_path: Path) -> None:
    agent, other = made(0), made(1)
    first = agent.plan_model()
    if by == "parameters":
        agent.set_parameters(other.get_parameters())
    elif by == "checkpoint":
        other.save(tmp_path / "other")
        agent.set_parameters(str(tmp_path / "other"))
    else:
        with torch.no_grad():
            next(agent.world_model.parameters()).mul_(1.5)
    assert not torch.equal(first.next_mean(OBS, ACTION), agent.plan_model().next_mean(OBS, ACTION))
    assert is_of_now(agent)


def test_another_precision_makes_another() -> None:
    agent = made(0)
    first = agent.plan_model()
    agent.bfloat16 = True
    assert agent.plan_model() is not first and agent.plan_model().dtype == torch.bfloat16
