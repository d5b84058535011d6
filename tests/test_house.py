"""The house keeps its rules: who may import whom, how long a file and a function may be, and what no file may hold."""

from __future__ import annotations

import ast
import configparser
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = {"dyna": ROOT / "dyna", "dyna.algorithms": ROOT / "algorithms", "dyna.environments": ROOT / "environments"}

MAY_IMPORT = {
    "dyna.algorithms": {"dyna", "stable_baselines3", "torch", "numpy", "gymnasium"},
    "dyna.environments": {"dyna.environments", "dyna.kernels", "gymnasium", "mujoco", "numpy"},
}
"""What a room may import besides the standard library; the engine may import anything but the other rooms."""
CLOSED_TO_THE_ENGINE = {"dyna.algorithms", "dyna.environments", "algorithms", "environments"}
COMPILED = "dyna.kernels"

FILE_LINES, FUNCTION_LINES = 300, 40


def sources(room: str) -> Iterator[tuple[str, Path]]:
    """Module name and file of everything in a room; the symlinks in dyna/ are the other rooms' and not followed."""
    for file in sorted(ROOMS[room].rglob("*.py")):
        inside = file.relative_to(ROOMS[room])
        if not any((ROOMS[room] / parent).is_symlink() for parent in inside.parents if parent != Path(".")):
            yield ".".join([room, *inside.with_suffix("").parts]).removesuffix(".__init__"), file


def imports(module: str, source: str) -> Iterator[str]:
    """Every module that a source imports, by statement or by a literal name; `from a import b` may mean a.b."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: -node.level] if node.level else []
            origin = ".".join([*above, *filter(None, [node.module])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("import_module", "__import__"):
                yield str(node.args[0].value)


def within(module: str, packages: set[str] | frozenset[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def breaches(room: str, module: str, source: str) -> list[str]:
    """The sentences that say which import law a source breaks."""
    found = []
    for name in imports(module, source):
        if room == "dyna":
            allowed = not within(name, CLOSED_TO_THE_ENGINE)
        else:
            allowed = within(name, MAY_IMPORT[room] | sys.stdlib_module_names)
        if not allowed:
            found.append(f"{module} imports {name}: {room} may not")
        if within(name, {"numba"}) and not within(module, {COMPILED}):
            found.append(f"{module} imports {name}: compiled code lives in {COMPILED} alone")
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_keeps_the_import_law(room: str) -> None:
    assert [breach for module, file in sources(room) for breach in breaches(room, module, file.read_text())] == []


def test_the_law_looks_at_every_room() -> None:
    seen = {room: {module for module, _ in sources(room)} for room in ROOMS}
    assert {"dyna", "dyna.types", "dyna.config"} <= seen["dyna"]
    assert not any(within(module, CLOSED_TO_THE_ENGINE) for module in seen["dyna"])
    assert {"dyna.algorithms", "dyna.algorithms.mbpo"} <= seen["dyna.algorithms"]
    assert "dyna.environments" in seen["dyna.environments"]


@pytest.mark.parametrize(
    ("room", "module", "source"),
    [
        ("dyna", "dyna.train", "from dyna.algorithms.mbpo import MBPO"),
        ("dyna", "dyna.train", "from dyna import algorithms"),
        ("dyna", "dyna.train", "from . import environments"),
        ("dyna", "dyna.train", "from .algorithms import mbpo"),
        ("dyna", "dyna.train", "import algorithms.mbpo as mbpo"),
        ("dyna", "dyna.train", "def late():\n    import environments"),
        ("dyna", "dyna.train", "import importlib\nimportlib.import_module('dyna.algorithms.mbpo')"),
        ("dyna", "dyna.buffers", "from numba import njit"),
        ("dyna", "dyna.buffers", "import numba.core"),
        ("dyna.algorithms", "dyna.algorithms.mbpo", "import yaml"),
        ("dyna.algorithms", "dyna.algorithms.mbpo", "from numba import njit"),
        ("dyna.environments", "dyna.environments.maze", "import torch"),
        ("dyna.environments", "dyna.environments.maze", "from dyna.types import Transitions"),
        ("dyna.environments", "dyna.environments.maze", "import dyna"),
        ("dyna.environments", "dyna.environments.maze", "from ..kernels_of_mine import step"),
    ],
)
def test_the_law_catches(room: str, module: str, source: str) -> None:
    assert breaches(room, module, source)


@pytest.mark.parametrize(
    ("room", "module", "source"),
    [
        ("dyna", "dyna.train", "import torch\nfrom dyna import registry\nfrom . import runs"),
        ("dyna", "dyna.kernels.tabular", "from numba import njit"),
        ("dyna", "dyna.train", "import algorithms_of_mine"),
        (
            "dyna.algorithms",
            "dyna.algorithms.mbpo",
            "import math\nfrom torch import nn\nfrom dyna.base import DynaMixin",
        ),
        ("dyna.algorithms", "dyna.algorithms.mbpo", "from . import sac"),
        ("dyna.environments", "dyna.environments.maze", "import gymnasium\nfrom dyna.kernels import step"),
        ("dyna.environments", "dyna.environments.maze", "from .walls import Wall"),
    ],
)
def test_the_law_allows(room: str, module: str, source: str) -> None:
    assert breaches(room, module, source) == []


def undeclared(sources: Iterable[tuple[str, Path]], *extras: str) -> list[str]:
    """Packages that are imported and that neither `install_requires` nor the extras in setup.cfg name."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["options"]["install_requires"].split()
    lines += [line for extra in extras for line in setup["options.extras_require"][extra].split()]
    declared = {re.split(r"[\[<>=]", line)[0].replace("-", "_").replace("pyyaml", "yaml") for line in lines}
    known = declared | sys.stdlib_module_names | {"dyna", "tests"}
    return [
        f"{module} imports {name}"
        for module, file in sources
        for name in imports(module, file.read_text())
        if name.split(".")[0] not in known
    ]


@pytest.mark.parametrize("room", ROOMS)
def test_every_package_that_a_room_imports_is_declared(room: str) -> None:
    assert undeclared(sources(room), "ray") == []  # an extra that the engine asks for by name where it is missing


def test_every_package_that_a_test_imports_is_declared() -> None:
    tests, benchmarks = ROOT / "tests", ROOT / "tests" / "benchmarks"
    files = [("tests", file) for file in tests.rglob("*.py") if benchmarks not in file.parents]
    assert undeclared(files, "dev", "ray") == []
    assert undeclared([("tests", file) for file in benchmarks.rglob("*.py")], "dev", "bench") == []


def test_an_undeclared_package_is_found(tmp_path: Path) -> None:
    (tmp_path / "new.py").write_text("import numpy, sb3_contrib, yaml\nimport antigravity_of_mine.wings")
    assert undeclared([("new", tmp_path / "new.py")]) == ["new imports antigravity_of_mine.wings"]


def long_functions(source: str, limit: int = FUNCTION_LINES) -> list[str]:
    """Functions whose body, signature and docstring aside, has more lines than the limit."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[1:2] if ast.get_docstring(node) is not None else node.body[:1]
            lines = node.body[-1].end_lineno - first[0].lineno + 1 if first else 0
            if lines > limit:
                found.append(f"{node.name}: {lines} lines")
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_functions_are_short(room: str) -> None:
    assert [f"{module}.{name}" for module, file in sources(room) for name in long_functions(file.read_text())] == []


def test_a_long_function_is_found_and_its_docstring_does_not_count() -> None:
    body = "    x = 1\n" * FUNCTION_LINES
    assert long_functions(f'def f():\n    """One.\n\n    Two.\n    """\n{body}') == []
    assert long_functions(f"def f():\n{body}    return x\n") == [f"f: {FUNCTION_LINES + 1} lines"]


def test_an_algorithm_is_one_short_file() -> None:
    lengths = {module: len(file.read_text().splitlines()) for module, file in sources("dyna.algorithms")}
    assert {module: lines for module, lines in lengths.items() if lines >= FILE_LINES} == {}


@pytest.mark.parametrize("room", ["algorithms", "environments"])
def test_a_room_refuses_to_be_imported_as_a_package_of_its_own(room: str) -> None:
    spec = importlib.util.spec_from_file_location(room, ROOT / room / "__init__.py")
    assert spec is not None and spec.loader is not None
    with pytest.raises(ImportError, match=f"import dyna.{room} instead of {room}: "):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert importlib.import_module(f"dyna.{room}").__name__ == f"dyna.{room}"


PLACE_ON_A_MACHINE = re.compile(r"(?<![\w.:/])(/(root|work|opt|home/\w+|Users/\w+)/|[A-Z]:\\Users\\)")


def test_no_file_names_a_place_on_somebodys_machine() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, so nobody can say which files belong to the project")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    files = [ROOT / name for name in tracked.split("\0") if name and not (ROOT / name).is_symlink()]
    texts = {file: file.read_bytes().decode("utf-8", "replace") for file in files if file.is_file()}
    found = [f"{file.relative_to(ROOT)}: {place[0]}" for file, text in texts.items() for place in places(text)]
    assert len(texts) > 20 and found == []


def places(text: str) -> list[re.Match[str]]:
    return list(PLACE_ON_A_MACHINE.finditer(text))


def test_a_place_on_a_machine_is_found() -> None:
    root, home = "/".join(["", "root", "x"]), "/".join(["", "home", "ada", "x"])
    assert places(f"path = '{root}'") and places(f"see {home}")
    assert not places("https://example.org/home/ada/") and not places("make PYTHON=/path/to/python")


def test_every_test_that_the_guarantees_name_exists() -> None:
    text = (ROOT / "docs" / "guarantees.md").read_text()
    named = re.findall(r"\[`([^`]+)`\]\(\.\./([^)]+)\)", text)
    assert len(named) > 30
    gone = [name for name, file in named if name != file and f"\ndef {name}(" not in (ROOT / file).read_text()]
    assert gone == [] and all((ROOT / file).is_file() for _, file in named)


def test_the_tour_names_every_module_of_the_engine_once() -> None:
    table = (ROOT / "docs" / "tour.md").read_text().split("\n## The modules of `dyna/`\n")[1]
    named = re.findall(r"`(\w+)/?`", "".join(line.split("|")[2] for line in table.splitlines() if line.count("|") == 3))
    rooms = [file for file in ROOMS["dyna"].iterdir() if not file.is_symlink() and file.suffix in ("", ".py")]
    assert sorted(named) == sorted(file.stem for file in rooms if not file.name.startswith("_"))
