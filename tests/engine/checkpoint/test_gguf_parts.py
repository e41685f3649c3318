"""A model in several GGUF files, as `llama-gguf-split` and the `gguf` package make them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
from checkpoint_files import random_weights, write_gguf

from engine.checkpoint import dequantize, open_checkpoint
from engine.checkpoint.gguf_parts import first_part, part_names
from engine.errors import CheckpointError


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("whole") / "m.gguf", weights=random_weights())


@pytest.fixture
def parts(whole: Path, tmp_path: Path) -> list[Path]:
    """The same model in parts of 8 tensors, by the package."""
    reader = gguf.GGUFReader(whole)
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama", split_max_tensors=8)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        is_array = field.types[0] is gguf.GGUFValueType.ARRAY
        sub_type = field.types[-1] if is_array else None
        writer.add_key_value(name, field.contents(), field.types[0], sub_type=sub_type)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = sorted(tmp_path.glob("*.gguf"))
    assert len(found) == 3
    return found


def test_parts_are_read_as_one(whole: Path, parts: list[Path]) -> None:
    expected = open_checkpoint(whole)
    for path in (parts[0], parts[0].parent):
        checkpoint = open_checkpoint(path)
        assert checkpoint.config == expected.config
        assert checkpoint.tokenizer == expected.tokenizer
        assert checkpoint.tensor_names == expected.tensor_names
        for name in expected.tensor_names:
            ours, theirs = checkpoint.tensor(name), expected.tensor(name)
            np.testing.assert_array_equal(dequantize(ours), dequantize(theirs))


def test_names() -> None:
    names = ["a/m-00001-of-00002.gguf", "a/m-00002-of-00002.gguf"]
    assert part_names(names[1]) == names
    assert part_names("m.gguf") == ["m.gguf"]
    assert part_names("m-00001-of-99999.gguf") == ["m-00001-of-99999.gguf"]
    assert first_part([]) is None
    assert first_part([Path("m.gguf"), Path("n.gguf")]) is None
    assert first_part([Path("m.gguf")]) == Path("m.gguf")


def test_a_missing_part_is_named(parts: list[Path]) -> None:
    parts[1].unlink()
    with pytest.raises(CheckpointError, match=re.escape(f"{parts[1]}: no such file")):
        open_checkpoint(parts[0])


def test_a_part_that_is_not_the_first(parts: list[Path]) -> None:
    with pytest.raises(CheckpointError, match="one of 3 parts of a model; give the first"):
        open_checkpoint(parts[2])


def test_renamed_parts(parts: list[Path]) -> None:
    other = parts[0].rename(parts[0].with_name("other.gguf"))
    with pytest.raises(CheckpointError, match="keep the names"):
        open_checkpoint(other)


def test_a_part_of_something_else(parts: list[Path], whole: Path) -> None:
    shutil.copy(whole, parts[2])
    with pytest.raises(CheckpointError, match=r"00003-of-00003\.gguf: not part 3"):
        open_checkpoint(parts[0])
    shutil.copy(parts[1], parts[2])
    with pytest.raises(CheckpointError, match=r"00003-of-00003\.gguf: not part 3"):
        open_checkpoint(parts[0])
