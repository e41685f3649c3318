"""What is told of a model; which tokens end a text with `--generation-config auto` and `off`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import pytest
import tokenizers
from checkpoint_files import write_gguf, write_huggingface
from fake_engine import INFO, FakeEngine
from fastapi import FastAPI
from live_app import MODEL, live_app
from tokenizers import decoders, models

from engine import Checkpoint, open_checkpoint
from server.api_keys import load_api_keys
from server.banner import banner
from server.hosts import ANY_HOST
from server.model_facts import ModelFacts, author_notes, model_facts
from server.services import Services
from server.settings import Settings
from server.web import build_server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The config says that 4 ends a text; its author says 6 and 4, and how to sample."""
    write_huggingface(tmp_path, model_type="llama")
    names = {name: i for i, name in enumerate(["a", "b", "c", "<s>", "</s>", "d", "<end>", "e"])}
    library = tokenizers.Tokenizer(models.BPE(vocab=names, merges=[]))
    library.decoder = decoders.ByteLevel()
    library.save(str(tmp_path / "tokenizer.json"))
    suggested = {"eos_token_id": [6, 4], "temperature": 0.6, "top_k": 20}
    (tmp_path / "generation_config.json").write_text(json.dumps(suggested))
    return tmp_path


def services_of(checkpoint: Checkpoint, settings: Settings) -> Services:
    server = build_server(
        FakeEngine(),
        checkpoint,
        settings,
        ["m"],
        load_api_keys(None, None),
        ANY_HOST,
        lambda: None,
    )
    services: Services = cast("FastAPI", server.config.app).state.services
    services.watch.close()
    return services


@pytest.mark.parametrize(("choice", "ends"), [("auto", (6, 4)), ("off", (4,))])
def test_the_authors_ends_count_unless_told_otherwise(
    folder: Path, choice: str, ends: tuple[int, ...]
) -> None:
    settings = Settings(model=str(folder), generation_config=choice)
    services = services_of(open_checkpoint(folder), settings)
    assert services.tokenizer.eos_token_ids == ends
    assert services.facts is not None
    assert services.facts.source == folder.name


def test_the_source_of_a_hub_model_is_its_id(folder: Path) -> None:
    settings = Settings(model="somebody/tiny")
    checkpoint = open_checkpoint(folder)
    facts = services_of(checkpoint, settings).facts
    size = checkpoint.num_parameters
    assert facts == ModelFacts("llama", "F32", 128, size, "safetensors", "somebody/tiny")


def test_facts_of_a_gguf_file(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_gguf(tmp_path / "m.gguf", "qwen2", dtype="Q8_0"))
    facts = model_facts(checkpoint, "m.gguf")
    assert (facts.family, facts.quantization, facts.format) == ("qwen2", "Q8_0", "GGUF")
    assert facts.num_parameters == checkpoint.num_parameters


def test_a_config_alone_has_no_type(tmp_path: Path) -> None:
    write_huggingface(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    checkpoint = open_checkpoint(tmp_path, require_weights=False)
    assert model_facts(checkpoint, "x").quantization is None


def test_notes_for_the_banner(folder: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(folder)
    ends, suggested = author_notes(checkpoint, "auto")
    assert ends == "ends at   tokens 6, 4"
    assert "suggests temperature 0.6, top_k 20 (shown only" in suggested
    assert author_notes(checkpoint, "off") == ["ends at   token 4"]
    assert f"  {ends}\n" in banner("m", "here", INFO, "http://x", needs_key=False, notes=[ends])
    no_ends = open_checkpoint(write_huggingface(tmp_path / "b", eos_token_id=None))
    assert "no token" in author_notes(no_ends, "auto")[0]


async def test_models_tell_the_facts() -> None:
    facts = ModelFacts("llama", "Q4_K", 8192, 135_000_000, "GGUF", "m.gguf")
    async with live_app(FakeEngine(), facts=facts) as client:
        card = (await client.get(f"/v1/models/{MODEL}")).json()
        listed = (await client.get("/v1/models")).json()["data"]
    assert card == listed[0]
    assert card == {
        "id": MODEL,
        "object": "model",
        "created": card["created"],
        "owned_by": "octavo",
        "max_model_len": INFO.max_model_len,
        "context_length": 8192,
        "family": "llama",
        "quantization": "Q4_K",
        "num_parameters": 135_000_000,
        "format": "GGUF",
        "source": "m.gguf",
    }
