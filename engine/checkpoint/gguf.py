"""A GGUF file, opened: its metadata, and its tensors as views of the mapped file.

The file is not trusted: every count, length and offset is checked before it is used, so that any
bytes at all give a `CheckpointError` or a file whose tensors lie inside it. Does not know what the
metadata mean. The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.checkpoint.fields import Fields, quote
from engine.checkpoint.tensor_data import TensorData, map_file, num_bytes
from engine.errors import CheckpointError

# Far above what real files hold (a vocabulary of 262,144 makes about 20 MiB and 800,000 strings),
# and low enough that a hostile header costs some hundred megabytes at most.
_MAX_HEADER_BYTES = 64 << 20
_MAX_KEYS = 4096
_MAX_TENSORS = 65_536
_MAX_NAME_BYTES = 1024
_MAX_STRING_BYTES = 1 << 20
_MAX_STRINGS = 1 << 21
_MAX_DIMS = 4
_MAX_ALIGNMENT = 1 << 20
_DEFAULT_ALIGNMENT = 32

_UINT32 = struct.Struct("<I")
_UINT64 = struct.Struct("<Q")

_BOOL, _STRING, _ARRAY = 7, 8, 9
_NUMBERS: dict[int, np.dtype[np.generic]] = {
    0: np.dtype("u1"),
    1: np.dtype("i1"),
    2: np.dtype("<u2"),
    3: np.dtype("<i2"),
    4: np.dtype("<u4"),
    5: np.dtype("<i4"),
    6: np.dtype("<f4"),
    _BOOL: np.dtype("u1"),
    10: np.dtype("<u8"),
    11: np.dtype("<i8"),
    12: np.dtype("<f8"),
}

# The names of ggml's types, so that a refusal can say what the file holds.
_TENSOR_TYPES = {
    **{0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1"},
    **{10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K"},
    **{16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S"},
    **{22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64"},
    **{29: "IQ1_M", 30: "BF16", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4"},
    **{40: "NVFP4", 41: "Q1_0"},
}


@dataclass(frozen=True, slots=True)
class GgufFile:
    """`metadata` values are int, float, bool, str, list[str] or a numpy array of numbers."""

    metadata: Fields
    tensors: dict[str, TensorData]


def read_gguf(path: Path) -> GgufFile:
    """Map a GGUF file (version 2 or 3, little-endian) and read its header."""
    data = map_file(path)
    header = _Header(str(path), data)
    try:
        return header.read(data)
    except UnicodeDecodeError:
        raise header.error("holds a name or a string that is not valid UTF-8") from None


class _Header:
    """A position in the header that can only move forward, and never past its end."""

    def __init__(self, source: str, data: NDArray[np.uint8]) -> None:
        self._source = source
        self._bytes = data[:_MAX_HEADER_BYTES].data
        self._position = 0
        self._num_strings = 0

    def error(self, complaint: str) -> CheckpointError:
        return CheckpointError(f"{self._source}: {complaint}")

    def read(self, data: NDArray[np.uint8]) -> GgufFile:
        if self._take(4) != b"GGUF":
            raise self.error("not a GGUF file")
        version = self._uint32()
        if version not in (2, 3):
            # A big-endian file has its version in the upper bytes.
            raise self.error(f"GGUF version {version:#x} is not supported (little-endian 2 or 3)")
        num_tensors = self._uint64()
        num_keys = self._uint64()
        if num_tensors > _MAX_TENSORS or num_keys > _MAX_KEYS:
            raise self.error(
                f"claims {num_tensors} tensors and {num_keys} keys; at most {_MAX_TENSORS} and "
                f"{_MAX_KEYS} are allowed"
            )
        values: dict[str, object] = {}
        for _ in range(num_keys):
            key = self._name()
            if key in values:
                raise self.error(f"the key {quote(key)} is repeated")
            values[key] = self._value(key)
        metadata = Fields(self._source, values)
        alignment = metadata.integer("general.alignment", _DEFAULT_ALIGNMENT, high=_MAX_ALIGNMENT)
        if alignment & (alignment - 1):
            raise metadata.error("general.alignment", f"must be a power of two, not {alignment}")
        return GgufFile(metadata, self._tensors(num_tensors, alignment, data))

    def _tensors(
        self, num_tensors: int, alignment: int, data: NDArray[np.uint8]
    ) -> dict[str, TensorData]:
        entries: dict[str, _Entry] = {}
        for _ in range(num_tensors):
            name = self._name()
            if name in entries:
                raise self.error(f"the tensor {quote(name)} is repeated")
            entries[name] = self._entry(name)
        # The data begin at the next multiple of the alignment, and so does each tensor in them.
        start = -(-self._position // alignment) * alignment
        end_of_last = 0
        for name, entry in sorted(entries.items(), key=lambda item: item[1].offset):
            if entry.offset % alignment or entry.offset < end_of_last:
                raise self.error(f"the tensor {quote(name)} is misaligned or overlaps another")
            end_of_last = entry.offset + entry.num_bytes
            if start + end_of_last > len(data):
                raise self.error(
                    f"the tensor {quote(name)} reaches past the end of the file; the file is "
                    "incomplete or damaged, fetch it again"
                )
        return {
            name: TensorData(
                entry.dtype,
                entry.shape,
                data[start + entry.offset : start + entry.offset + entry.num_bytes],
            )
            for name, entry in entries.items()
        }

    def _entry(self, name: str) -> _Entry:
        num_dims = self._uint32()
        if not 1 <= num_dims <= _MAX_DIMS:
            raise self.error(
                f"the tensor {quote(name)} has {num_dims} dimensions; 1 to 4 are allowed"
            )
        # GGUF names the contiguous dimension first, torch last.
        shape = tuple(self._uint64() for _ in range(num_dims))[::-1]
        if 0 in shape:
            raise self.error(f"the tensor {quote(name)} is empty")
        type_id = self._uint32()
        dtype = _TENSOR_TYPES.get(type_id, f"number {type_id}")
        try:
            size = num_bytes(dtype, shape)
        except ValueError as error:
            raise self.error(f"the tensor {quote(name)} {error}") from None
        return _Entry(dtype, shape, self._uint64(), size)

    def _value(self, key: str) -> object:
        type_id = self._uint32()
        if type_id == _STRING:
            return self._strings(1)[0]
        if type_id == _ARRAY:
            item_type_id = self._uint32()
            count = self._uint64()
            if item_type_id == _STRING:
                return self._strings(count)
            return self._numbers(key, item_type_id, count)
        number = self._numbers(key, type_id, 1)[0].item()
        return bool(number) if type_id == _BOOL else number

    def _numbers(self, key: str, type_id: int, count: int) -> NDArray[np.generic]:
        dtype = _NUMBERS.get(type_id)
        if dtype is None:
            raise self.error(
                f"the key {quote(key)} has a value of unknown or nested type {type_id}"
            )
        return np.frombuffer(self._take(count * dtype.itemsize), dtype)

    def _strings(self, count: int) -> list[str]:
        # The one hot loop (100,000 strings in a usual file), hence the local names.
        data, position, unpack = self._bytes, self._position, _UINT64.unpack_from
        end = len(data)
        self._num_strings += count
        if self._num_strings > _MAX_STRINGS or count * 8 > end - position:
            raise self.error("claims more strings than it can hold")
        strings = []
        for _ in range(count):
            start = position + 8
            if start > end:
                raise self._ended()
            position = start + unpack(data, position)[0]
            if position > end or position - start > _MAX_STRING_BYTES:
                raise self._ended()
            strings.append(str(data[start:position], "utf-8"))
        self._position = position
        return strings

    def _name(self) -> str:
        size = self._uint64()
        if size > _MAX_NAME_BYTES:
            raise self.error(f"a name is {size} bytes long; at most {_MAX_NAME_BYTES} are allowed")
        return str(self._take(size), "utf-8")

    def _uint32(self) -> int:
        return self._number(_UINT32)

    def _uint64(self) -> int:
        return self._number(_UINT64)

    def _number(self, layout: struct.Struct) -> int:
        (number,) = layout.unpack(self._take(layout.size))
        assert isinstance(number, int)
        return number

    def _take(self, size: int) -> bytes:
        start = self._position
        if size > len(self._bytes) - start:
            raise self._ended()
        self._position = start + size
        return bytes(self._bytes[start : self._position])

    def _ended(self) -> CheckpointError:
        return self.error(
            "the GGUF header is incomplete or damaged (or larger than 64 MiB); fetch the file again"
        )


@dataclass(frozen=True, slots=True)
class _Entry:
    """One line of the tensor table; `offset` counts from the start of the data."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    num_bytes: int
