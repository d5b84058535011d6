"""A run is repeated where the code that learns changed, and only there."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import gymnasium
import pytest

from dyna import sources
from dyna.errors import UserError

CART = """
from wheels import grip

class Cart:
    '''A cart.'''
    def step(self):
        return 1.0  # a reward
"""


@pytest.fixture
def version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The code version with an environment whose modules have names of this test alone."""
    monkeypatch.chdir(tmp_path)
    cart, wheels = f"cart_{tmp_path.name}", f"wheels_{tmp_path.name}"

    def of(text: str, algo: str = "sac", grip: float = 1.0) -> str:
        sources.code_version.cache_clear()  # as in a new process
        (tmp_path / f"{wheels}.py").write_text(f"grip = {grip}")
        (tmp_path / f"{cart}.py").write_text(text.replace("wheels", wheels))
        return sources.code_version(algo, f"{cart}:Cart")

    return of


def test_comments_layout_and_docstrings_do_not_count(version) -> None:
    before = version(CART)
    assert version(CART) == before
    assert version(CART.replace("  # a reward", "").replace("A cart.", "A fast cart.")) == before


def test_what_can_change_learning_counts(version, monkeypatch: pytest.MonkeyPatch) -> None:
    before = version(CART)
    assert version(CART.replace("1.0", "2.0")) != before
    assert version(CART, grip=2.0) != before
    assert version(CART, "mbpo") != before
    sources.code_version.cache_clear()
    monkeypatch.setattr(sources, "_version", lambda package: "another release")
    assert version(CART) != before


def test_an_algorithm_is_hashed_with_what_it_imports_and_nothing_else() -> None:
    modules = sources._with_imports("dyna.algorithms.mbpo")
    assert {"dyna.algorithms.mbpo", "dyna.base", "dyna.world_model", "dyna.buffers", "dyna.imagination"} <= modules
    assert not {"dyna.cli", "dyna.tables", "dyna.errors", "dyna.runs"} & modules


def test_the_trainer_counts_but_for_what_only_tells_and_stores() -> None:
    modules = sources._with_imports("dyna.train")
    assert {"dyna.train", "dyna.callbacks", "dyna.agents", "dyna.envs", "dyna.evaluate", "dyna.generators"} <= modules
    assert not sources.SILENT & modules and not {"dyna.base", "dyna.world_model"} & modules
    assert all(sources._origin(name) for name in sources.SILENT)


def test_an_environment_that_gymnasium_finds_by_its_id_counts_too(version, monkeypatch: pytest.MonkeyPatch) -> None:
    version(CART)
    (module,) = (path.stem for path in Path.cwd().glob("cart_*.py"))
    spec = gymnasium.envs.registration.EnvSpec("CartOfTestSources-v0", f"{module}:Cart")
    monkeypatch.setitem(gymnasium.registry, "CartOfTestSources-v0", spec)
    before = sources.code_version("sac", "CartOfTestSources-v0")
    version(CART.replace("1.0", "2.0"))
    assert sources.code_version("sac", "CartOfTestSources-v0") != before


def test_what_is_named_and_not_imported_counts_and_stays_so(version, tmp_path: Path) -> None:
    package = tmp_path / f"lazy_{tmp_path.name}"
    (package / "deep").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit")
    cart = f"{CART}\n    def film(self):\n        from {package.name}.deep.lens import width\n"
    versions = set()
    for width in (1, 22):
        (package / "deep" / "lens.py").write_text(f"width = {width}")
        versions.add(version(cart))
    assert len(versions) == 2
    assert package.name not in sys.modules


@pytest.mark.parametrize("text", ["print 'of Python 2'", "\0", "# coding: nonsense", "from ... import above"])
def test_a_file_that_nobody_can_import_ends_nothing(version, tmp_path: Path, text: str) -> None:
    (tmp_path / f"odd_{tmp_path.name}.py").write_text(text)
    assert version(f"{CART}\n    def film(self):\n        import odd_{tmp_path.name}\n")


def test_a_module_in_an_archive_has_no_file_that_could_be_read(
    version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, module = tmp_path / "lenses.zip", f"packed_{tmp_path.name}"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(f"{module}.py", "width = 1")
    monkeypatch.syspath_prepend(str(archive))
    assert sources._origin(module) is None
    assert version(CART.replace("from wheels", f"import {module}\nfrom wheels"))


def test_an_unknown_algorithm_is_told() -> None:
    with pytest.raises(UserError, match="unknown algorithm 'scca': the nearest is 'sac'"):
        sources.code_version("scca", "Pendulum-v1")
