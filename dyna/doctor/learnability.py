"""Whether a world model can learn the environment: the state, the reward and the end of a step."""

from __future__ import annotations

import math

from torch import Tensor

from dyna.doctor import heldout
from dyna.doctor.findings import Finding
from dyna.doctor.heldout import Foreseen
from dyna.doctor.sampling import Sample
from dyna.errors import RunFailed

LEAST = 500  # steps below which nothing is said
# Measured by tests/benchmarks/doctor.py, 4,000 steps, three seeds each. What a past step takes off the error, as share
# of a change's variance: at most 0.18 in good environments (contacts of Reacher-v5 and Hopper-v5), where 0.39 of the
# error is left at least; 0.55 to 0.97 where velocities are hidden; 0.10, and 0.03 left, where an action acts late.
GAIN = 0.3
SMALL_GAIN, LEFT = 0.05, 0.25
R2 = 0.5  # 0.82 to 1.00 in good environments, 0.01 to 0.45 where the reward has noise or a hidden part
F1 = 0.7  # 0.89 to 1.00 in good environments, 0.00 where chance or the clock ends the task
HALF = 0.5  # of the changes unforeseen, and a world model's rollouts are mostly noise
FEW = 20  # ends, or steps that hold the reward's variance, below which a score would be luck
PILE, SHORT = 3, 10  # episodes of one length that look like a time limit, and steps that are too few for one
MORE = "more --steps"


def examine(sample: Sample, seed: int) -> list[Finding]:
    """Of the state, the reward and the end; the errors are those of rows that were held out."""
    if sample.steps < LEAST:
        return [Finding("world model", "note", f"{sample.steps} steps are too few to tell what can be learnt", MORE)]
    try:
        now = heldout.foresee(sample, seed, history=False)
        past = heldout.foresee(sample, seed, history=True) if _may_hide(now, sample) else None
    except RunFailed as error:
        return [Finding("world model", "error", str(error), "bring the values into the range of 32-bit numbers")]
    return [state(now, past, sample), reward(now, past, sample), termination(now, sample)]


def _may_hide(now: Foreseen, sample: Sample) -> bool:
    """Whether a warning is possible at all: a state that is foreseen has nothing to gain from its past."""
    rows = heldout.with_past(sample)
    if len(rows) < LEAST:  # episodes of one step have no past
        return False
    error = now.state_error(sample.transitions, rows).amin(0)
    return bool((error > SMALL_GAIN).any()) or now.reward_r2(sample.transitions) < R2


def state(now: Foreseen, past: Foreseen | None, sample: Sample) -> Finding:
    """Whether one more past step tells more of the next state than the state itself does."""
    data = sample.transitions
    rows = now.rows if past is None else past.rows
    error = now.state_error(data, rows)
    worst = int(error.mean(0).argmax())
    seen = f"{_foreseen(error.mean())} of the changes are foreseen, least of {sample.names[worst]}"
    seen += f" ({_foreseen(error.mean(0)[worst])})"
    if past is None:
        return Finding("Markov state", "ok", seen)
    better = past.state_error(data, rows)
    gain, left = hidden(error, better)
    found = (gain > GAIN) | ((gain > SMALL_GAIN) & (left < LEFT))
    if found.any():
        most = int(gain.where(found, -math.inf).argmax())
        before, after = (_foreseen(each[:, most].mean()) for each in (error, better))
        seen = f"of the change of {sample.names[most]}, {before} is foreseen, but {after} with one more past step"
        remedy = "observe what is hidden (a velocity, the last action), or wrap in FrameStackObservation"
        return Finding("Markov state", "warning", seen, remedy)
    seen += "; one more past step tells no more"
    if error.mean() > HALF:
        return Finding(
            "Markov state", "note", seen, "a world model helps little here; more --steps, if it is not chance"
        )
    return Finding("Markov state", "ok", seen)


def hidden(now: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
    """What one more past step takes off the errors [FOLDS, S], and the share that it leaves: the worse fold's, [S]."""
    return (now - past).amin(0), (past / now.clamp_min(1e-9)).amax(0)


def reward(now: Foreseen, past: Foreseen | None, sample: Sample) -> Finding:
    """Whether the reward is a function of the state, the action and the next state."""
    paid = sample.transitions.reward.double()
    off = (paid - paid.mean()).square()
    if off.max() <= 1e-12 * paid.square().mean():
        return Finding("reward learnable", "ok", "it never varied")
    carrying = float(off.sum().square() / off.square().sum())
    if carrying < FEW:
        seen = f"its variance hangs on about {carrying:.0f} of {sample.steps} steps: too few to tell"
        return Finding("reward learnable", "note", seen, MORE)
    r2 = now.reward_r2(sample.transitions)
    seen = f"R2 {r2:.3f} on held-out steps"
    if r2 >= R2:
        return Finding("reward learnable", "ok", seen)
    more = past.reward_r2(sample.transitions) if past else r2
    if more - r2 > GAIN:
        seen += f", {more:.2f} with one more past step"
    remedy = "observe what it depends on, or give it: -p reward_fn=module:function"
    return Finding("reward learnable", "warning", seen, remedy)


def termination(now: Foreseen, sample: Sample) -> Finding:
    """Whether the end is a function of the state, the action and the next state."""
    data = sample.transitions
    ends = int(data.terminated.sum())
    if ends == 0:
        return Finding("termination learnable", "ok", "no step terminated")
    limit = hidden_limit(now, sample)
    if limit:
        seen = f"episodes end terminated after exactly {limit} steps, in states where others went on"
        return Finding("time limit", "warning", seen, "at a time limit, return truncated=True and terminated=False")
    if ends < FEW:
        return Finding("termination learnable", "note", f"{ends} steps terminated: too few to tell", MORE)
    f1 = now.termination_f1(data)
    seen = f"F1 {f1:.2f} on held-out steps, {ends} of them ends"
    if f1 >= F1:
        return Finding("termination learnable", "ok", seen)
    remedy = "observe what ends the task, or give it: -p termination_fn=module:function"
    return Finding("termination learnable", "warning", seen, remedy)


def hidden_limit(now: Foreseen, sample: Sample) -> int | None:
    """The length at which episodes terminate because of the clock, if there is one.

    The longest episodes are of one length, far more often than lengths a little shorter, and their last states are
    neither outside of the box of states in which episodes went on nor told from others by the model.
    """
    data = sample.transitions
    ends = sample.ended.nonzero().flatten()
    by_task = data.terminated[ends] > 0
    lengths = sample.lengths
    longest = int(lengths[by_task].max())
    last = ends[by_task & (lengths == longest)]
    near = int((by_task & (lengths < longest) & (lengths > 0.8 * longest)).sum())
    if longest < SHORT or len(last) < max(PILE, 2 * near):
        return None
    alive = data.next_obs[data.terminated == 0]
    inside = ((data.next_obs[last] >= alive.amin(0)) & (data.next_obs[last] <= alive.amax(0))).all(1)
    blind = now.p_terminated[last] < 0.5
    return longest if (inside & blind).float().mean() > 0.5 else None


def _foreseen(error: Tensor) -> str:
    return f"{max(0.0, 1 - float(error)):.0%}"
