"""A GGUF model in one file, or in the parts that `llama-gguf-split` makes of one.

Parts lie in one folder as `name-00001-of-00003.gguf`; the first has the metadata.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from engine.checkpoint.gguf import GgufFile, read_gguf
from engine.errors import CheckpointError

_PART = re.compile(r"(?P<stem>.+)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf")
_MAX_PARTS = 1024


def part_names(name: str) -> list[str]:
    """The names of all parts of the model that this is a part of; the name alone if it is none."""
    match = _PART.fullmatch(name)
    if match is None or not 1 <= int(match["count"]) <= _MAX_PARTS:
        return [name]
    count = int(match["count"])
    return [f"{match['stem']}-{i:05}-of-{count:05}.gguf" for i in range(1, count + 1)]


def first_part(paths: Sequence[Path]) -> Path | None:
    """The file to open where these make up one model, else None."""
    if not paths:
        return None
    names = part_names(paths[0].name)
    return paths[0].with_name(names[0]) if {path.name for path in paths} <= set(names) else None


def read_gguf_parts(path: Path) -> GgufFile:
    """The file, or all the parts as one. CheckpointError when a part is missing or not of it."""
    first = read_gguf(path)
    count = first.metadata.integer("split.count", 1, low=0, high=_MAX_PARTS)
    if count <= 1:
        return first
    names = part_names(path.name)
    if len(names) != count or first.metadata.integer("split.no", 0, low=0) != 0:
        raise CheckpointError(
            f"{path}: one of {count} parts of a model; give the first, and keep the names that "
            f"the parts were made with (as in name-00001-of-{count:05}.gguf)"
        )
    tensors = dict(first.tensors)
    for number, name in enumerate(names[1:], 1):
        part = read_gguf(path.with_name(name))
        if part.metadata.integer("split.no", -1, low=-1) != number:
            raise CheckpointError(f"{path.with_name(name)}: not part {number + 1} of {path.name}")
        if tensors.keys() & part.tensors:
            raise CheckpointError(f"{path.with_name(name)}: repeats weights of another part")
        tensors |= part.tensors
    expected = first.metadata.integer("split.tensors.count", len(tensors), low=0)
    if expected != len(tensors):
        raise CheckpointError(f"{path}: the parts have {len(tensors)} weights, not {expected}")
    return GgufFile(first.metadata, tensors)
