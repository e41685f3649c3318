"""The tensors of a Hugging Face folder: one safetensors file, or several with an index.

The files are not trusted: the header is bounded and every offset is checked before it is used.
Knows nothing of models. The format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.checkpoint.fields import Fields, parse_json_object, quote, read_json_object
from engine.checkpoint.tensor_data import BLOCK_LAYOUTS, TensorData, map_file, num_bytes
from engine.errors import CheckpointError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

# The header of a file with a thousand tensors is about 100 KiB.
_MAX_HEADER_BYTES = 8 << 20
_MAX_DIMS = 8
_MAX_FILES = 1024
_METADATA_KEY = "__metadata__"


def read_safetensors_folder(folder: Path) -> dict[str, TensorData]:
    """Every tensor of the folder by name, as views of the mapped files.

    CheckpointError when there is neither `model.safetensors` nor an index, or a file is damaged.
    """
    if (folder / SINGLE_FILE).exists():
        return read_safetensors(folder / SINGLE_FILE)
    index = read_json_object(folder / INDEX_FILE, _MAX_HEADER_BYTES)
    weight_map = index.section("weight_map")
    if weight_map is None:
        raise index.error("weight_map", "is missing")
    tensors: dict[str, TensorData] = {}
    for file_name in _file_names(weight_map):
        for name, tensor in read_safetensors(folder / file_name).items():
            if name in tensors:
                raise weight_map.error(name, "lies in more than one file")
            tensors[name] = tensor
    for name in weight_map.values:
        if name not in tensors:
            raise weight_map.error(name, "lies in none of the files")
    return tensors


def read_safetensors(path: Path) -> dict[str, TensorData]:
    """Every tensor of one file by name, as views of the mapped file."""
    data = map_file(path)
    header_size = int.from_bytes(data[:8].tobytes(), "little")
    if len(data) < 8 or header_size > len(data) - 8:
        raise CheckpointError(f"{path}: not a safetensors file, or incomplete; fetch it again")
    if header_size > _MAX_HEADER_BYTES:
        raise CheckpointError(
            f"{path}: the header has {header_size} bytes; at most {_MAX_HEADER_BYTES} are allowed"
        )
    header = parse_json_object(data[8 : 8 + header_size].tobytes(), str(path))
    body = data[8 + header_size :]
    tensors = {}
    ranges = []
    for name in header.values:
        if name == _METADATA_KEY:
            continue
        begin, tensor = _tensor(header, name, body)
        tensors[name] = tensor
        ranges.append((begin, begin + len(tensor.data)))
    ranges.sort()
    if any(begin < end for (_, end), (begin, _) in zip(ranges, ranges[1:], strict=False)):
        raise CheckpointError(f"{path}: two tensors overlap")
    return tensors


def _tensor(header: Fields, name: str, body: NDArray[np.uint8]) -> tuple[int, TensorData]:
    """One entry of the header, checked: where its data begin in the body, and the tensor."""
    entry = header.section(name)
    if entry is None:
        raise header.error(name, "has no entry")
    dtype = entry.text("dtype")
    # A quantized block is GGUF's; here a dtype is one number.
    if dtype not in BLOCK_LAYOUTS or BLOCK_LAYOUTS[dtype].block_size != 1:
        raise header.error(name, f"has the type {quote(dtype)}; supported are F32, F16, BF16")
    shape = _sizes(entry, "shape")
    offsets = _sizes(entry, "data_offsets")
    if len(shape) > _MAX_DIMS or len(offsets) != 2:
        raise header.error(name, "has a damaged entry")
    begin, end = offsets
    if not begin <= end <= len(body):
        raise header.error(
            name, "reaches past the end of the file; it is incomplete or damaged, fetch it again"
        )
    if end - begin != num_bytes(dtype, shape):
        raise header.error(name, f"has {end - begin} bytes, which its shape {shape} does not fit")
    return begin, TensorData(dtype, shape, body[begin:end])


def _sizes(entry: Fields, key: str) -> tuple[int, ...]:
    values = entry.values.get(key)
    if not isinstance(values, list) or not all(
        isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63
        for value in values
    ):
        raise entry.error(key, "must be a list of sizes")
    return tuple(values)


def _file_names(weight_map: Fields) -> list[str]:
    names = set()
    for key in weight_map.values:
        name = weight_map.text(key)
        # A plain name in this folder: the index must not point anywhere else.
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise weight_map.error(key, f"must name a .safetensors file, not {quote(name)}")
        names.add(name)
    if len(names) > _MAX_FILES:
        raise CheckpointError(f"{weight_map.source}: names more than {_MAX_FILES} files")
    return sorted(names)
