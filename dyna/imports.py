"""Modules of the user: the current folder counts, as it does for `python script.py`."""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType

from dyna.errors import UserError


def user_module(name: str, of: str) -> ModuleType:
    """The module of that name, from the current folder or installed.

    Raises UserError, in whose sentence `of` says what the module is for.
    """
    if name.endswith(".py"):
        module = name.removeprefix("./").removesuffix(".py").replace("/", ".")
        raise UserError(f"{of} names a file where a module belongs: write {of.replace(name, module)}")
    search_here()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise UserError(
                f"no module {name!r} for {of}: put {name.replace('.', '/')}.py into {os.getcwd()} or install the "
                "package"
            ) from error
        raise UserError(f"the module {name!r} of {of} needs {error.name!r}: install it") from error
    except Exception as error:  # the module's own code
        raise UserError(f"the module {name!r} of {of} cannot be imported: {type(error).__name__}: {error}") from error


def search_here() -> None:
    """From now on the current folder is searched for modules."""
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()  # the file may be younger than the last look at the folder
