"""Headers of model files that lie about sizes: refused in one line, in memory like the file's."""

from __future__ import annotations

import json
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from checkpoint_files import write_gguf
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import CheckpointError, open_checkpoint
from engine.checkpoint.safetensors_file import read_safetensors

SIZES = st.sampled_from([0, 1, 2, 255, 1 << 16, 1 << 24, 1 << 31, 1 << 32, 1 << 48, (1 << 64) - 1])
MAX_MEMORY = 64 * 2**20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("fuzz")
    return made


@pytest.fixture(scope="module")
def valid(folder: Path) -> bytes:
    return write_gguf(folder / "valid.gguf", dtype="Q8_0").read_bytes()


def bounded(read: Callable[[Path], object], path: Path, content: bytes) -> None:
    """Read `content`, which may be refused."""
    path.write_bytes(content)
    tracemalloc.start()
    try:
        read(path)
    except CheckpointError as error:
        assert str(error).isprintable()
        assert len(str(error)) < 2000
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < MAX_MEMORY


@settings(max_examples=150, deadline=None)
@given(
    counts=st.tuples(SIZES, SIZES),
    entries=st.lists(
        st.tuples(SIZES, st.binary(max_size=20), st.integers(0, 14), SIZES), max_size=4
    ),
    tail=st.binary(max_size=64),
)
def test_gguf_counts_and_lengths_that_lie(
    folder: Path,
    counts: tuple[int, int],
    entries: list[tuple[int, bytes, int, int]],
    tail: bytes,
) -> None:
    content = b"GGUF" + struct.pack("<IQQ", 3, *counts)
    for length, name, kind, size in entries:
        content += struct.pack("<Q", length) + name + struct.pack("<IQ", kind, size)
    bounded(open_checkpoint, folder / "counts.gguf", content + tail)


@settings(max_examples=150, deadline=None)
@given(position=st.integers(0, 4000), size=SIZES, num_bytes=st.sampled_from([4, 8]))
def test_a_gguf_file_with_one_size_that_lies(
    folder: Path, valid: bytes, position: int, size: int, num_bytes: int
) -> None:
    content = bytearray(valid)
    content[position : position + num_bytes] = struct.pack("<Q", size)[:num_bytes]
    bounded(open_checkpoint, folder / "size.gguf", bytes(content))


@settings(max_examples=200, deadline=None)
@given(
    length=SIZES | st.none(),
    tensors=st.dictionaries(
        st.text(max_size=8),
        st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["F32", "BF16", "F64", "I64", "x", None, 3]),
                "shape": st.lists(SIZES | st.integers(-3, 3), max_size=5),
                "data_offsets": st.lists(SIZES | st.integers(-3, 64), min_size=0, max_size=3),
            }
        ),
        max_size=4,
    ),
    data=st.binary(max_size=64),
)
def test_safetensors_headers_that_lie(
    folder: Path, length: int | None, tensors: dict[str, object], data: bytes
) -> None:
    header = json.dumps(tensors).encode()
    size = len(header) if length is None else length
    content = struct.pack("<Q", size) + header + data
    bounded(read_safetensors, folder / "lies.safetensors", content)
