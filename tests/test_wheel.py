"""The built wheel works outside the checkout: it holds every room once, and its command trains."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TINY = "learning_starts=100 gradient_steps=1 rollouts=10 world_model.width=16 world_model.max_updates=20"


@dataclass(frozen=True)
class Installed:
    """The wheel in a virtual environment of its own, and an empty folder to call it from."""

    wheel: Path
    bin: Path
    folder: Path

    def run(self, command: str, *arguments: str) -> str:
        """What a command of the environment prints; fails with its error output where it fails."""
        environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        done = subprocess.run(
            [self.bin / command, *arguments], cwd=self.folder, env=environ, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{command} {' '.join(arguments)}:\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Built from a copy, since setuptools leaves files beside the sources; dependencies are those of this process."""
    place = tmp_path_factory.mktemp("wheel")
    elsewhere = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "runs", "tests")
    shutil.copytree(ROOT, place / "sources", symlinks=True, ignore=elsewhere)
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(place), str(place / "sources")]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = place.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place / "venv")], check=True)
    scheme = {"base": str(place / "venv"), "platbase": str(place / "venv")}
    pip = [sys.executable, "-m", "pip", "--python", str(place / "venv"), "install", "--quiet"]
    subprocess.run([*pip, "--no-index", "--no-deps", str(wheel)], check=True)
    # A path in a .pth file brings the packages there, but not the .pth file of an editable install of the checkout.
    paths = "\n".join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    Path(sysconfig.get_path("purelib", vars=scheme), "dependencies.pth").write_text(f"{paths}\n")
    (place / "folder").mkdir()
    return Installed(wheel, Path(sysconfig.get_path("scripts", vars=scheme)), place / "folder")


def test_the_wheel_holds_every_room_once(installed: Installed) -> None:
    names = zipfile.ZipFile(installed.wheel).namelist()
    assert len(names) == len(set(names))
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"dyna"}
    rooms = {"dyna": "dyna", "dyna/kernels": "dyna/kernels"}
    rooms |= {name: f"dyna/{name}" for name in ("algorithms", "environments")}
    for room, prefix in rooms.items():
        expected = {f"{prefix}/{file.name}" for file in (ROOT / room).glob("*.py")}
        assert {name for name in names if name.rpartition("/")[0] == prefix and name.endswith(".py")} == expected
    presets = {f"dyna/algorithms/presets/{file.name}" for file in (ROOT / "algorithms" / "presets").glob("*.yaml")}
    assert presets and presets <= set(names) and {"dyna/py.typed", "dyna/compare/report.html"} <= set(names)


def test_what_is_imported_is_the_wheel_and_not_the_checkout(installed: Installed) -> None:
    rooms = "dyna, dyna.algorithms, dyna.environments"
    code = f"import {rooms}; print(*(room.__file__ for room in ({rooms})))"
    for file in installed.run("python", "-c", code).split():
        assert Path(file).is_relative_to(installed.bin.parent) and not Path(file).is_relative_to(ROOT)


def test_the_command_explains_itself(installed: Installed) -> None:
    assert "dyna train" in installed.run("dyna", "--help")
    listed = installed.run("dyna", "list")
    assert "mbpo" in listed and "crossq" in listed


def test_the_command_trains(installed: Installed) -> None:
    command = f"train --algo mbpo --env Pendulum-v1 -n 200 -p {TINY}"
    said = installed.run("dyna", *command.split())
    *_, last = said.splitlines()
    run = installed.folder / last.removeprefix("run: ")
    assert last.startswith("run: ") and run.is_relative_to(installed.folder / "runs")
    assert {"config.yaml", "meta.json", "summary.json", "last_model.zip"} <= {file.name for file in run.iterdir()}
    assert '"finished"' in (run / "summary.json").read_text()
