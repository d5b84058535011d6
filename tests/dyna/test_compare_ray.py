"""A comparison on two nodes, of which one is killed in mid-run, brings the results of one machine."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from dyna import checkpoint
from dyna.compare import cluster, curves, grids, local, threads
from dyna.compare.cluster import Cluster
from dyna.compare.execute import Backend, Job, execute
from dyna.errors import UserError
from dyna.interrupts import Interrupts

ROOT = Path(__file__).parents[2]
TOGETHER = 400  # steps of a process until which a run does not wait
taken = itertools.count()


class Gated(gym.Wrapper[Any, Any, Any, Any]):
    """Pendulum that waits in mid-run until a file is there, so that no run ends before a node is killed."""

    def __init__(self, gate: str) -> None:
        super().__init__(gym.make("Pendulum-v1"))
        self.gate = Path(gate)

    def step(self, action: Any) -> Any:
        if next(taken) > TOGETHER:
            until = time.monotonic() + 120
            while not self.gate.exists() and time.monotonic() < until:
                time.sleep(0.02)
        return super().step(action)


GRID = {
    "env": f"{__name__}:{Gated.__name__}",
    "algo": "td3",
    "seeds": 2,
    "preset": False,
    "steps": 900,
    "eval_every": 300,
    "eval_episodes": 1,
    "checkpoint_every": 100,
    "hyperparameters": {"learning_starts": 100, "batch_size": 16, "policy_kwargs": {"net_arch": [8]}},
}


def run(folder: Path, gate: Path, make: Callable[[Path], Backend], watch: Callable[[Sequence[Job]], None]) -> list[Job]:
    cells = grids.cells([grids.grid_of({**GRID, "env_kwargs": {"gate": str(gate)}})], folder / "runs")
    with make(folder) as backend:  # type: ignore[attr-defined]
        return execute(cells, backend, watch, Interrupts())


def has_checkpoint(job: Job) -> bool:
    return job.run is not None and bool(checkpoint.steps(job.run.checkpoints))


def returns(job: Job) -> list[list[float]]:
    assert job.stage == "finished" and job.run is not None, job.error
    curve = curves.of_run(job.run)
    assert curve is not None
    return [curve.steps.tolist(), curve.returns.tolist()]


@contextlib.contextmanager
def two_nodes() -> Iterator[tuple[str, Callable[[], None]]]:
    """The address of a cluster of two nodes with one core each, and what kills the second."""
    ray = pytest.importorskip("ray", reason="Ray, the extra `ray`, is not installed")
    from ray.cluster_utils import Cluster as Nodes

    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = nodes.add_node(num_cpus=1)
    try:
        yield nodes.address, lambda: nodes.remove_node(second, allow_graceful=False)
    finally:
        ray.shutdown()
        nodes.shutdown()


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_run_whose_node_dies_goes_on_elsewhere_and_learns_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    killed: list[Job] = []
    gate = tmp_path / "gate"

    with two_nodes() as (address, kill):

        def watch(jobs: Sequence[Job]) -> None:
            begun = [
                job for job in jobs if job.stage == "running" and job.run and checkpoint.steps(job.run.checkpoints)
            ]
            if not killed and len(begun) == 2:
                killed.extend(begun)
                kill()
                gate.touch()

        def make(folder: Path) -> Cluster:
            return Cluster(address, threads.Share(2, 1, 2), folder, any_code=False)

        there = run(tmp_path / "there", gate, make, watch)
    here = run(tmp_path / "here", gate, lambda at: local.Processes(threads.Share(2, 1, 2), at), lambda jobs: None)

    assert len(killed) == 2
    logs = [len(list(job.run.path.glob("events.out.tfevents.*"))) for job in there if job.run]
    assert sorted(logs) == [1, 2], "one run was begun once, and one gone on with by a second process"
    assert [returns(job) for job in there] == [returns(job) for job in here]


def test_without_ray_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"--ray needs the package 'ray': pip install -c constraints.txt -e '.\[ray\]'"):
        Cluster(cluster.LOCAL, threads.Share(1, 1, 1), tmp_path, any_code=False)
