"""The range of each number that algorithms take, ours and Stable-Baselines3's, which judge few before they learn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from dyna.errors import UserError

_SHARES = (
    *("real_share", "audit", "update_ratio", "late_updates"),
    "return_lambda",
    "gamma",
    "gae_lambda",
    "tau",
    "exploration_fraction",
    "exploration_initial_eps",
    "exploration_final_eps",
)
_COUNTS = (
    *("batch_size", "buffer_size", "cg_max_steps", "line_search_max_iter", "n_critic_updates", "n_delta", "n_epochs"),
    *("n_eval_episodes", "n_steps", "policy_delay", "stats_window_size", "sub_sampling_factor", "train_freq"),
    *("target_update_interval", "model_every", "dream_every", "rollouts", "model_lifetime"),
    *("candidates", "policy_plans", "elites", "iterations", "particles", "follow"),
)
_COUNTS_FROM_ZERO = ("opening", "learning_starts", "distribution_horizon", "training_horizon")
_NOT_NEGATIVE = (
    *("curiosity", "model_growth", "learning_rate", "ent_coef", "vf_coef", "clip_range", "delta_std", "max_grad_norm"),
    *("noise_std", "rms_prop_eps", "target_policy_noise", "target_noise_clip", "target_kl", "cg_damping"),
)
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(_SHARES, (0, 1)),
    **dict.fromkeys(_COUNTS, (1, math.inf)),
    **dict.fromkeys((*_COUNTS_FROM_ZERO, *_NOT_NEGATIVE), (0, math.inf)),
    # -1: as many updates as there were steps, and no noise drawn anew within a rollout
    **dict.fromkeys(("gradient_steps", "sde_sample_freq"), (-1, math.inf)),
    **dict.fromkeys(("target_entropy", "pessimism"), (-math.inf, math.inf)),
}
"""The least and the most, both allowed but for infinity."""


_WHOLE = frozenset((*_COUNTS, *_COUNTS_FROM_ZERO, "gradient_steps", "sde_sample_freq"))
_OTHER = frozenset(
    (
        *("learning_rate", "clip_range", "delta_std", "ent_coef", "max_grad_norm"),
        *("target_entropy", "target_kl", "train_freq"),
    )
)
"""What may be given as a schedule, a word, a pair or None, too."""


def steps(name: str, value: Any) -> None:
    """Raise UserError for what is no number of steps; one algorithm's may be a list where another's is not."""
    if not isinstance(value, Integral) or value < 1:
        raise UserError(f"{name} must be a whole number of at least 1, got {value!r:.80}")


def word(name: str, value: Any, words: Sequence[str]) -> None:
    """Raise UserError for what is none of the words."""
    if value not in words:
        raise UserError(f"{name} must be {', '.join(words[:-1])} or {words[-1]}, got {value!r:.80}")


def check(settings: Mapping[str, Any]) -> None:
    """Raise UserError for a number outside its range, or for what is none; names without a range are passed over."""
    for name, value in settings.items():
        if name in RANGES and (isinstance(value, Real) or name not in _OTHER):
            least, most = RANGES[name]
            fits = isinstance(value, Integral if name in _WHOLE else Real) and math.isfinite(value)
            if not (fits and least <= value <= most):
                kind = "" if fits else "a whole number of " if name in _WHOLE else "a finite number of "
                bounded = f"{kind}at least {least}" if least > -math.inf else "a finite number"
                wanted = f"in [{least}, {most}]" if most < math.inf else bounded
                raise UserError(f"{name} must be {wanted}, got {value!r:.80}")
