"""A policy's plan is what the policy does along the path that the model foresees."""

from __future__ import annotations

import torch

from dyna.plan_model import PlanModel
from dyna.plan_seeds import policy_plans
from dyna.world_model import EnsembleSettings, GaussianEnsemble


def test_the_policy_acts_along_the_members_mean() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GaussianEnsemble(2, 1, EnsembleSettings(members=3, elites=2, width=8, depth=1, target="delta"))
    start = torch.tensor([[0.1, -0.4], [1.0, 2.0]])
    plans = policy_plans(PlanModel(model), start, lambda obs: obs.sum(1, keepdim=True).tanh(), n=3, horizon=4)
    assert plans.shape == (2, 3, 4, 1) and torch.equal(plans[:, 0], plans[:, 2])
    obs = start
    for step in range(4):
        action = obs.sum(1, keepdim=True).tanh()
        torch.testing.assert_close(plans[:, 0, step], action)
        obs = model.predict_elites(obs, action).mean.mean(0)[:, :-1]
