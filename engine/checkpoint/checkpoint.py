"""A model as it lies on disk, opened and checked: what every other part reads it through.

Two formats, one face: names are Hugging Face's, rows are in half-rotated rotary order. Nothing is
copied on opening; weights are views of mapped files. No torch, no network, no remote code.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from engine.checkpoint import gemma, gpt2
from engine.checkpoint.bpe_files import with_bpe_files
from engine.checkpoint.fields import Fields, read_json_object
from engine.checkpoint.fused import split_fused
from engine.checkpoint.generation_config import (
    GenerationConfig,
    gguf_generation,
    huggingface_generation,
)
from engine.checkpoint.gguf_config import (
    gguf_architecture,
    gguf_config,
    huggingface_name,
)
from engine.checkpoint.gguf_parts import first_part, read_gguf_parts
from engine.checkpoint.gguf_rope import ROPE_TENSORS
from engine.checkpoint.huggingface_config import huggingface_config
from engine.checkpoint.model_config import ModelConfig
from engine.checkpoint.safetensors_file import INDEX_FILE, SINGLE_FILE, read_safetensors_folder
from engine.checkpoint.tensor_data import (
    BLOCK_LAYOUTS,
    TensorData,
    to_half_rotated,
    to_transposed,
    to_wide_rotary,
)
from engine.checkpoint.tensor_shapes import LM_HEAD, check_tensors, tensor_shapes
from engine.checkpoint.tokenizer_data import TokenizerData, gguf_tokenizer, huggingface_tokenizer
from engine.errors import CheckpointError

_CONFIG_FILE = "config.json"
_MAX_CONFIG_BYTES = 1 << 20
_PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl"})
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.-]{1,40}")
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
        *,
        is_interleaved: bool = False,
        rewrites: Mapping[str, Rewrite] | None = None,
        family: str = "",
        generation: GenerationConfig | None = None,
    ) -> None:
        """`is_interleaved`: queries and keys are stored in interleaved rotary order. `rewrites`
        bring other weights that are not stored as the models take them into that form, by name.
        `family`: what the file calls the kind of model it is."""
        self.path = path
        self.config = config
        self.tokenizer = tokenizer
        self.family = family or config.architecture
        self.generation = generation or GenerationConfig()
        self._tensors = tensors
        self._is_interleaved = is_interleaved
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
    def weight_type(self) -> str | None:
        """The type that most of the weights have, None when it was opened without."""
        sizes: Counter[str] = Counter()
        for tensor in self._tensors.values():
            sizes[tensor.dtype] += math.prod(tensor.shape)
        return sizes.most_common(1)[0][0] if sizes else None

    @property
    def format(self) -> str:
        """The format of the weights' file, in people's words."""
        return "safetensors" if self.path.is_dir() else "GGUF"

    @property
    def tensor_names(self) -> list[str]:
        """The weights' names, in the order of the forward pass; empty when opened without."""
        return [name for name in tensor_shapes(self.config) if name in self._tensors]

    def tensor(self, name: str) -> TensorData:
        """One weight, its numbers unconverted. CheckpointError when there is none of that name."""
        tensor = self._tensors.get(name)
        if tensor is None:
            raise CheckpointError(f"{self.path}: there is no weight {name}")
        if name in self._rewrites:
            return self._rewrites[name](tensor)
        num_heads = self._num_rotary_heads(name)
        if num_heads is None:
            return tensor
        if self._is_interleaved:
            tensor = to_half_rotated(tensor, num_heads)
        rotary_dim = self.config.rotary_dim
        return tensor if rotary_dim is None else to_wide_rotary(tensor, num_heads, rotary_dim)

    def close_files(self) -> None:
        """Let go of the weights, and so of the mapped files: each is an open one until then."""
        self._tensors = {}

    def _num_rotary_heads(self, name: str) -> int | None:
        """How many heads a projection has whose rows turn; None for other weights."""
        if name.endswith(".q_proj.weight"):
            return self.config.num_heads
        return self.config.num_kv_heads if name.endswith(".k_proj.weight") else None


def open_checkpoint(path: Path, *, require_weights: bool = True) -> Checkpoint:
    """Open a `.gguf` file or a Hugging Face folder, and check that everything in it fits.

    CheckpointError, in one line, when it cannot be read, is damaged or is not supported. Without
    `require_weights` a folder may hold a config alone (for `--load-format dummy`).
    """
    if path.is_dir():
        if (path / _CONFIG_FILE).exists():
            return _open_huggingface(path, require_weights)
        gguf_files = sorted(path.glob("*.gguf"))
        if path_of_first := first_part(gguf_files):
            return _open_gguf(path_of_first)
        found = f"{len(gguf_files)} .gguf files; name one of them" if gguf_files else "neither"
        raise CheckpointError(f"{path}: needs a {_CONFIG_FILE} or one .gguf file, has {found}")
    if path.suffix.lower() in _PICKLE_SUFFIXES:
        raise CheckpointError(f"{path}: {_PICKLE_REFUSED}")
    return _open_gguf(path)


def _open_gguf(path: Path) -> Checkpoint:
    file = read_gguf_parts(path)
    architecture = gguf_architecture(file.metadata)
    config = gguf_config(file.metadata, architecture, file.tensors)
    tokenizer = gguf_tokenizer(file.metadata, config.vocab_size)
    tensors = {
        huggingface_name(name, architecture.gguf_name): tensor
        for name, tensor in file.tensors.items()
        if name not in ROPE_TENSORS  # they have become a part of the config
    }
    if architecture.is_fused:
        tensors = split_fused(tensors, config, str(path))
    check_tensors(config, tensors, str(path))
    return Checkpoint(
        path,
        config,
        tokenizer,
        tensors,
        is_interleaved=architecture.has_interleaved_rotary,
        family=architecture.gguf_name,
        generation=gguf_generation(file.metadata),
    )


def _open_huggingface(folder: Path, require_weights: bool) -> Checkpoint:
    fields = read_json_object(folder / _CONFIG_FILE, _MAX_CONFIG_BYTES)
    config = huggingface_config(fields)
    tokenizer = huggingface_tokenizer(folder, fields, config.vocab_size)
    tokenizer = with_bpe_files(tokenizer, folder, fields, config.vocab_size)
    generation = huggingface_generation(folder, config.vocab_size)
    family = _family(fields)
    if not (folder / SINGLE_FILE).exists() and not (folder / INDEX_FILE).exists():
        if require_weights:
            raise _no_weights(folder)
        return Checkpoint(folder, config, tokenizer, {}, family=family, generation=generation)
    tensors = read_safetensors_folder(folder)
    if LM_HEAD not in tensors and "tie_word_embeddings" not in fields:
        config = replace(config, tie_word_embeddings=True)
    tensors = {name: tensors[name] for name in tensors if not _is_ignored(name, config)}
    if config.architecture == "gpt2":
        tensors = gpt2.from_huggingface(tensors, str(folder))
        check_tensors(config, tensors, str(folder), gpt2.is_transposed)
        transposed = {name: to_transposed for name in tensors if gpt2.is_transposed(name)}
        return Checkpoint(
            folder,
            config,
            tokenizer,
            tensors,
            rewrites=transposed,
            family=family,
            generation=generation,
        )
    tensors = split_fused(tensors, config, str(folder))
    check_tensors(config, tensors, str(folder))
    is_gemma = config.architecture == "gemma"
    norms = {name: gemma.plus_one for name in tensors if is_gemma and gemma.is_norm(name)}
    return Checkpoint(
        folder,
        config,
        tokenizer,
        tensors,
        rewrites=norms,
        family=family,
        generation=generation,
    )


def _family(config: Fields) -> str:
    """`model_type`, by which Hugging Face calls a family; "" where it is no plain word."""
    name = config.text("model_type", "")
    return name if _PLAIN_NAME.fullmatch(name) else ""


def _is_ignored(name: str, config: ModelConfig) -> bool:
    """A head that the config says is tied, and the rotary tables that old exports contain."""
    is_tied_head = name == LM_HEAD and config.tie_word_embeddings
    return is_tied_head or name.endswith(".rotary_emb.inv_freq")


def _no_weights(folder: Path) -> CheckpointError:
    if any(child.suffix in _PICKLE_SUFFIXES for child in folder.iterdir()):
        return CheckpointError(f"{folder}: {_PICKLE_REFUSED}")
    return CheckpointError(f"{folder}: has no weights, neither {SINGLE_FILE} nor {INDEX_FILE}")
