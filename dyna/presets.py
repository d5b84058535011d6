"""Presets: what an algorithm is told for an environment where the user says nothing.

`dyna/algorithms/presets/<algorithm>.yaml` maps environment ids, and optionally `default`, to settings of a run. Only
what differs from the defaults of the algorithm is there, each block with its source.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from dyna import plain
from dyna.errors import UserError
from dyna.registry import GROUP


def load(algo: str, env: str) -> dict[str, Any]:
    """The settings for an algorithm on an environment: the block `default` below the environment's own; maybe none."""
    blocks = blocks_of(algo)
    return plain.merge(blocks.get("default") or {}, blocks.get(env) or {})


def blocks_of(algo: str) -> dict[str, Any]:
    """Every block of an algorithm's preset file by environment; empty where there is no file."""
    file = files(GROUP).joinpath("presets").joinpath(f"{algo}.yaml")
    if not file.is_file():
        return {}
    try:
        blocks = plain.read(file.read_bytes().decode())
    except ValueError as error:
        raise UserError(f"the preset file {file} cannot be read: {error}") from error
    if not isinstance(blocks, dict) or not all(isinstance(block, (dict, type(None))) for block in blocks.values()):
        raise UserError(f"the preset file {file} must map environment ids to settings, got {blocks!r:.80}")
    return blocks
