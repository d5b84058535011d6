"""Compiled loops: the only place with `@njit`.

Numba keeps machine code beside the sources and looks for changes in a kernel's own file only: `make clean` after a
change to a file whose kernels another file calls.
"""

from dyna.kernels.compiling import Doubles, Floats, Indices, Random, compiled
from dyna.kernels.random import GAMMA, below, draw, draw_distinct, mix, uniform
from dyna.kernels.replay import (
    LINE,
    all_starts,
    draw_starts,
    gather,
    gather_uniform,
    n_step_windows,
    tree_draw,
    tree_find,
    tree_set,
)

__all__ = [
    "GAMMA",
    "LINE",
    "Doubles",
    "Floats",
    "Indices",
    "Random",
    "all_starts",
    "below",
    "compiled",
    "draw",
    "draw_distinct",
    "draw_starts",
    "gather",
    "gather_uniform",
    "mix",
    "n_step_windows",
    "tree_draw",
    "tree_find",
    "tree_set",
    "uniform",
]
