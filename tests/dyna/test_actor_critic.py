"""The update is SB3's SAC, computed differently."""

from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import pytest
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.logger import configure
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from dyna import actor_critic
from dyna.actor_critic import StackedCritic, StackedSACPolicy
from dyna.bounded import BoundedSACPolicy
from dyna.types import Transitions

STACK = ("critic", "critic_target")


class Script:
    """A replay buffer that hands out a fixed sequence of batches."""

    def __init__(self, batches: list[Transitions]) -> None:
        self.batches: Iterator[Transitions] = iter(batches)

    def sample(self, batch_size: int, env: object = None) -> ReplayBufferSamples:
        obs, action, reward, next_obs, terminated = next(self.batches)
        return ReplayBufferSamples(obs, action, next_obs, terminated[:, None], reward[:, None])


def batches(count: int, rows: int = 32) -> list[Transitions]:
    rng = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng)

    return [
        Transitions(normal(rows, 3), normal(rows, 1).tanh(), normal(rows), normal(rows, 3), (normal(rows) > 1).float())
        for _ in range(count)
    ]


def sac(policy: str | type[StackedSACPolicy], **kwargs: object) -> SAC:
    agent = SAC(policy, gym.make("Pendulum-v1"), seed=5, policy_kwargs={"net_arch": [16, 16]}, device="cpu", **kwargs)  # type: ignore[arg-type]
    agent.set_logger(configure(None, []))
    return agent


def stacked_weights(agent: SAC) -> dict[str, torch.Tensor]:
    critics = {
        name: getattr(agent, name)
        if isinstance(getattr(agent, name), StackedCritic)
        else StackedCritic(getattr(agent, name), [16, 16], torch.nn.ReLU)
        for name in STACK
    }
    return {
        **{f"actor.{key}": value for key, value in agent.actor.state_dict().items()},
        **{f"{name}.{key}": value for name, critic in critics.items() for key, value in critic.state_dict().items()},
    }


@pytest.mark.parametrize("ent_coef", ["auto", 0.2])
def test_forty_updates_end_where_sb3s_end(ent_coef: str | float) -> None:
    theirs, ours = sac("MlpPolicy", ent_coef=ent_coef), sac(StackedSACPolicy, ent_coef=ent_coef)
    start = {name: value.clone() for name, value in stacked_weights(ours).items()}
    for name, value in stacked_weights(theirs).items():
        assert torch.equal(value, start[name]), f"{name} starts different"

    theirs.replay_buffer = Script(batches(40))  # type: ignore[assignment]
    torch.manual_seed(0)
    theirs.train(40, 32)

    torch.manual_seed(0)
    for batch in batches(40):
        alpha = ours.ent_coef_tensor if ours.log_ent_coef is None else ours.log_ent_coef.detach().exp()
        losses = actor_critic.update(ours.policy, batch, alpha=alpha, gamma=ours.gamma)  # type: ignore[arg-type]
        actor_critic.update_temperature(ours, losses.entropy)
        actor_critic.update_target(ours.critic, ours.critic_target, ours.tau)

    for name, value in stacked_weights(theirs).items():
        torch.testing.assert_close(stacked_weights(ours)[name], value, rtol=1e-3, atol=1e-5, msg=name)
    assert not torch.equal(stacked_weights(ours)["actor.mu.weight"], start["actor.mu.weight"])
    if ours.log_ent_coef is not None:
        torch.testing.assert_close(ours.log_ent_coef, theirs.log_ent_coef, rtol=1e-4, atol=1e-6)


def test_sb3s_own_training_runs_on_the_stacked_policy() -> None:
    agent = sac(StackedSACPolicy)
    before = stacked_weights(agent)["critic.q_networks.layers.0.weight"].clone()
    agent.replay_buffer = Script(batches(3))  # type: ignore[assignment]
    agent.train(3, 32)
    assert not torch.equal(before, stacked_weights(agent)["critic.q_networks.layers.0.weight"])


def test_the_actors_gradient_leaves_the_critic_alone() -> None:
    agent = sac(StackedSACPolicy)
    action, _ = actor_critic.sample_action(agent.actor, torch.randn(8, 3))
    assert ((action >= -1) & (action <= 1)).all()
    loss = agent.critic.values(torch.randn(8, 3), action).mean()  # type: ignore[operator]
    parameters = agent.actor.optimizer.param_groups[0]["params"]
    assert all(grad is not None for grad in torch.autograd.grad(loss, parameters[:2]))
    assert all(parameter.grad is None for parameter in agent.critic.parameters())


def test_a_log_density_is_that_of_the_squashed_gaussian() -> None:
    agent = sac(StackedSACPolicy)
    obs = torch.randn(64, 3)
    torch.manual_seed(1)
    action, log_prob = actor_critic.sample_action(agent.actor, obs)
    torch.manual_seed(1)
    expected_action, expected = agent.actor.action_log_prob(obs)
    torch.testing.assert_close(action, expected_action)
    torch.testing.assert_close(log_prob, expected.reshape(-1), rtol=1e-4, atol=1e-4)


def test_a_target_moves_by_tau() -> None:
    a, b = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    expected = 0.9 * b.weight.detach() + 0.1 * a.weight.detach()
    actor_critic.update_target(a, b, 0.1)
    torch.testing.assert_close(b.weight.detach(), expected)


@pytest.mark.parametrize("kind", [StackedSACPolicy, BoundedSACPolicy])
@pytest.mark.parametrize("layer_norm", [True, False])
def test_a_policy_that_was_saved_alone_answers_as_before(
    kind: type[StackedSACPolicy], layer_norm: bool, tmp_path: Path
) -> None:
    env = gym.make("Pendulum-v1")
    policy = kind(env.observation_space, env.action_space, lambda _: 1e-3, layer_norm=layer_norm, net_arch=[16])
    for parameter in policy.critic.parameters():
        torch.nn.init.normal_(parameter)
    policy.save(str(tmp_path / "policy.pth"))
    loaded = kind.load(str(tmp_path / "policy.pth"))
    rows = batches(1)[0]
    assert torch.equal(loaded.critic.values(rows.obs, rows.action), policy.critic.values(rows.obs, rows.action))
    assert torch.equal(loaded.actor(rows.obs, deterministic=True), policy.actor(rows.obs, deterministic=True))
