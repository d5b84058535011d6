"""Checkpoints: a tree on the disk, whole or not at all, that runs no code when it is loaded.

    checkpoint/
      0000002000/          one checkpoint, named by its step
        manifest.json      the SHA-256 of each other file, and the blocks that belong to it
        state.json         everything that is neither array nor tensor, and where those are
        arrays.npz         small arrays
        tensors.safetensors
      blocks/<sha256>.npy  rows of large arrays; a block that has not changed is shared, not written again

Large arrays are replay buffers, of which little changes between two checkpoints: a block is named by what it holds, so
that only new blocks are written. Everything is flushed to the disk before the folder gets its name.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.torch

from dyna import files
from dyna.errors import UserError
from dyna.tree import Packed, Tree, pack, unpack

FORMAT = 8
BLOCK_BYTES = 4 << 20
KEEP = 2
"""Checkpoints that stay on the disk."""


class DamagedError(ValueError):
    """A checkpoint that is not what was written; the message names the file."""


class OtherVersionError(ValueError):
    """A checkpoint that another version of dyna wrote."""


class Loaded(NamedTuple):
    """A checkpoint that was read."""

    step: int
    tree: Tree
    damaged: list[str]  # a sentence for each newer one that could not be read


def steps(folder: Path) -> list[int]:
    """The steps of the checkpoints in a folder, newest first."""
    names = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    return sorted((int(name) for name in names if name.isdigit()), reverse=True)


def save(folder: Path, step: int, tree: Tree) -> None:
    """Write a checkpoint and drop all but the last two; raises OSError, and then leaves the older ones as they were."""
    final, temporary = folder / f"{step:010d}", folder / f".{step:010d}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that died while writing
    temporary.mkdir(parents=True)
    (folder / "blocks").mkdir(exist_ok=True)
    try:
        blocks = _write_parts(temporary, folder / "blocks", pack(tree))
        if final.exists():  # it is only written again when it was found damaged
            shutil.rmtree(final)
        os.rename(temporary, final)
        files.sync_folder(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _drop_old(folder, blocks)


def load(folder: Path) -> Loaded | None:
    """The newest checkpoint that is whole, or None where there is none; raises UserError where all are damaged."""
    damaged: list[str] = []
    for step in steps(folder):
        try:
            return Loaded(step, _read(folder / f"{step:010d}", folder / "blocks"), damaged)
        except OtherVersionError as error:
            damaged.append(f"the checkpoint of step {step} was passed over: {error}")
        except Exception as error:  # whatever a reader raises at bytes that nobody has written
            damaged.append(f"the checkpoint of step {step} is damaged and was passed over: {_said(error)}")
    if damaged:
        raise UserError(
            f"no checkpoint in {str(folder)!r} can be used ({'; '.join(damaged)}): `dyna train --config` with the "
            "config.yaml beside it starts anew"
        )
    return None


def drop_newer(folder: Path, step: int) -> None:
    """Remove the checkpoints after a step, which a run that goes on from there will write anew."""
    for newer in steps(folder):
        if newer > step:
            shutil.rmtree(folder / f"{newer:010d}")
    _drop_old(folder, set())  # with their blocks, of which one may be damaged


def _write_parts(temporary: Path, store: Path, packed: Packed) -> set[str]:
    large = {name: array for name, array in packed.arrays.items() if array.ndim and array.nbytes > BLOCK_BYTES // 4}
    small = {name: array for name, array in packed.arrays.items() if name not in large}
    index = {name: _write_blocks(store, np.ascontiguousarray(array)) for name, array in large.items()}
    # one name an array, whatever characters the names in the tree have
    state = {"skeleton": packed.skeleton, "large": index, "small": list(small)}
    npz = io.BytesIO()
    np.savez(npz, **{str(i): array for i, array in enumerate(small.values())})  # type: ignore[arg-type]
    tensors = {name: tensor.cpu().contiguous().clone() for name, tensor in packed.tensors.items()}
    parts = {
        "state.json": json.dumps(state).encode(),
        "arrays.npz": npz.getvalue(),
        "tensors.safetensors": safetensors.torch.save(tensors),
    }
    for name, content in parts.items():
        files.write(temporary / name, content)
    blocks = _sorted_blocks(index)
    manifest = {
        "format": FORMAT,
        "parts": {name: _digest(content) for name, content in parts.items()},
        "blocks": blocks,
    }
    files.write(temporary / "manifest.json", json.dumps(manifest, indent=1).encode())
    files.sync_folder(store)
    files.sync_folder(temporary)
    return set(blocks)


def _write_blocks(store: Path, array: np.ndarray) -> dict[str, Any]:
    rows = max(1, BLOCK_BYTES * len(array) // array.nbytes)
    blocks = [array[start : start + rows] for start in range(0, len(array), rows)]
    # training stands still meanwhile, so the other cores are free; hashing and writing let go of Python's lock
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        names = list(pool.map(lambda block: _write_block(store, block), blocks))
    return {"shape": list(array.shape), "dtype": array.dtype.str, "blocks": names}


def _write_block(store: Path, block: np.ndarray) -> str:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(block))
    data = block.reshape(-1).view(np.uint8).data
    name = _digest(header.getvalue(), data)
    if not (store / f"{name}.npy").exists():
        temporary = store / f".{name}.{threading.get_ident()}.tmp"  # two blocks may hold the same
        files.write(temporary, header.getvalue(), data)
        os.replace(temporary, store / f"{name}.npy")
    return name


def _read(path: Path, store: Path) -> Tree:
    manifest = _manifest(path)
    if manifest["format"] != FORMAT:
        raise OtherVersionError(
            f"another version of dyna wrote it, in format {manifest['format']}, and this one reads format {FORMAT}"
        )
    parts = {name: (path / name).read_bytes() for name in ("state.json", "arrays.npz", "tensors.safetensors")}
    for name, content in parts.items():
        if _digest(content) != manifest["parts"][name]:
            raise DamagedError(f"{path / name} does not match its checksum")
    state = json.loads(parts["state.json"])
    if manifest["blocks"] != _sorted_blocks(state["large"]):  # the manifest has no checksum of its own
        raise DamagedError(f"{path / 'manifest.json'} names other blocks than state.json")
    with np.load(io.BytesIO(parts["arrays.npz"]), allow_pickle=False) as npz:
        arrays = {name: npz[str(i)] for i, name in enumerate(state["small"])}
    arrays |= {name: _read_blocks(store, entry) for name, entry in state["large"].items()}
    return unpack(Packed(state["skeleton"], arrays, safetensors.torch.load(parts["tensors.safetensors"])))


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((path / "manifest.json").read_bytes())
    except ValueError as error:
        raise DamagedError(f"{path / 'manifest.json'} is no JSON: {error}") from error
    return manifest


def _read_blocks(store: Path, entry: dict[str, Any]) -> np.ndarray:
    array = np.empty(entry["shape"], dtype=np.dtype(entry["dtype"]))
    start = 0
    for block in _blocks(store, entry["blocks"]):
        array[start : start + len(block)] = block
        start += len(block)
    if start != len(array):
        raise DamagedError(f"{start} of {len(array)} rows are there")
    return array


def _blocks(store: Path, names: list[str]) -> Iterator[np.ndarray]:
    for name in names:
        path = store / f"{name}.npy"
        content = path.read_bytes()
        if _digest(content) != name:
            raise DamagedError(f"{path} does not match its checksum")
        yield np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)


def _sorted_blocks(index: dict[str, Any]) -> list[str]:
    return sorted({block for entry in index.values() for block in entry["blocks"]})


def _said(error: Exception) -> str:
    if isinstance(error, (DamagedError, OSError, safetensors.SafetensorError)):
        return str(error)
    return f"{type(error).__name__}: {error}"


def _digest(*pieces: bytes | memoryview) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def _drop_old(folder: Path, used: set[str]) -> None:
    kept, dropped = steps(folder)[:KEEP], steps(folder)[KEEP:]
    for step in dropped:
        shutil.rmtree(folder / f"{step:010d}")
    for path in folder.glob(".*.tmp"):  # of a process that died while writing
        shutil.rmtree(path)
    used = used.union(*(_blocks_of(folder / f"{step:010d}") for step in kept))
    for path in (folder / "blocks").glob("*"):  # a copy of a run may lack the folder, where it was empty
        if path.stem not in used:
            path.unlink()


def _blocks_of(path: Path) -> set[str]:
    try:
        return set(_manifest(path)["blocks"])
    except (OSError, ValueError, KeyError, TypeError):  # damaged: `load` says so
        return set()
