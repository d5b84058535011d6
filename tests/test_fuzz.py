"""Garbage at every door: one sentence and an exit code, never a traceback, and nothing of the user's is touched."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import dyna.train
from dyna import agents, checkpoint, cli, envs, hyperparameters, plain, registry
from dyna.config import RunConfig, kinds
from dyna.doctor.examination import examine
from dyna.doctor.findings import Finding
from dyna.errors import UserError

NASTY = (
    *(
        "",
        " ",
        "-",
        "--",
        "=",
        "a=",
        "=a",
        ".",
        "..",
        "/",
        "0",
        "-1",
        "-3",
        "1e999",
        "-1e-3",
        "nan",
        ".nan",
        "inf",
        "-inf",
    ),
    *(
        "[",
        "{",
        "[1",
        "{a: 1",
        "[[[[]]]]",
        "null",
        "~",
        "true",
        "no",
        "1_0",
        "0x10",
        "1:30",
        "2024-01-01",
        "lin_",
        "lin_x",
    ),
    *("!!python/object/apply:os.system [x]", "!!binary x", "&a [*a]", "*a", "<<: 1", "%YAML 9", "---\n---", "a: b: c"),
    *("\x00", "\ud800", "é\u2028", "\x1b[31m", "'", '"', "`ls`", "$HOME", "a" * 5000, "[" * 3000, "9" * 5000),
    *(
        "module:",
        ":Class",
        "json:JSONDecoder",
        "no.such:Thing",
        "sys:path",
        "../../x",
        "/dev/null",
        "Pendulum-v1",
        "sac",
    ),
)
texts = st.sampled_from(NASTY) | st.text(max_size=30)
numbers = (
    st.integers(-10, 1000) | st.floats(-1e3, 1e3) | st.sampled_from([float("nan"), float("inf"), 1e300, -0.0, 10**40])
)
data = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


def run(words: list[str]) -> tuple[int, str]:
    """The exit code of a command, and what it said; fails where that is more than a sentence, or shows its insides."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        code = cli.main(words)
    said = err.getvalue()
    assert code in (0, 1, 2, 130), code
    assert "Traceback" not in said and "--debug shows where" not in said, said
    if code == 2 and "--resume" not in words:
        assert said.count("\n") == 1, said
    return code, said


@contextlib.contextmanager
def untrained() -> Iterator[mock.Mock]:
    """The trainer, replaced by one that refuses politely."""
    with mock.patch.object(dyna.train, "train", side_effect=UserError("trained")) as trainer:
        yield trainer


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """An empty folder, and the current one."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        try:
            yield Path(name)
        finally:
            os.chdir(before)


def contents(path: Path) -> dict[str, bytes | None]:
    """Every file below a folder; the lock tells nothing."""
    found = sorted(each for each in path.rglob("*") if each.name != ".lock")
    return {str(each.relative_to(path)): each.read_bytes() if each.is_file() else None for each in found}


# --- flags, hyperparameters, files of settings --------------------------------------------------------------------

flags = st.sampled_from([f"--{name.replace('_', '-')}" for name in kinds().kinds])
others = st.sampled_from(
    ["-n", "-p", "--config", "--resume", "--no-preset", "--help", "--progress", "--episodes", "--which"]
)
words = st.lists(flags | others | texts, max_size=6)


settings_files = (
    st.binary(max_size=60)
    | texts.map(lambda text: text.encode("utf-8", "surrogatepass"))
    | st.dictionaries(st.sampled_from([*kinds().kinds, "preset"]) | texts, data, max_size=4).map(
        lambda values: yaml.safe_dump(values).encode()
    )
)


@given(st.sampled_from(["train", "eval", "list", "nothing", "--version"]), words)
@settings(max_examples=300)
def test_any_words_on_the_command_line(command: str, words: list[str]) -> None:
    with folder() as here, untrained():
        (here / "mine.yaml").write_text("mine")
        before = contents(here)
        run([command, *words])
        assert contents(here) == before


@given(st.lists(st.tuples(flags, texts), min_size=1, max_size=3))
@settings(max_examples=200)
def test_any_value_of_any_flag(pairs: list[tuple[str, str]]) -> None:
    with folder() as here, untrained():
        run(["train", *(word for pair in pairs for word in pair)])
        run(["train", *(f"{flag}={value}" for flag, value in pairs)])
        assert contents(here) == {}


inside = texts.filter(lambda text: not text.startswith(("/", "..")))  # not to search the disk, nor to write there
compared = st.sampled_from(["--with", "--suite", "--seeds", "--jobs", "--name", "--threshold", "--ray", "--any-code"])
examined = st.sampled_from(["--env", "--env-kwargs", "--seed", "--threads", "--steps", "--json", "--algo", "-p"])


@given(st.lists(flags | compared | inside, max_size=6))
@settings(max_examples=200)
def test_any_words_for_a_comparison(words: list[str]) -> None:
    with folder() as here:
        run(["compare", *words, "--dry-run"])
        assert contents(here) == {}


@given(st.lists(st.sampled_from(["--to", "--axis", "--overwrite", "curves.csv"]) | inside, max_size=4), settings_files)
def test_any_words_for_a_picture(words: list[str], content: bytes) -> None:
    with folder() as here:
        (here / "curves.csv").write_bytes(content)
        run(["plot", "curves.csv", *words])
        assert contents(here) == {"curves.csv": content}


@given(st.lists(examined | inside, max_size=6))
def test_any_words_for_an_examination(words: list[str]) -> None:
    def begin(*args: Any, **kwargs: Any) -> Iterator[Finding]:
        return itertools.islice(examine(*args, **kwargs), 1)

    with folder() as here, mock.patch("dyna.doctor.command.examine", begin):
        run(["doctor", *words])
        assert len(contents(here)) <= 1, "findings are one file"


KNOBS = [
    (algo, "Pendulum-v1" if "Box" in registry.action_spaces(cls) else "CartPole-v1", knob.name)
    for algo in registry.names()
    for cls in registry.classes(algo)
    for knob in hyperparameters.knobs(cls)
]


@given(st.sampled_from(KNOBS), texts | numbers.map(str))
@settings(max_examples=300)
def test_any_value_of_any_hyperparameter(knob: tuple[str, str, str], value: str) -> None:
    algo, env_id, name = knob
    with folder() as here, untrained() as trainer:
        run(["train", "--algo", algo, "--env", env_id, "--no-preset", "-p", f"{name}={value}"])
        assert contents(here) == {}
        for call in trainer.call_args_list:  # it was accepted: then an algorithm can be made of it, or that is told
            with contextlib.suppress(UserError), contextlib.closing(envs.make(call.args[0])) as env:
                agents.make(call.args[0], env)


@given(settings_files)
@settings(max_examples=300)
def test_any_file_of_settings(content: bytes) -> None:
    with folder() as here, untrained():
        (here / "mine.yaml").write_bytes(content)
        run(["train", "--config", "mine.yaml"])
        assert contents(here) == {"mine.yaml": content}


def test_a_small_file_that_stands_for_a_large_one_is_refused() -> None:
    lines = ["env_kwargs:", "  a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"  a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    for text in ("\n".join(lines), "env_kwargs: &a {a: *a}"):
        with folder() as here, untrained():
            (here / "mine.yaml").write_text(text)
            code, said = run(["train", "--config", "mine.yaml"])
            assert code == 2 and "stands for more than 100,000 values" in said


@given(settings_files)
@settings(max_examples=100)
def test_any_preset_of_another_package(content: bytes) -> None:
    with folder() as here, untrained(), mock.patch("dyna.presets.files", lambda group: here):
        (here / "presets").mkdir()
        (here / "presets" / "sac.yaml").write_bytes(content)
        run(["train", "--algo", "sac", "--env", "Pendulum-v1"])
        run(["train", "--algo", "sac", "--env", "Pendulum-v1", "--help"])


@given(data, texts)
def test_any_data_survives_the_file_or_is_refused(value: Any, name: str) -> None:
    with contextlib.suppress(UserError):
        config = RunConfig(hyperparameters={name: value})
        assert plain.read(config.to_yaml()) is not None
        assert RunConfig.from_yaml(config.to_yaml()).to_yaml() == config.to_yaml()


# --- run folders and checkpoints ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with two checkpoints, in a folder of runs where its user keeps notes."""
    knobs = {"policy_kwargs": {"net_arch": [4]}, "learning_starts": 10, "batch_size": 4, "buffer_size": 50}
    root = tmp_path_factory.mktemp("runs")
    config = RunConfig(
        env="CartPole-v1",
        algo="dqn",
        steps=60,
        hyperparameters=knobs,
        eval_every=30,
        eval_episodes=1,
        checkpoint_every=20,
        device="cpu",
        runs=root / "runs",
    )
    path = dyna.train.train(config, progress=False).path
    (path / "notes.csv").write_text("mine")
    (root / "runs" / "notes.csv").write_text("mine")
    return root


harms = st.sampled_from(["flip", "cut", "empty", "remove", "folder", "garbage", "append"])


def harm(path: Path, how: str, at: float, garbage: bytes) -> None:
    """Do something to a file, at a place between its start, 0, and its end, 1."""
    content = bytearray(path.read_bytes())
    place = int(at * max(0, len(content) - 1))
    path.unlink()
    if how == "folder":
        path.mkdir()
    elif how != "remove":
        if how == "flip" and content:
            content[place] ^= 1 << place % 8
        changed = {"cut": content[:place], "empty": b"", "garbage": garbage, "append": content + garbage}
        path.write_bytes(changed.get(how, content))


RUN_FILES = (
    *("config.yaml", "summary.json", "meta.json", "progress.csv", "monitor.csv", "evaluations.csv", ".lock"),
    *("best_model.safetensors", "last_model.safetensors", "best_model.zip", "last_model.zip"),
)
CHECKPOINT_FILES = ("manifest.json", "state.json", "arrays.npz", "tensors.safetensors")
# every example trains: a few of them, and a failing one is shown as it was found
several = settings(max_examples=10, phases=[Phase.generate])


def go_on(root: Path) -> None:
    """All that can be done with a run; the notes beside it stay, and to look at it changes nothing."""
    (path,) = (each.parent for each in (root / "runs").glob("*/*/*/notes.csv"))
    before = contents(root)
    run(["list", "runs", "--runs", str(root / "runs")])
    run(["eval", str(path), "--episodes", "1"])
    assert contents(root) == before
    code, said = run(["train", "--resume", str(path), "-n", "80", "--no-progress"])
    assert code == 0 or said
    assert (path / "notes.csv").read_text() == (root / "runs" / "notes.csv").read_text() == "mine"


@given(st.sampled_from(RUN_FILES), harms, st.floats(0, 1), st.binary(max_size=40) | texts.map(str.encode))
@several
def test_a_run_folder_in_which_anything_was_done_to_a_file(
    trained: Path, name: str, how: str, at: float, garbage: bytes
) -> None:
    with folder() as here:
        shutil.copytree(trained, here / "copy")
        (path,) = (here / "copy" / "runs").glob("*/*/*/config.yaml")
        harm(path.parent / name, how, at, garbage)
        go_on(here / "copy")


@given(st.sampled_from(CHECKPOINT_FILES), harms, st.floats(0, 1), st.binary(max_size=40), st.booleans())
@several
def test_a_checkpoint_in_which_anything_was_done_to_a_file(
    trained: Path, name: str, how: str, at: float, garbage: bytes, both: bool
) -> None:
    with folder() as here:
        shutil.copytree(trained, here / "copy")
        newest, before = sorted((here / "copy" / "runs").glob("*/*/*/checkpoint/[0-9]*"), reverse=True)
        harm(newest / name, how, at, garbage)
        if both:
            harm(before / name, how, at, garbage)
        go_on(here / "copy")


@given(st.data())
@several
def test_a_checkpoint_that_is_whole_and_holds_something_else(trained: Path, drawn: st.DataObject) -> None:
    """What somebody wrote, right checksums and all: it is refused in a sentence, or it does no harm."""
    with folder() as here:
        shutil.copytree(trained, here / "copy")
        for path in (here / "copy" / "runs").glob("*/*/*/checkpoint/[0-9]*"):
            state = json.loads((path / "state.json").read_text())
            forge(state["skeleton"], drawn)
            content = json.dumps(state).encode()
            (path / "state.json").write_bytes(content)
            manifest = json.loads((path / "manifest.json").read_text())
            manifest["parts"]["state.json"] = checkpoint._digest(content)
            (path / "manifest.json").write_text(json.dumps(manifest))
        go_on(here / "copy")


def forge(node: Any, drawn: st.DataObject) -> None:
    """Put something else into one place of a tree of JSON."""
    while True:
        keys = sorted(node) if isinstance(node, dict) else list(range(len(node)))
        key = drawn.draw(st.sampled_from(keys))
        inner = node[key]
        if isinstance(inner, (dict, list)) and inner and drawn.draw(st.integers(0, 3)):
            node = inner
            continue
        node[key] = drawn.draw(
            st.none() | st.integers(-5, 5) | st.text(max_size=5) | st.just([]) | st.just({"$array": "x"})
        )
        return
