"""Timings that can be compared: jobs in turns, so that what else the machine does falls on all of them."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

SIDE, PRODUCTS = 512, 20
PRODUCT_FLOP = 2 * SIDE**3 * PRODUCTS


class Seconds(NamedTuple):
    """What each repeat of a job took."""

    wall: list[float]
    processor: list[float]


def interleaved(jobs: dict[str, Callable[[], object]], repeats: int) -> dict[str, Seconds]:
    """Times every job, all jobs in turn, after one turn that is not counted."""
    seconds = {name: Seconds([], []) for name in jobs}
    for turn in range(repeats + 1):
        for name, job in jobs.items():
            wall, processor = time.perf_counter(), time.process_time()
            job()
            if turn:
                seconds[name].wall.append(time.perf_counter() - wall)
                seconds[name].processor.append(time.process_time() - processor)
    return seconds


def products(dtype: torch.dtype = torch.float32) -> Callable[[], object]:
    """Matrix products of `PRODUCT_FLOP` floating-point operations, as fast as the processor has them."""
    a = torch.ones(SIDE, SIDE, dtype=dtype) / SIDE

    def job() -> None:
        for _ in range(PRODUCTS):
            a @ a

    return job


def machine() -> str:
    """Processor, cores, threads and load, in a line."""
    name, threads = platform.processor() or platform.machine(), torch.get_num_threads()
    return f"{name}, {os.cpu_count()} cores, {threads} torch threads, load {os.getloadavg()[0]:.1f}"
