"""How a loop becomes machine code, and the arrays that loops work on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
from numba import njit

F = TypeVar("F", bound=Callable[..., Any])
Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]
Doubles = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Random = npt.NDArray[np.uint64]

log = logging.getLogger("dyna")


def compiled(function: F) -> F:
    """`function` as machine code, kept on disk in the package folder, `NUMBA_CACHE_DIR` or the user's cache folder."""
    return _compiled(function, fastmath=False)


def reordered(function: F) -> F:
    """As `compiled`; sums may be taken in another order than they are written, and so by vectors."""
    return _compiled(function, fastmath={"reassoc", "contract", "nsz", "arcp"})


def _compiled(function: F, **options: Any) -> F:
    try:
        return cast(F, njit(cache=True, error_model="numpy", **options)(function))
    except RuntimeError as error:  # none of the three can be written to
        log.debug("%s is compiled anew in every process: %s", function.__name__, error)
        return cast(F, njit(error_model="numpy", **options)(function))
