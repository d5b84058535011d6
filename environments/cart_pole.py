"""Cart-poles whose cart is pushed by any force: one to be kept up, one to be swung up.

The physics and the pictures are Gymnasium's (Barto, Sutton & Anderson 1983), but for the force.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

TRACK = 2.4  # metres to each side
POLE = 1.0  # metres; Gymnasium's `length` is half of it
LEAN = math.radians(12)
Observation = npt.NDArray[np.float32]


class _ContinuousCartPole(CartPoleEnv):
    """Gymnasium's cart-pole, pushed by 10 N times an action in [-1, 1] for 0.02 s."""

    state: Any  # place (m), speed (m/s), angle (rad, 0 is up), turning speed (rad/s)

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        self.action_space = spaces.Box(-1.0, 1.0, (1,))

    def _push(self, action: npt.ArrayLike) -> tuple[float, float, float, float]:
        """Place, speed, angle and turning speed after one step of Euler's method."""
        place, speed, angle, turning = (float(value) for value in self.state)
        force = self.force_mag * float(np.clip(np.asarray(action).item(), -1.0, 1.0))
        sin, cos = math.sin(angle), math.cos(angle)
        pushed = (force + self.polemass_length * turning**2 * sin) / self.total_mass
        inertia = self.length * (4.0 / 3.0 - self.masspole * cos**2 / self.total_mass)
        turning_rate = (self.gravity * sin - cos * pushed) / inertia
        rate = pushed - self.polemass_length * turning_rate * cos / self.total_mass
        return (
            place + self.tau * speed,
            speed + self.tau * rate,
            angle + self.tau * turning,
            turning + self.tau * turning_rate,
        )

    def _show(self) -> None:
        if self.render_mode == "human":
            self.render()  # type: ignore[no-untyped-call]


class CartPoleContinuous(_ContinuousCartPole):
    """CartPole-v1 with a force of choice: 1 a step, until the pole leans by 12 degrees or the cart leaves the track.

    It is the task on which mbrl-lib shows PETS. As registered, an episode has 200 steps.

    :param render_mode: As in Gymnasium's CartPole.
    """

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Gymnasium's step."""
        self.state = self._push(action)
        self._show()
        seen = np.array(self.state, np.float32)
        return seen, 1.0, bool(fallen(seen, action, seen)), False, {}


class CartPoleSwingUp(_ContinuousCartPole):
    """The pole hangs down and is to be swung up, as in PETS (Chua et al. 2018): at most 1 a step.

    The observation is place, speed, sine and cosine of the angle, and turning speed; the pole stands at angle 0. The
    reward is exp(-d^2 / l^2) - 0.01 a^2 with d the distance of the pole's tip from where it is when the pole stands at
    the track's middle, and l the pole's length. A step is two of 0.02 s. The track has no end.
    As registered, an episode has 200 steps.

    :param render_mode: As in Gymnasium's CartPole.
    """

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.observation_space = spaces.Box(-np.inf, np.inf, (5,))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Gymnasium's reset."""
        super().reset(seed=seed)
        place, speed, angle, turning = self.np_random.normal(0.0, 0.1, 4)
        self.state = (place, speed, math.pi + angle, turning)
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Gymnasium's step."""
        for _ in range(2):
            self.state = self._push(action)
        self._show()
        seen = self._seen()
        return (
            seen,
            float(swing_up_reward(seen, np.clip(np.asarray(action, np.float32), -1.0, 1.0), seen)),
            False,
            False,
            {},
        )

    def _seen(self) -> Observation:
        place, speed, angle, turning = self.state
        return np.array([place, speed, math.sin(angle), math.cos(angle), turning], np.float32)


def fallen(obs: Any, action: Any, next_obs: Any) -> Any:
    """The exact end of CartPoleContinuous, of arrays or tensors: [..., 4], [..., 1], [..., 4] -> bool [...].

    What `termination_fn=dyna.environments.cart_pole:fallen` asks for.
    """
    return (abs(next_obs[..., 0]) > TRACK) | (abs(next_obs[..., 2]) > LEAN)


def swing_up_reward(obs: Any, action: Any, next_obs: Any) -> Any:
    """The exact reward of CartPoleSwingUp, of arrays or tensors: [..., 5], [..., 1], [..., 5] -> [...].

    What `reward_fn=dyna.environments.cart_pole:swing_up_reward` asks for.
    """
    across = next_obs[..., 0] + POLE * next_obs[..., 2]
    below = POLE - POLE * next_obs[..., 3]
    return math.e ** (-(across**2 + below**2) / POLE**2) - 0.01 * action[..., 0] ** 2
