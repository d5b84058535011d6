"""The seam with Stable-Baselines3 of an agent that plans: while it collects it acts by plans, and sees how they end.

In each environment a step is planned, follows the plan that there is, or is left to the policy. Windows of steps are
held against what was promised of them, and alarms are handed to the algorithm.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.noise import ActionNoise
from torch import Tensor

from dyna.audits import Audits
from dyna.calibration import Thresholds, surprise
from dyna.configurator import Configurator, Verdict
from dyna.errors import UserError
from dyna.lessons import whole
from dyna.plan_seeds import policy_plans
from dyna.plans import Plan, shifted
from dyna.receding import RecedingHorizonMixin
from dyna.restarts import DROPPED
from dyna.rings import Ring
from dyna.windows import Closed, Windows, newest_steps

Acting = Literal["plan", "audited", "confident", "policy"]

REMEMBERED_PLANS = 2_000


class PlanningMixin(RecedingHorizonMixin):
    """Put before a Dyna method with a policy and critics, it collects by plans and judges them.

    The subclass sets the attributes from `acting` to `decided` before SB3's constructor, and writes the six methods
    that raise NotImplementedError; the outcomes of its plans come to `correct`. Of discrete actions it plans with
    one-hot ones, which the policy's `unscale_action` makes numbers of.
    """

    stateful: ClassVar[tuple[str, ...]] = ("configurator", "plans", "audits")
    """Attributes with a state_dict, which checkpoints hold."""
    of_the_moment: ClassVar[tuple[str, ...]] = ("thresholds", "trusted", *stateful)
    """Attributes that SB3's own file leaves out."""
    acting: Acting
    horizon: int  # steps of a plan
    follow: int  # steps for which a plan is followed at most
    audit: float  # share of turns that are audited, or of states in which the policy is sure and a plan is made
    pooled: bool  # one detector for all parts
    centred: bool  # only what differs from the critics' residual everywhere is their error
    gamma: float
    decided: dict[str, int]  # environment steps planned, followed and reacted
    alarmed_at: int  # step of the last alarm
    trusted: Tensor  # [n_envs] steps for which the plan that there is will be followed
    audits: Audits  # of plans and of the policy
    plans: Ring  # obs [S], mean [A], std [A] of the first action of the plans made

    @property
    def window(self) -> int:
        """Environment steps in which the outcome of a plan comes in, all environments together."""
        return self.horizon * self.n_envs

    def blank(self) -> Tensor:
        """No action: zeros [1, H, A]."""
        return torch.zeros(1, self.horizon, self.world_model.action_size, device=self.device)

    def plan(self, obs: Tensor, warm: Tensor, rng: torch.Generator, *, in_play: bool = False) -> Plan:
        """Mode-2: plans from observations [B, S], begun with [B, H, A], in play by `value_in_play`.

        Raises Diverged where no plan has a finite value.
        """
        raise NotImplementedError

    def draw(self, plan: Plan, noise: Tensor) -> Tensor:
        """First actions [B, A] of plans, made to vary by normal noise [B, A] as much as their search ended."""
        raise NotImplementedError

    def react(self, obs: Tensor, noise: Tensor | None = None) -> Tensor:
        """Mode-1: the policy's most likely action, or by normal noise [B, A] a draw: [B, S] -> [B, A] in [-1, 1]."""
        raise NotImplementedError

    def reply(self, obs: Tensor) -> Tensor:
        """Mode-1's most likely action where nothing is learned from it: [B, S] -> [B, A] in [-1, 1]."""
        return self.react(obs)

    def value(self, obs: Tensor) -> Tensor:
        """What states are worth, by each critic: [B, S] -> [C, B]."""
        raise NotImplementedError

    def value_in_play(self, obs: Tensor) -> Tensor:
        """As `value`, where plans are made to play and not to explore."""
        return self.value(obs)

    def is_confident(self, obs: Tensor) -> Tensor:
        """Where Mode-1 may act alone: [B, S] -> bool [B]."""
        raise NotImplementedError

    def correct(self, verdict: Verdict) -> None:
        """Take note of an outcome, and of the parts that must be corrected."""
        raise NotImplementedError

    @torch.no_grad()
    def respond(
        self, obs: Tensor, warm: Tensor, deterministic: bool, rng: torch.Generator
    ) -> tuple[Tensor, Tensor] | None:
        """Actions [B, A] for observations [B, S] and the next plans' starts [B, H, A]; None before the first fit."""
        if self.world_model.version == 0:
            return None
        noise = None if deterministic else torch.randn(len(obs), warm.shape[-1], generator=rng, device=obs.device)
        action, after = self.reply(obs) if noise is None else self.react(obs, noise), torch.zeros_like(warm)
        unsure = (~self.is_confident(obs)).nonzero().squeeze(1)
        if len(unsure):
            plan = self.plan(obs[unsure], warm[unsure], rng, in_play=True)
            action[unsure] = plan.actions[:, 0] if noise is None else self.draw(plan, noise[unsure])
            after[unsure] = shifted(plan.actions)
        return action, after

    @torch.no_grad()
    def act(self, obs: Tensor) -> Tensor:
        """Plan, follow the plan that there is, or react in each environment: [n_envs, S] -> [n_envs, A]."""
        noise = torch.randn(len(obs), self.world_model.action_size, generator=self.rng, device=self.device)
        reacts = self._left_to_policy(obs)
        follows = self.trusted > 0
        reacts = reacts & ~follows
        thinks = (~follows & ~reacts).nonzero().squeeze(1)
        quiet = ~self.audits.noisy
        replies = quiet & reacts
        action, after = self.react(obs, noise), shifted(self.warm_start)
        if replies.any():
            action[replies] = self.reply(obs[replies])
        action[follows] = self.warm_start[follows, 0]
        after[reacts] = 0.0
        intended = torch.full_like(after, torch.nan)
        for plays in (False, True):
            envs = thinks[quiet[thinks] == plays]
            if not len(envs):
                continue
            plan = self.plan(obs[envs], self.warm_start[envs], self.rng, in_play=plays)
            action[envs] = plan.actions[:, 0] if plays else self.draw(plan, noise[envs])
            after[envs] = shifted(plan.actions)
            intended[envs], self.trusted[envs] = plan.actions, self.follow
            self.plans.add(obs=obs[envs], mean=plan.mean[:, 0], std=plan.std[:, 0])
        self._promise(obs, intended, follows)
        self.trusted, self.warm_start = (self.trusted - 1).clamp_min(0), after
        self.updates["plans"] += len(thinks)
        for name, count in zip(self.decided, (len(thinks), int(follows.sum()), int(reacts.sum())), strict=True):
            self.decided[name] += count
        return action

    def _left_to_policy(self, obs: Tensor) -> Tensor:
        """Where the policy acts if no plan is followed: [n_envs, S] -> bool [n_envs]. An audit makes its own."""
        if self.acting == "audited":
            waiting = self.configurator.windows.waiting()
            self.trusted[waiting.to(self.device)] = 0  # a step in no window would be nobody's, and with it a fall
            self.audits.take(waiting, self.rng)
            return ~self.audits.planned
        reacts = self.is_confident(obs)
        if self.acting == "confident":
            reacts &= torch.rand(len(obs), generator=self.rng, device=self.device) >= self.audit
            reacts &= self.num_timesteps - self.alarmed_at > self.window
        return reacts

    def _promise(self, obs: Tensor, intended: Tensor, follows: Tensor) -> None:
        """Note what is promised of new plans [n_envs, H, A], and of the policy where it reacts (NaN)."""
        waiting = self.configurator.windows.waiting().to(self.device)
        envs = waiting[~follows[waiting]]
        if len(envs):
            model = self.plan_model()
            alone = policy_plans(model, obs[envs], self.react, 1, self.horizon)[:, 0]
            self.configurator.promise(model, envs, obs[envs], intended[envs], alone)

    def freeze(self) -> None:
        """After a fit, when critics know their range: measure anew what counts as a surprise, follow no old plan."""
        data = self.replay_buffer.all_transitions()
        lessons = self.lessons(len(data.obs))
        self.configurator.freeze(self.world_model, data, None if lessons is None else whole(lessons))
        self.trusted[:] = 0

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        if self.num_timesteps < learning_starts or self.world_model.version == 0:  # nothing to plan with yet
            return super()._sample_action(learning_starts, action_noise, n_envs)
        obs = torch.as_tensor(np.asarray(self._last_obs), dtype=torch.float32, device=self.device)
        action = self.policy.shaped(self.act(obs))
        if action_noise is not None:
            noisy = self.audits.noisy.cpu().numpy().reshape(-1, *[1] * (action.ndim - 1))
            action = np.where(noisy, np.clip(action + action_noise(), -1.0, 1.0), action)
        chosen = self.policy.unscale_action(action)
        return chosen, action if isinstance(self.action_space, spaces.Box) else chosen  # what replay takes, as SB3

    def _store_transition(self, replay_buffer: Any, buffer_action: Any, new_obs: Any, *rest: Any) -> None:
        super()._store_transition(replay_buffer, buffer_action, new_obs, *rest)
        _, dones, infos = rest
        done, windows = torch.as_tensor(dones, dtype=torch.bool), self.configurator.windows
        self.trusted[done.to(self.device)] = 0
        windows.drop(torch.tensor([DROPPED in info for info in infos]))  # such a step is replaced by another
        for closed in windows.advance(done):
            verdict = self.configurator.judge(self.plan_model(), self.replay_buffer, closed, self.rng)
            if verdict.alarms:
                self.alarmed_at = self.num_timesteps
            self.correct(verdict)
            self.audits.note(closed.envs, verdict.account.critic)
        if self.trusted.any():
            self._distrust()
        if self.audits.advance(done, windows.under_way()) and not math.isnan(lead := self.audits.lead()):
            self.thresholds.lead.fill_(lead)  # NaN while audits are few: then what the agent was loaded with stands

    def _distrust(self) -> None:
        """Plan anew where the newest step led out of the predicted set (Remonda et al. 2021, 2105.05716)."""
        everyone = Closed(torch.arange(self.n_envs), 1, self.trusted, self.trusted)
        newest = newest_steps(self.replay_buffer, everyone).at(0)
        self.trusted[self.thresholds.missed(surprise(self.world_model, newest))[0]] = 0

    def _setup_model(self) -> None:
        super()._setup_model()
        if self.replay_buffer.buffer_size < self.horizon:
            raise UserError(
                f"buffer_size must be at least the horizon's {self.horizon} steps of each environment, got "
                f"{self.buffer_size}"
            )
        obs_size, action_size = self.world_model.obs_size, self.world_model.action_size
        self.thresholds = Thresholds().to(self.device)
        self.audits = Audits(self.n_envs, self.audit, self.device)
        self.configurator = Configurator(
            self.n_envs,
            self.horizon,
            obs_size,
            action_size,
            gamma=self.gamma,
            value=self.value,
            thresholds=self.thresholds,
            pooled=self.pooled,
            centred=self.centred,
        )
        widths = {"obs": obs_size, "mean": action_size, "std": action_size}
        self.plans = Ring(REMEMBERED_PLANS, widths, self.device)
        self.forget_episodes()

    def leave_episode(self, i: int) -> None:
        """The running episode of environment i is left for a new one: nothing that was promised of it will come."""
        super().leave_episode(i)
        self.trusted[i] = 0
        self.configurator.windows.drop(i)
        self.audits.leave(i)

    def load_replay_buffer(self, path: Any, truncate_last_traj: bool = True) -> None:
        """As ever; the loaded steps are not those of which something was promised."""
        super().load_replay_buffer(path, truncate_last_traj)
        self.forget_episodes()

    def forget_episodes(self) -> None:
        """New episodes start in all environments, and nothing that was promised of the old ones will come."""
        super().forget_episodes()
        self.alarmed_at = -self.window - 1
        self.trusted = torch.zeros(self.n_envs, dtype=torch.int64, device=self.device)
        self.configurator.windows = Windows(self.n_envs, self.horizon, self.device)
        self.audits.begin(self.n_envs, self.device)

    def extra_state(self) -> dict[str, Any]:
        """As ever, with what is promised and not yet known, what the detectors heard, and the plans made."""
        return {**super().extra_state(), **{name: getattr(self, name).state_dict() for name in self.stateful}}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what `extra_state` returned."""
        super().load_extra_state(state)
        for name in self.stateful:
            getattr(self, name).load_state_dict(state[name])

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        names, tensors = super()._get_torch_save_params()
        return [*names, "thresholds"], tensors

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), *self.of_the_moment]
