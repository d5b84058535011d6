"""Which code makes a run: two runs of one configuration are repetitions of each other only where this agrees."""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib.util
import pkgutil
import platform
import sys
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, version
from importlib.util import resolve_name
from pathlib import Path

import dyna
from dyna import registry
from dyna.imports import search_here

PACKAGES = ("torch", "stable-baselines3", "sb3-contrib", "gymnasium", "numpy", "mujoco")
"""Packages whose release can change what is learnt."""
SILENT = frozenset(
    f"dyna.{name}"
    for name in """annotations checkpoint config docstrings errors files imports interrupts kinds locks logs machine
    plain presets progress registry runs sources tree""".split()
)
"""Modules of the engine that only tell, store, or read settings, which are compared by themselves."""


@functools.cache  # a process runs what it has imported, whatever happens to the files
def code_version(algo: str, env: str) -> str:
    """The toolkit's version and a hash of everything that can change what an algorithm learns in an environment.

    Hashed are the trainer, the algorithm's module and the environment's, as far as they do not belong to PACKAGES, each
    with what it imports from its own top-level package and from the current folder; the releases of PACKAGES and of
    Python. Comments, layout and docstrings do not count, and of a module without Python source, or whose source cannot
    be read, only the name does. What is only named, as inside a function, is not imported. Raises UserError for an
    unknown algorithm.
    """
    search_here()
    modules = _with_imports("dyna.train")
    for target in (*registry.addresses(algo), env, _entry_point(env)):
        module, colon, _ = target.partition(":")
        if colon and not _is_released(module):
            modules |= _with_imports(module)
    digest = hashlib.sha256(platform.python_version().encode())
    for package in PACKAGES:
        digest.update(f"{package} {_version(package)}\n".encode())
    for module in sorted(modules):
        digest.update(f"{module}\n{_learning_code(module)}\n".encode())
    return f"{dyna.__version__}-{digest.hexdigest()[:12]}"


def _entry_point(env: str) -> str:
    """Where Gymnasium finds the class of an environment; empty where it does not know it by a text."""
    spec = registry.environments().get(env.rpartition(":")[2])
    return spec.entry_point if spec is not None and isinstance(spec.entry_point, str) else ""


def _is_released(module: str) -> bool:
    return module.partition(".")[0].replace("_", "-") in PACKAGES


def _with_imports(module: str) -> set[str]:
    """A module and all that it imports, wherever in its text, from its own top-level package or the current folder."""
    package = module.partition(".")[0]
    here = Path.cwd().resolve()
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in found and name not in SILENT:
            found.add(name)
            waiting += [each for each in _imports(name) if _is_near(each, package, here)]
    return found


def _is_near(name: str, package: str, here: Path) -> bool:
    """Whether what was imported is a module of the package, or one that the user keeps in the folder."""
    if name.partition(".")[0] == package:
        return _origin(name) is not None
    top = _origin(name.partition(".")[0])
    return (
        top is not None and top.is_relative_to(here) and "site-packages" not in top.parts and _origin(name) is not None
    )


def _imports(module: str) -> tuple[str, ...]:
    file = _origin(module)
    above = module if file and file.name == "__init__.py" else module.rpartition(".")[0]
    return _imports_of(file, _stamp(file), above) if file else ()


@functools.cache
def _imports_of(file: Path, stamp: tuple[int, int], above: str) -> tuple[str, ...]:
    """What a file imports; `above` is the package that its relative imports start from."""
    found: list[str] = []
    for node in ast.walk(_parsed(file)):
        if isinstance(node, ast.Import):
            found += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            with contextlib.suppress(ImportError):  # as the import itself raises, where it starts above its package
                origin = resolve_name("." * node.level + (node.module or ""), above)
                found += (origin, *(f"{origin}.{alias.name}" for alias in node.names))
    return tuple(found)


def _parsed(file: Path) -> ast.Module:
    """The program in a file; an empty one where the file cannot be read, or is written for another Python."""
    try:
        return ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return ast.parse("")


def _stamp(file: Path) -> tuple[int, int]:
    """What changes with a file: a process asks for its code version more than once."""
    status = file.stat()
    return status.st_mtime_ns, status.st_size


def _origin(name: str) -> Path | None:
    """The source of a module, or None where a name is no module, only something in one, or has no Python source."""
    try:
        spec = _spec(name)
    except (ImportError, ValueError):  # it has no spec, as `__main__`
        return None
    origin = spec.origin if spec else None
    return Path(origin).resolve() if origin and origin.endswith(".py") and Path(origin).is_file() else None


def _spec(name: str) -> ModuleSpec | None:
    """As `find_spec`, which imports the package of a module that is not: what nobody imports might fail, or act."""
    package = name.rpartition(".")[0]
    if not package or name in sys.modules:
        return importlib.util.find_spec(name)
    above = _spec(package)
    folders = (above.submodule_search_locations if above else None) or ()
    found = (finder.find_spec(name) for finder in map(pkgutil.get_importer, folders) if finder)
    return next((spec for spec in found if spec), None)


def _learning_code(module: str) -> str:
    """The program without comments, layout and docstrings; empty for a module without Python source."""
    file = _origin(module)
    return _code_of(file, _stamp(file)) if file else ast.dump(ast.parse(""))


@functools.cache
def _code_of(file: Path, stamp: tuple[int, int]) -> str:
    tree = _parsed(file)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            told = [each for each in node.body if isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant)]
            node.body = [each for each in node.body if each not in told]
    return ast.dump(tree)


@functools.cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # not every environment needs every package
        return "absent"
