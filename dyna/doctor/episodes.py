"""How episodes end under random actions."""

from __future__ import annotations

from dyna.doctor.findings import Finding
from dyna.doctor.sampling import Sample

LONG = 1_000  # steps of an episode, the longest limit that is usual
SLOW = 20  # steps a second: at 50 ms a step, the environment takes as long as all the updates that learn from it


def ends(sample: Sample, limit: int | None) -> Finding:
    """How often a step terminates or truncates; `limit` is the time limit that Gymnasium was told of, if any."""
    lengths = sample.lengths
    told = f"time limit {limit}" if limit else "no time limit is told to Gymnasium"
    if len(lengths) == 0:
        seen = f"no episode ended in {sample.steps} steps; {told}"
        if limit:
            return Finding("episodes", "ok", seen)
        remedy = "set truncated in step(), or --env-kwargs max_episode_steps=1000"
        return Finding("episodes", "warning" if sample.steps >= LONG else "note", seen, remedy)
    terminated = int((sample.transitions.terminated > 0).sum())
    truncated = int(sample.truncated.sum())
    seen = (
        f"{len(lengths)} in {sample.steps} steps: {terminated} terminated, {truncated} truncated; "
        f"{int(lengths.min())} to {int(lengths.max())} steps, median {int(lengths.median())}; {told}"
    )
    if int(lengths.max()) == 1:
        return Finding("episodes", "note", f"every episode is one step long ({len(lengths)} of them)", "check the ends")
    if not truncated and not limit:
        return Finding("episodes", "note", seen, "if a good policy lives on: --env-kwargs max_episode_steps=1000")
    return Finding("episodes", "ok", seen)


def speed(sample: Sample) -> Finding:
    """Steps a second of the environment alone."""
    rate = sample.steps / max(sample.seconds, 1e-9)
    if rate < SLOW:
        seen = f"{rate:.1f} steps a second: 10,000 steps take {10_000 / rate / 60:.0f} minutes"
        return Finding("speed", "warning", seen, "a coarser simulation step, compiled code, or --n-envs")
    return Finding("speed", "ok", f"{rate:,.0f} steps a second")
