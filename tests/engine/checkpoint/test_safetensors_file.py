"""The safetensors reader: agrees with the official writer, refuses damaged and hostile files."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_files import random_weights, write_huggingface
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from engine.checkpoint import dequantize, open_checkpoint
from engine.checkpoint.safetensors_file import read_safetensors, read_safetensors_folder
from engine.errors import CheckpointError


def raw_file(header: Any, body: bytes = b"", *, header_size: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if header_size is None else header_size) + text + body


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_reads_what_the_official_writer_writes(tmp_path: Path) -> None:
    weights = {
        "single": np.arange(6, dtype=np.float32).reshape(2, 3),
        "half": np.array([1.5, -2], dtype=np.float16),
        "scalar": np.array(3, dtype=np.float32),
    }
    save_file(weights, tmp_path / "x.safetensors", metadata={"format": "pt"})
    tensors = read_safetensors(tmp_path / "x.safetensors")
    assert tensors.keys() == weights.keys()
    for name, weight in weights.items():
        assert not tensors[name].data.flags.writeable
        np.testing.assert_array_equal(dequantize(tensors[name]), weight)


HOSTILE = {
    "empty": (b"", "empty"),
    "short": (b"123", "not a safetensors file"),
    "header past the end": (raw_file({}, header_size=3), "not a safetensors file"),
    "huge header": (raw_file({}, header_size=1 << 63), "not a safetensors file"),
    "not json": (raw_file(b"{"), "JSON"),
    "not utf-8": (raw_file(b'{"\xff": 1}'), "JSON"),
    "not an object": (raw_file([]), "object"),
    "deep": (raw_file(b"[" * 100_000), "nested too deeply"),
    "long number": (raw_file(b'{"a": ' + b"9" * 5000 + b"}"), "JSON"),
    "name twice": (raw_file(b'{"a": {}, "a": {}}'), "repeated"),
    "no entry": (raw_file({"a": None}), "no entry"),
    "entry type": (raw_file({"a": 3}), "object"),
    "no dtype": (raw_file({"a": {}}), "dtype is missing"),
    "dtype": (raw_file({"a": entry("F8_E4M3")}), "F8_E4M3.*supported are F32, F16, BF16"),
    "gguf dtype": (raw_file({"a": entry("Q8_0", [32], [0, 34])}, bytes(34)), "supported are"),
    "shape type": (raw_file({"a": entry(shape="x")}), "list of sizes"),
    "negative": (raw_file({"a": entry(shape=[-2])}), "list of sizes"),
    "boolean": (raw_file({"a": entry(shape=[True])}), "list of sizes"),
    "fraction": (raw_file({"a": entry(shape=[2.0])}), "list of sizes"),
    "dims": (raw_file({"a": entry(shape=[1] * 9)}), "damaged"),
    "offsets": (raw_file({"a": entry(offsets=[0])}), "damaged"),
    "backwards": (raw_file({"a": entry(offsets=[8, 0])}, bytes(8)), "past the end"),
    "past the end": (raw_file({"a": entry()}, bytes(7)), "past the end"),
    "shape and size": (raw_file({"a": entry(shape=[3])}, bytes(8)), "8 bytes"),
    "overflow": (raw_file({"a": entry(shape=[1 << 62, 4], offsets=[0, 0])}, bytes(8)), "0 bytes"),
    "overlap": (raw_file({"a": entry(), "b": entry(offsets=[4, 12])}, bytes(12)), "overlap"),
    "hostile name": (raw_file({"\n" * 200: entry("X")}), r"\\n\.*"),
}


@pytest.mark.parametrize(("content", "complaint"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_files_are_refused_in_one_line(
    tmp_path: Path, content: bytes, complaint: str
) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=complaint) as caught:
        read_safetensors(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < len(str(path)) + 250


def test_a_long_header_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 1 << 30))
        file.truncate(2 << 30)  # sparse: takes no room on the disk
    with pytest.raises(CheckpointError, match="at most"):
        read_safetensors(path)


def write_sharded(folder: Path) -> dict[str, Any]:
    """A folder with two shards; returns the index, which is written too."""
    write_huggingface(folder)
    (folder / "model.safetensors").unlink()
    weights = random_weights()
    names = list(weights)
    weight_map = {}
    for number, part in enumerate((names[:5], names[5:]), start=1):
        file_name = f"model-{number:05}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, folder / file_name)
        weight_map |= dict.fromkeys(part, file_name)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    write_index(folder, index)
    return index


def write_index(folder: Path, index: Any) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_shards_are_joined(tmp_path: Path) -> None:
    write_sharded(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    for name, weight in random_weights().items():
        np.testing.assert_array_equal(dequantize(checkpoint.tensor(name)), weight)


@pytest.mark.parametrize(
    "file_name",
    ["../model.safetensors", "/etc/model.safetensors", "model.bin", "..", "", "a/b.safetensors", 3],
)
def test_index_may_name_only_files_of_its_folder(tmp_path: Path, file_name: Any) -> None:
    index = write_sharded(tmp_path)
    index["weight_map"]["model.norm.weight"] = file_name
    write_index(tmp_path, index)
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight must"):
        read_safetensors_folder(tmp_path)


def test_broken_indexes_are_refused(tmp_path: Path) -> None:
    index = write_sharded(tmp_path)
    write_index(tmp_path, {})
    with pytest.raises(CheckpointError, match="weight_map is missing"):
        read_safetensors_folder(tmp_path)
    shard = index["weight_map"]["model.norm.weight"]
    write_index(tmp_path, {"weight_map": index["weight_map"] | {"extra.weight": shard}})
    with pytest.raises(CheckpointError, match="lies in none of the files"):
        read_safetensors_folder(tmp_path)
    write_index(tmp_path, index)
    (tmp_path / shard).unlink()
    with pytest.raises(CheckpointError, match="no such file"):
        read_safetensors_folder(tmp_path)
    save_file(random_weights(), tmp_path / shard)
    with pytest.raises(CheckpointError, match="more than one file"):
        read_safetensors_folder(tmp_path)


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = write_huggingface(tmp_path_factory.mktemp("valid"))
    return (folder / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "x.safetensors"


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_damaged_file_gives_a_checkpoint_error_or_sound_tensors(
    valid: bytes, scratch: Path, data: st.DataObject
) -> None:
    content = bytearray(valid)
    header_size = 8 + int.from_bytes(valid[:8], "little")
    patch = data.draw(st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from(_TOKENS)))
    position = data.draw(st.integers(0, header_size))
    content[position : position + len(patch)] = patch
    scratch.write_bytes(content[: data.draw(st.sampled_from([len(content), header_size, 40]))])
    try:
        tensors = read_safetensors(scratch)
    except CheckpointError as error:
        assert str(error).isprintable()
    else:
        assert all(dequantize(tensor).shape == tensor.shape for tensor in tensors.values())


_TOKENS = [b"0", b"-1", b"[[[", b"1e9", b"null", b'"', b"}", b"\\ud800", b"NaN", b"999999999999"]
