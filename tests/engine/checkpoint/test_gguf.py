"""The GGUF reader: agrees with the official one on good files, and refuses all others quickly."""

import struct
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest
from checkpoint_files import raw_gguf, raw_string, raw_tensor, write_gguf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.checkpoint import dequantize, open_checkpoint
from engine.checkpoint.gguf import read_gguf
from engine.errors import CheckpointError

HUGE = 1 << 62
UINT32, STRING, ARRAY = 4, 8, 9


def key(name: bytes, type_id: int, payload: bytes) -> bytes:
    return raw_string(name) + struct.pack("<I", type_id) + payload


def array(item_type_id: int, count: int, payload: bytes = b"") -> bytes:
    return struct.pack("<IQ", item_type_id, count) + payload


def test_agrees_with_the_official_reader(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", dtype="Q4_1", general__name="Tiny \u00e9")
    file = read_gguf(path)
    official = gguf.GGUFReader(path)
    for name, field in official.fields.items():
        if not name.startswith("GGUF."):
            value = file.metadata.values[name]
            value = value.tolist() if isinstance(value, np.ndarray) else value
            assert value == field.contents(), name
    assert len(file.tensors) == len(official.tensors)
    for tensor in official.tensors:
        mine = file.tensors[tensor.name]
        assert mine.dtype == tensor.tensor_type.name
        assert mine.shape == tuple(int(size) for size in reversed(tensor.shape))
        assert mine.data.tobytes() == tensor.data.tobytes()
        assert not mine.data.flags.writeable


def test_every_kind_of_value(tmp_path: Path) -> None:
    numbers = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 10: "Q", 11: "q", 12: "d"}
    keys = [
        key(f"number.{type_id}".encode(), type_id, struct.pack(f"<{code}", 100))
        for type_id, code in numbers.items()
    ]
    keys.append(key(b"flag", 7, b"\x01"))
    keys.append(key(b"numbers", ARRAY, array(5, 2, struct.pack("<2i", -1, 2))))
    keys.append(key(b"strings", ARRAY, array(STRING, 2, raw_string(b"x") + raw_string(b""))))
    path = tmp_path / "model.gguf"
    path.write_bytes(raw_gguf(keys=keys, version=2))
    values = read_gguf(path).metadata.values
    assert all(values[f"number.{type_id}"] == 100 for type_id in numbers)
    assert values["flag"] is True
    assert np.array_equal(values["numbers"], [-1, 2])
    assert values["strings"] == ["x", ""]


HOSTILE = {
    "empty": (b"", "empty"),
    "short": (b"GGU", "incomplete"),
    "magic": (b"PK\x03\x04" + bytes(64), "not a GGUF file"),
    "version 1": (raw_gguf(version=1), "version 0x1 "),
    "big-endian": (raw_gguf(version=0x03000000), "version 0x3000000 "),
    "tensor count": (raw_gguf(num_tensors=HUGE), "claims"),
    "key count": (raw_gguf(num_keys=HUGE), "claims"),
    "missing keys": (raw_gguf(num_keys=2), "incomplete"),
    "missing tensors": (raw_gguf(num_tensors=9), "incomplete"),
    "long name": (raw_gguf(keys=[struct.pack("<Q", HUGE)]), "name"),
    "long string": (raw_gguf(keys=[key(b"k", STRING, struct.pack("<Q", HUGE))]), "incomplete"),
    "array": (raw_gguf(keys=[key(b"k", ARRAY, array(UINT32, HUGE))]), "incomplete"),
    "strings": (raw_gguf(keys=[key(b"k", ARRAY, array(STRING, HUGE))]), "strings"),
    "string in array": (
        raw_gguf(keys=[key(b"k", ARRAY, array(STRING, 1, struct.pack("<Q", HUGE)))]),
        "incomplete",
    ),
    "nested array": (
        raw_gguf(keys=[key(b"k", ARRAY, array(ARRAY, 1, array(UINT32, 1, b"1234")))]),
        "nested",
    ),
    "value type": (raw_gguf(keys=[key(b"k", 99, b"")]), "unknown"),
    "utf-8": (raw_gguf(keys=[key(b"k", STRING, raw_string(b"\xff"))]), "UTF-8"),
    "key twice": (raw_gguf(keys=[key(b"k", UINT32, b"1234")] * 2), "repeated"),
    "alignment 0": (
        raw_gguf(keys=[key(b"general.alignment", UINT32, bytes(4))]),
        "general.alignment",
    ),
    "alignment 48": (
        raw_gguf(keys=[key(b"general.alignment", UINT32, struct.pack("<I", 48))]),
        "power of two",
    ),
    "alignment type": (
        raw_gguf(keys=[key(b"general.alignment", STRING, raw_string(b"32"))]),
        "integer",
    ),
    "no dims": (raw_gguf(tensors=[raw_tensor(b"t", [])]), "0 dimensions"),
    "five dims": (raw_gguf(tensors=[raw_tensor(b"t", [1] * 5)]), "5 dimensions"),
    "zero dim": (raw_gguf(tensors=[raw_tensor(b"t", [4, 0])]), "empty"),
    "huge dims": (
        raw_gguf(tensors=[raw_tensor(b"t", [HUGE] * 4)], data=bytes(64)),
        "past the end",
    ),
    # 2**32 * 2**32 is 0 in 64 bits.
    "overflowing dims": (
        raw_gguf(tensors=[raw_tensor(b"t", [1 << 32, 1 << 32])], data=bytes(64)),
        "past the end",
    ),
    "offset": (
        raw_gguf(tensors=[raw_tensor(b"t", [8], offset=64)], data=bytes(64)),
        "past the end",
    ),
    "offset wraps": (
        raw_gguf(tensors=[raw_tensor(b"t", [8], offset=2**64 - 32)], data=bytes(64)),
        "past the end",
    ),
    "one byte short": (
        raw_gguf(tensors=[raw_tensor(b"t", [8])], data=bytes(31)),
        "past the end",
    ),
    "misaligned": (
        raw_gguf(tensors=[raw_tensor(b"t", [1], offset=4)], data=bytes(64)),
        "misaligned",
    ),
    "overlap": (
        raw_gguf(
            tensors=[raw_tensor(b"a", [16]), raw_tensor(b"b", [8], offset=32)], data=bytes(64)
        ),
        "overlaps",
    ),
    "tensor twice": (
        raw_gguf(tensors=[raw_tensor(b"t", [8]), raw_tensor(b"t", [8])], data=bytes(64)),
        "repeated",
    ),
    "half a block": (
        raw_gguf(tensors=[raw_tensor(b"t", [33, 2], type_id=8)], data=bytes(99)),
        "Q8_0 cannot hold",
    ),
    "other type": (
        raw_gguf(tensors=[raw_tensor(b"t", [256], type_id=40)], data=bytes(256)),
        "'t' has the type NVFP4, which is not supported; convert",
    ),
    "unknown type": (
        raw_gguf(tensors=[raw_tensor(b"t", [256], type_id=77)], data=bytes(256)),
        "number 77",
    ),
    "hostile name": (
        raw_gguf(tensors=[raw_tensor(b"\x1b[2J\n" * 40, [256], type_id=77)]),
        r"\\x1b\[2J\\n.*\.\.\. has the type",
    ),
}


@pytest.mark.parametrize(("content", "complaint"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_files_are_refused_in_one_line(
    tmp_path: Path, content: bytes, complaint: str
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=complaint) as caught:
            read_gguf(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert message.startswith(str(path))
    assert message.isprintable()
    assert len(message) < len(str(path)) + 250
    assert peak < 1 << 20


def test_the_header_is_bounded_however_large_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    with path.open("wb") as file:
        file.write(raw_gguf(keys=[key(b"k", ARRAY, array(STRING, 100_000_000))])[:64])
        file.truncate(4 << 30)  # sparse: takes no room on the disk
    with pytest.raises(CheckpointError, match="strings"):
        read_gguf(path)


def test_what_is_not_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        read_gguf(tmp_path / "none.gguf")
    with pytest.raises(CheckpointError, match="no such file"):
        read_gguf(tmp_path)


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("valid") / "model.gguf", dtype="Q8_0")


@pytest.fixture(scope="module")
def header_size(valid: Path) -> int:
    return int(gguf.GGUFReader(valid).data_offset)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "model.gguf"


_NUMBERS = st.sampled_from(
    [0, 1, 2, 31, 255, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 63, (1 << 64) - 1]
)
_PATCHES = st.one_of(
    st.binary(min_size=1, max_size=12),
    _NUMBERS.map(lambda number: struct.pack("<Q", number)),
    _NUMBERS.map(lambda number: struct.pack("<I", number & 0xFFFFFFFF)),
)


def open_and_read_all(path: Path) -> None:
    try:
        checkpoint = open_checkpoint(path)
    except CheckpointError as error:
        assert str(error).isprintable()
        return
    for name in checkpoint.tensor_names:
        assert dequantize(checkpoint.tensor(name)).shape == checkpoint.tensor(name).shape


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_damaged_file_gives_a_checkpoint_error_or_a_sound_model(
    valid: Path, header_size: int, scratch: Path, data: st.DataObject
) -> None:
    content = bytearray(valid.read_bytes())
    patches = st.tuples(st.integers(0, header_size), _PATCHES)
    for position, patch in data.draw(st.lists(patches, min_size=1, max_size=3)):
        content[position : position + len(patch)] = patch
    scratch.write_bytes(content)
    open_and_read_all(scratch)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_truncated_file_is_refused(valid: Path, scratch: Path, data: st.DataObject) -> None:
    content = valid.read_bytes()
    length = data.draw(st.integers(0, len(content) - 1))
    scratch.write_bytes(content[:length])
    with pytest.raises(CheckpointError, match=r"incomplete|empty|strings"):
        open_checkpoint(scratch)


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=300))
def test_arbitrary_bytes_after_the_magic_are_refused(scratch: Path, content: bytes) -> None:
    scratch.write_bytes(b"GGUF" + struct.pack("<I", 3) + content)
    with pytest.raises(CheckpointError):
        open_checkpoint(scratch)
