"""What we expect of a config file and of the weights, against what `transformers` writes."""

import json
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

from engine.checkpoint import open_checkpoint, tensor_shapes

SIZES = {
    "vocab_size": 48,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
CONFIGS = {
    "llama": LlamaConfig(**SIZES, attention_bias=False),
    "llama tied": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "mistral": MistralConfig(**SIZES, sliding_window=None, head_dim=32),
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES, head_dim=32, tie_word_embeddings=True),
    "smollm3": SmolLM3Config(**SIZES, **TOKENS, tie_word_embeddings=True),
    "olmo2": Olmo2Config(**SIZES, **TOKENS),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_folder_saved_by_transformers_opens(tmp_path: Path, config: PreTrainedConfig) -> None:
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    expected = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    assert tensor_shapes(checkpoint.config) == expected
    assert {name: checkpoint.tensor(name).shape for name in checkpoint.tensor_names} == expected
    assert checkpoint.num_parameters == sum(weight.numel() for weight in model.parameters())
    assert checkpoint.config.rope_theta == config.rope_parameters["rope_theta"]
    assert checkpoint.config.norm_eps == config.rms_norm_eps
    assert checkpoint.config.max_model_len == 256
    for name, weight in model.named_parameters():
        data = checkpoint.tensor(name)
        assert data.dtype == "BF16"
        assert data.data.tobytes() == weight.detach().view(torch.uint8).numpy().tobytes()


def test_config_of_an_older_transformers_gives_the_same_model(tmp_path: Path) -> None:
    new, old = tmp_path / "new", tmp_path / "old"
    for folder in (new, old):
        AutoModelForCausalLM.from_config(CONFIGS["llama"]).save_pretrained(folder)
    values = json.loads((old / "config.json").read_text())
    del values["rope_parameters"]
    (old / "config.json").write_text(json.dumps(values | {"rope_theta": 10_000.0}))
    assert open_checkpoint(old).config == open_checkpoint(new).config
