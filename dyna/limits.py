"""The range of each number that Stable-Baselines3's algorithms take; most of them judge none before they learn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

from dyna.errors import UserError

_SHARES = ("gamma", "gae_lambda", "tau", "exploration_fraction", "exploration_initial_eps", "exploration_final_eps")
_COUNTS = (
    *("batch_size", "buffer_size", "cg_max_steps", "line_search_max_iter", "n_critic_updates", "n_delta", "n_epochs"),
    *("n_eval_episodes", "n_steps", "policy_delay", "stats_window_size", "sub_sampling_factor", "train_freq"),
    *("target_update_interval",),
)
_NOT_NEGATIVE = (
    *("learning_rate", "learning_starts", "ent_coef", "vf_coef", "clip_range", "delta_std", "max_grad_norm"),
    *("noise_std", "rms_prop_eps", "target_policy_noise", "target_noise_clip", "target_kl", "cg_damping"),
)
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(_SHARES, (0, 1)),
    **dict.fromkeys(_COUNTS, (1, math.inf)),
    **dict.fromkeys(_NOT_NEGATIVE, (0, math.inf)),
    # -1: as many updates as there were steps, and no noise drawn anew within a rollout
    **dict.fromkeys(("gradient_steps", "sde_sample_freq"), (-1, math.inf)),
}
"""The least and the most, both allowed but for infinity."""


def check(settings: Mapping[str, Any]) -> None:
    """Raise UserError for a number outside its range; what is no number, a schedule for one, is not judged."""
    for name, value in settings.items():
        if name in RANGES and isinstance(value, Real):
            least, most = RANGES[name]
            if not (math.isfinite(value) and least <= value <= most):
                wanted = f"between {least} and {most}" if most < math.inf else f"a finite number of at least {least}"
                raise UserError(f"{name} must be {wanted}, got {value}")
