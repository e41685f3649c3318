"""What a model's author suggests, from a folder and from GGUF."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from checkpoint_files import write_gguf, write_huggingface

from engine.checkpoint import Checkpoint, open_checkpoint
from engine.errors import CheckpointError


def with_file(folder: Path, content: Any) -> Checkpoint:
    write_huggingface(folder)
    (folder / "generation_config.json").write_text(json.dumps(content))
    return open_checkpoint(folder)


@pytest.mark.parametrize(
    ("value", "token_ids"), [(6, (6,)), ([5, 4, 5], (5, 4)), (None, ()), ([], ())]
)
def test_ends(tmp_path: Path, value: Any, token_ids: tuple[int, ...]) -> None:
    checkpoint = with_file(tmp_path, {"eos_token_id": value})
    assert checkpoint.generation.eos_token_ids == token_ids
    assert checkpoint.tokenizer.eos_token_ids == (4,)


def test_sampling(tmp_path: Path) -> None:
    content = {"temperature": 0.6, "top_p": 0.9, "top_k": 20, "do_sample": True, "num_beams": 4}
    checkpoint = with_file(tmp_path, content)
    assert checkpoint.generation.sampling == {"temperature": 0.6, "top_p": 0.9, "top_k": 20}


def test_no_file(tmp_path: Path) -> None:
    generation = open_checkpoint(write_huggingface(tmp_path)).generation
    assert (generation.eos_token_ids, generation.sampling) == ((), {})


def test_gguf(tmp_path: Path) -> None:
    suggested = {"general__sampling__temp": 0.5, "general__sampling__top_k": 40}
    checkpoint = open_checkpoint(write_gguf(tmp_path / "m.gguf", **suggested))
    assert checkpoint.generation.sampling == {"temperature": 0.5, "top_k": 40}
    assert checkpoint.generation.eos_token_ids == ()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ([], "must be a JSON object"),
        ({"eos_token_id": 8}, r"eos_token_id must be in 0\.\.7, not 8"),
        ({"eos_token_id": "x"}, "eos_token_id must be an integer, not 'x'"),
        ({"eos_token_id": [1, -1]}, r"must be in 0\.\.7"),
        ({"temperature": "hot"}, "temperature must be a number, not 'hot'"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, content: Any, complaint: str) -> None:
    with pytest.raises(CheckpointError, match=rf"generation_config\.json: .*{complaint}"):
        with_file(tmp_path, content)
