"""A model as it lies on disk, opened and checked: what every other part reads it through.

Two formats, one face: names are Hugging Face's, rows are in half-rotated rotary order. Nothing is
copied on opening; weights are views of mapped files. No torch, no network, no remote code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from engine.checkpoint import gpt2
from engine.checkpoint.fields import read_json_object
from engine.checkpoint.gguf import read_gguf
from engine.checkpoint.gguf_config import (
    ROPE_FACTORS,
    gguf_architecture,
    gguf_config,
    huggingface_name,
)
from engine.checkpoint.huggingface_config import huggingface_config
from engine.checkpoint.model_config import ModelConfig
from engine.checkpoint.safetensors_file import INDEX_FILE, SINGLE_FILE, read_safetensors_folder
from engine.checkpoint.tensor_data import BLOCK_LAYOUTS, TensorData, to_half_rotated, to_transposed
from engine.checkpoint.tensor_shapes import LM_HEAD, check_tensors, tensor_shapes
from engine.checkpoint.tokenizer_data import TokenizerData, gguf_tokenizer, huggingface_tokenizer
from engine.errors import CheckpointError

_CONFIG_FILE = "config.json"
_MAX_CONFIG_BYTES = 1 << 20
_PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl"})
_PICKLE_REFUSED = "weights must be safetensors or GGUF; pickled weights can run code"

Rewrite = Callable[[TensorData], TensorData]


class Checkpoint:
    """A model's config, its tokenizer's data and its weights by name."""

    def __init__(
        self,
        path: Path,
        config: ModelConfig,
        tokenizer: TokenizerData,
        tensors: Mapping[str, TensorData],
        rewrites: Mapping[str, Rewrite] | None = None,
    ) -> None:
        """`rewrites` bring weights that are stored in another order into ours, by name."""
        self.path = path
        self.config = config
        self.tokenizer = tokenizer
        self._tensors = tensors
        self._rewrites = rewrites or {}

    @property
    def name(self) -> str:
        """A short name for people: the file's or folder's own."""
        path = self.path.resolve() if self.path.name in ("", "..") else self.path
        return path.stem if path.is_file() else path.name

    @property
    def num_parameters(self) -> int:
        """How many numbers the model has; a tied head counts once."""
        return sum(math.prod(shape) for shape in tensor_shapes(self.config).values())

    @property
    def is_quantized(self) -> bool:
        """Whether most of the weights are in a quantized format."""
        sizes = [
            (math.prod(tensor.shape), BLOCK_LAYOUTS[tensor.dtype].block_size > 1)
            for tensor in self._tensors.values()
        ]
        num_quantized = sum(size for size, is_quantized in sizes if is_quantized)
        return 2 * num_quantized > sum(size for size, _ in sizes)

    @property
    def tensor_names(self) -> list[str]:
        """The weights' names, in the order of the forward pass; empty when opened without."""
        return [name for name in tensor_shapes(self.config) if name in self._tensors]

    def tensor(self, name: str) -> TensorData:
        """One weight, its numbers unconverted. CheckpointError when there is none of that name."""
        tensor = self._tensors.get(name)
        if tensor is None:
            raise CheckpointError(f"{self.path}: there is no weight {name}")
        rewrite = self._rewrites.get(name)
        return tensor if rewrite is None else rewrite(tensor)


def open_checkpoint(path: Path, *, require_weights: bool = True) -> Checkpoint:
    """Open a `.gguf` file or a Hugging Face folder, and check that everything in it fits.

    CheckpointError, in one line, when it cannot be read, is damaged or is not supported. Without
    `require_weights` a folder may hold a config alone (for `--load-format dummy`).
    """
    if path.is_dir():
        if (path / _CONFIG_FILE).exists():
            return _open_huggingface(path, require_weights)
        gguf_files = sorted(path.glob("*.gguf"))
        if len(gguf_files) == 1:
            return _open_gguf(gguf_files[0])
        found = f"{len(gguf_files)} .gguf files; name one of them" if gguf_files else "neither"
        raise CheckpointError(f"{path}: needs a {_CONFIG_FILE} or one .gguf file, has {found}")
    if path.suffix.lower() in _PICKLE_SUFFIXES:
        raise CheckpointError(f"{path}: {_PICKLE_REFUSED}")
    return _open_gguf(path)


def _open_gguf(path: Path) -> Checkpoint:
    file = read_gguf(path)
    architecture = gguf_architecture(file.metadata)
    config = gguf_config(file.metadata, architecture, file.tensors)
    tokenizer = gguf_tokenizer(file.metadata, config.vocab_size)
    tensors = {
        huggingface_name(name, architecture.model): tensor for name, tensor in file.tensors.items()
    }
    tensors.pop(ROPE_FACTORS, None)  # has become a part of the config
    rewrites: dict[str, Rewrite] = {}
    if architecture.has_interleaved_rotary:
        for layer in range(config.num_layers):
            prefix = f"model.layers.{layer}.self_attn"
            for name, num_heads in (("q", config.num_heads), ("k", config.num_kv_heads)):
                rewrite = partial(to_half_rotated, num_heads=num_heads)
                rewrites[f"{prefix}.{name}_proj.weight"] = rewrite
    check_tensors(config, tensors, str(path))
    return Checkpoint(path, config, tokenizer, tensors, rewrites)


def _open_huggingface(folder: Path, require_weights: bool) -> Checkpoint:
    fields = read_json_object(folder / _CONFIG_FILE, _MAX_CONFIG_BYTES)
    config = huggingface_config(fields)
    tokenizer = huggingface_tokenizer(folder, fields, config.vocab_size)
    if not (folder / SINGLE_FILE).exists() and not (folder / INDEX_FILE).exists():
        if require_weights:
            raise _no_weights(folder)
        return Checkpoint(folder, config, tokenizer, {})
    tensors = read_safetensors_folder(folder)
    if LM_HEAD not in tensors and "tie_word_embeddings" not in fields:
        config = replace(config, tie_word_embeddings=True)
    tensors = {name: tensors[name] for name in tensors if not _is_ignored(name, config)}
    if config.architecture == "gpt2":
        tensors = gpt2.from_huggingface(tensors, str(folder))
        check_tensors(config, tensors, str(folder), gpt2.is_transposed)
        transposed = {name: to_transposed for name in tensors if gpt2.is_transposed(name)}
        return Checkpoint(folder, config, tokenizer, tensors, transposed)
    check_tensors(config, tensors, str(folder))
    return Checkpoint(folder, config, tokenizer, tensors)


def _is_ignored(name: str, config: ModelConfig) -> bool:
    """A head that the config says is tied, and the rotary tables that old exports contain."""
    is_tied_head = name == LM_HEAD and config.tie_word_embeddings
    return is_tied_head or name.endswith(".rotary_emb.inv_freq")


def _no_weights(folder: Path) -> CheckpointError:
    if any(child.suffix in _PICKLE_SUFFIXES for child in folder.iterdir()):
        return CheckpointError(f"{folder}: {_PICKLE_REFUSED}")
    return CheckpointError(f"{folder}: has no weights, neither {SINGLE_FILE} nor {INDEX_FILE}")
