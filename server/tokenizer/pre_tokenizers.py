"""How byte-level BPE vocabularies cut a text into words, by the name GGUF gives it.

`tokenizer.ggml.pre` is only a name; the patterns are facts of the models' original tokenizers, as
collected in llama.cpp (src/llama-vocab.cpp, `llm_tokenizer_bpe`), each list of successive splits
written as one pattern.
"""

from __future__ import annotations

from types import MappingProxyType

_GPT_2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

# Digits one by one, then as GPT-2: a space goes with the word after it, but never with a digit.
_DIGITS_THEN_GPT_2 = (
    r"\p{N}|'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"
)

_LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_QWEN_2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

PATTERNS = MappingProxyType(
    {
        **dict.fromkeys(("gpt-2", "mpt", "olmo", "phi-2"), _GPT_2),
        **dict.fromkeys(
            ("smollm", "starcoder", "refact", "command-r", "codeshell"), _DIGITS_THEN_GPT_2
        ),
        **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "smaug-bpe", "dbrx"), _LLAMA_3),
        **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "stablelm2"), _QWEN_2),
        "tekken": _TEKKEN,
    }
)
"""Pattern by name, in the syntax of Rust's `fancy-regex`."""
