"""What a model's author suggests for generating: where a text ends, and how to draw its tokens.

From `generation_config.json`, or the `general.sampling.*` keys of a GGUF file. Imposes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from engine.checkpoint.fields import Fields, read_json_object

FILE_NAME = "generation_config.json"
_MAX_BYTES = 1 << 20

# By their names in requests.
_NAMES = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
_GGUF_NAMES = {
    "temperature": "general.sampling.temp",
    "top_p": "general.sampling.top_p",
    "top_k": "general.sampling.top_k",
    "min_p": "general.sampling.min_p",
    "repetition_penalty": "general.sampling.penalty_repeat",
}


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """`eos_token_ids` end a text as the config's own do. `sampling` has what is suggested, by the
    names of a request's parameters."""

    eos_token_ids: tuple[int, ...] = ()
    sampling: Mapping[str, float] = field(default_factory=dict)


def huggingface_generation(folder: Path, vocab_size: int) -> GenerationConfig:
    """From the folder's file; CheckpointError when that is damaged."""
    path = folder / FILE_NAME
    if not path.exists():
        return GenerationConfig()
    fields = read_json_object(path, _MAX_BYTES)
    return GenerationConfig(
        token_ids(fields, "eos_token_id", vocab_size), _sampling(fields, {n: n for n in _NAMES})
    )


def gguf_generation(metadata: Fields) -> GenerationConfig:
    """From a GGUF file's metadata, which name the tokens that end a text with the tokenizer."""
    return GenerationConfig(sampling=_sampling(metadata, _GGUF_NAMES))


def token_ids(fields: Fields, key: str, vocab_size: int) -> tuple[int, ...]:
    """One id or a list of them, each once; none when the key is absent."""
    value = fields.values.get(key)
    if value is None:
        return ()
    items = value if isinstance(value, list) else [value]
    found = [Fields(fields.source, {key: item}) for item in items]
    return tuple(dict.fromkeys(f.integer(key, low=0, high=vocab_size - 1) for f in found))


def _sampling(fields: Fields, keys: Mapping[str, str]) -> dict[str, float]:
    return {
        name: fields.number(key, low=-1.0, high=1e9) for name, key in keys.items() if key in fields
    }
