"""Headers of model files that lie about sizes: refused in one line, in memory like the file's."""

from __future__ import annotations

import json
import math
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from checkpoint_files import raw_gguf, raw_tensor, write_gguf
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import CheckpointError, TokenizerData, open_checkpoint
from engine.checkpoint import dequantize
from engine.checkpoint.fields import Fields
from engine.checkpoint.gguf import read_gguf
from engine.checkpoint.safetensors_file import read_safetensors
from engine.checkpoint.tokenizer_data import gguf_tokenizer
from server.tokenizer import load_tokenizer

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


@settings(max_examples=150, deadline=None)
@given(
    kind=st.integers(0, 45),
    dims=st.lists(SIZES | st.sampled_from([32, 256, 512]), min_size=1, max_size=4),
    data=st.binary(max_size=600),
)
def test_gguf_tensors_of_any_type_and_shape(
    folder: Path, kind: int, dims: list[int], data: bytes
) -> None:
    content = raw_gguf(tensors=[raw_tensor(b"t", dims, type_id=kind)], data=data)

    def read_all(path: Path) -> None:
        for tensor in read_gguf(path).tensors.values():
            assert dequantize(tensor).size == math.prod(tensor.shape)

    bounded(read_all, folder / "types.gguf", content)


@settings(max_examples=100, deadline=None)
@given(
    scores=st.lists(st.floats(width=32) | st.integers(-9, 9).map(float), max_size=9),
    types=st.lists(st.integers(-1, 9), max_size=9),
    tokens=st.lists(st.text(max_size=4), max_size=9),
)
def test_gguf_sentence_pieces_of_any_kind(
    folder: Path, scores: list[float], types: list[int], tokens: list[str]
) -> None:
    """Refused, or a tokenizer that takes any text."""
    values: dict[str, object] = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array(types, np.int32),
        "tokenizer.ggml.scores": np.array(scores, np.float32),
    }
    try:
        tokenizer = load_tokenizer(gguf_tokenizer(Fields("m.gguf", values), 9))
    except CheckpointError as error:
        assert str(error).isprintable()
        return
    text = "".join(tokens) + " a\u00e9"
    assert all(0 <= i < len(tokens) for i in tokenizer.encode(text, add_special_tokens=False))


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=200) | st.from_regex(rb"([A-Z]{2}==? [0-9]{1,9}\n){1,9}"))
def test_tiktoken_files_of_any_bytes(folder: Path, content: bytes) -> None:
    path = folder / "any.tiktoken"
    path.write_bytes(content)
    data = TokenizerData(
        "tiktoken", None, None, None, "gpt-2", None, None, (), False, None, vocabulary_path=path
    )
    with pytest.raises(CheckpointError) as caught:  # no such content has all 256 bytes
        load_tokenizer(data)
    assert str(caught.value).isprintable()


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
