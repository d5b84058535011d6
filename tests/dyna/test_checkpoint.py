"""A checkpoint is whole or not at all, is shared where nothing changed, and runs no code."""

from __future__ import annotations

import errno
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dyna import checkpoint, files
from dyna.errors import UserError
from dyna.tree import same

MB = 1 << 20


def tree(step: int, rows: int = 8) -> dict[str, Any]:
    """Something of everything, with an array that is large enough for several blocks."""
    replay = np.arange(rows * MB // 4, dtype=np.int32).reshape(rows, -1)
    replay[rows // 2 :] += step
    return {
        "step": step,
        "weights": {0: torch.full((3, 2), step / 3), "empty": torch.zeros(0)},
        "replay": replay,
        "small": np.arange(4.0) * step,
        "none": [None, (1, 2), float("inf")],
    }


def saved(folder: Path, *steps: int) -> Path:
    for step in steps:
        checkpoint.save(folder, step, tree(step))
    return folder


def blocks(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "blocks").iterdir()}


def load(folder: Path) -> checkpoint.Loaded:
    loaded = checkpoint.load(folder)
    assert loaded is not None
    return loaded


def test_loading_gives_what_was_saved(tmp_path: Path) -> None:
    loaded = load(saved(tmp_path, 7))
    assert (loaded.step, loaded.damaged) == (7, [])
    assert same(loaded.tree, tree(7))


def test_a_folder_without_checkpoints_has_none(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path) is None
    assert checkpoint.load(tmp_path / "missing") is None


def test_the_last_two_stay_with_their_blocks_and_no_others(tmp_path: Path) -> None:
    assert checkpoint.steps(saved(tmp_path, 1, 2, 3, 4)) == [4, 3]
    listed = [json.loads((tmp_path / f"{step:010d}/manifest.json").read_text())["blocks"] for step in (3, 4)]
    assert {path.removesuffix(".npy") for path in blocks(tmp_path)} == set(listed[0]) | set(listed[1])


def test_rows_that_did_not_change_are_not_written_again(tmp_path: Path) -> None:
    before = blocks(saved(tmp_path, 1))
    after = blocks(saved(tmp_path, 2))
    assert len(before) == 2
    assert len(after) == 3  # the first half is shared
    assert sum(after.get(name) == time for name, time in before.items()) == 2


@pytest.mark.parametrize("part", ["manifest.json", "state.json", "arrays.npz", "tensors.safetensors", "block"])
@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_damage_is_noticed_named_and_the_checkpoint_before_is_used(tmp_path: Path, part: str, harm: str) -> None:
    saved(tmp_path, 1)
    old = set(blocks(tmp_path))
    saved(tmp_path, 2)
    new = [name for name in blocks(tmp_path) if name not in old]
    path = tmp_path / "blocks" / new[0] if part == "block" else tmp_path / "0000000002" / part
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    if harm == "remove":
        path.unlink()
    else:
        path.write_bytes(content if harm == "flip" else content[: len(content) // 2])
    loaded = load(tmp_path)
    assert loaded.step == 1
    assert same(loaded.tree, tree(1))
    assert "the checkpoint of step 2 is damaged" in loaded.damaged[0]
    if harm == "remove" or part != "manifest.json":
        assert path.name in loaded.damaged[0]


def test_a_damaged_block_is_written_anew_by_the_run_that_goes_on(tmp_path: Path) -> None:
    before = set(blocks(saved(tmp_path, 1)))
    (only_of_two,) = set(blocks(saved(tmp_path, 2))) - before
    (tmp_path / "blocks" / only_of_two).write_bytes(b"torn")
    loaded = load(tmp_path)
    assert loaded.step == 1 and loaded.damaged
    checkpoint.drop_newer(tmp_path, loaded.step)
    again = load(saved(tmp_path, 2))
    assert (again.step, again.damaged) == (2, [])
    assert same(again.tree, tree(2))


def test_a_checkpoint_of_another_version_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path, 1, {"step": 1})
    monkeypatch.setattr(checkpoint, "FORMAT", checkpoint.FORMAT + 1)
    with pytest.raises(
        UserError, match="step 1 was passed over: another version of dyna wrote it, in format"
    ) as raised:
        checkpoint.load(tmp_path)
    assert "damaged" not in str(raised.value)


def test_when_all_are_damaged_the_error_names_each(tmp_path: Path) -> None:
    for step in (1, 2):
        saved(tmp_path, step)
    for step in (1, 2):
        (tmp_path / f"{step:010d}" / "state.json").write_text("{}")
    with pytest.raises(UserError, match=r"step 2 is damaged.*step 1 is damaged"):
        checkpoint.load(tmp_path)


class Hostile:
    """Unpickled, it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (Path.touch, (self.path,))


def test_a_pickle_inside_is_refused_even_with_the_right_checksum(tmp_path: Path) -> None:
    trap = tmp_path / "code has run"
    folder = saved(tmp_path / "checkpoint", 1, 2)
    part = folder / "0000000002" / "arrays.npz"
    names = json.loads((folder / "0000000002/state.json").read_text())["small"]
    np.savez(part, **{str(i): np.array([Hostile(trap)], dtype=object) for i in range(len(names))})  # type: ignore[arg-type]
    manifest_path = folder / "0000000002" / "manifest.json"
    manifest = json.loads(manifest_path.read_text())
    manifest["parts"]["arrays.npz"] = checkpoint._digest(part.read_bytes())
    manifest_path.write_text(json.dumps(manifest))
    loaded = load(folder)
    assert loaded.step == 1
    assert "step 2 is damaged" in loaded.damaged[0]
    assert not trap.exists()
    with np.load(part, allow_pickle=True) as npz:  # the trap does work
        assert npz["0"].shape == (1,)
    assert trap.exists()
    pickle.loads(pickle.dumps(Hostile(trap)))


@pytest.mark.parametrize("at", range(5))  # a block, three parts, the manifest
def test_a_full_disk_leaves_the_last_checkpoint_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    saved(tmp_path, 1)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    write, calls = files.write, iter(range(100))

    def full(path: Path, *pieces: bytes) -> None:
        if next(calls) == at:
            path.write_bytes(b"half")
            path.unlink()
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, *pieces)

    monkeypatch.setattr(files, "write", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(tmp_path, 2, tree(2))
    assert checkpoint.steps(tmp_path) == [1]
    assert {path: path.read_bytes() for path in before} == before
    assert same(load(tmp_path).tree, tree(1))


def test_what_a_process_left_that_died_while_writing_is_no_checkpoint(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    (tmp_path / ".0000000002.tmp").mkdir()
    (tmp_path / ".0000000002.tmp" / "state.json").write_text("{")
    assert load(tmp_path).step == 1
    assert load(saved(tmp_path, 2)).step == 2


def test_newer_checkpoints_can_be_dropped(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    checkpoint.drop_newer(tmp_path, 1)
    assert checkpoint.steps(tmp_path) == [1]


def test_a_replaced_file_is_old_or_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    files.replace(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space") as caught:
        files.replace(path, "new")
    assert files.is_full(caught.value)
    assert [each.read_text() for each in tmp_path.iterdir()] == ["old"]
