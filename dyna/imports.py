"""Modules of the user: the current folder counts, as it does for `python script.py`."""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType


def user_module(name: str) -> ModuleType:
    """The module of that name, from the current folder or installed; raises what its import raises."""
    search_here()
    return importlib.import_module(name)


def search_here() -> None:
    """From now on the current folder is searched for modules."""
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()  # the file may be younger than the last look at the folder
