"""From the prompts of a request to token ids that fit the model, without blocking the event loop.

Refuses what cannot fit before it is tokenized: tokenizers take long over megabytes.
"""

from __future__ import annotations

import asyncio

from server.tokenizer import Tokenizer
from server.wire.errors import ApiError, bad_request
from server.wire.fields import Prompt
from server.wire.limits import TOKENIZE_INLINE_CHARACTERS
from server.wire.validation import out_of_bounds


async def encode_prompts(
    prompts: list[Prompt], tokenizer: Tokenizer, *, vocab_size: int, max_len: int, max_tokens: int
) -> list[list[int]]:
    """Token ids of each prompt, none empty, each with room for `max_tokens` more in `max_len`.

    Raises ApiError 400: an id outside the vocabulary, or more than the model can hold.
    """
    size = 0
    for prompt in prompts:
        if isinstance(prompt, str):
            num_bytes = len(prompt.encode())
            if num_bytes > max_len * tokenizer.max_token_bytes:
                least = -(-num_bytes // tokenizer.max_token_bytes)
                raise _too_long(f"at least {least}", max_len, max_tokens)
            size += num_bytes
    if size > TOKENIZE_INLINE_CHARACTERS:
        encoded = await asyncio.to_thread(_encode, prompts, tokenizer)
    else:
        encoded = _encode(prompts, tokenizer)
    for position, (prompt, token_ids) in enumerate(zip(prompts, encoded, strict=True)):
        param = "prompt" if len(prompts) == 1 else f"prompt[{position}]"
        if not token_ids:
            raise bad_request(
                "prompt",
                "invalid_value",
                f"Invalid '{param}': it has no tokens, and this model has no token that starts a "
                "document.",
            )
        if not isinstance(prompt, str):
            check_token_ids(param, token_ids, vocab_size)
        if len(token_ids) + max_tokens > max_len:
            raise _too_long(str(len(token_ids)), max_len, max_tokens)
    return encoded


def _encode(prompts: list[Prompt], tokenizer: Tokenizer) -> list[list[int]]:
    return [tokenizer.encode(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]


def check_token_ids(param: str, token_ids: list[int], vocab_size: int) -> None:
    """Raises ApiError 400 that names the position of an id outside the vocabulary."""
    lowest, highest = min(token_ids), max(token_ids)
    if lowest < 0:
        raise out_of_bounds(f"{param}[{token_ids.index(lowest)}]", ">=", 0, lowest)
    if highest >= vocab_size:
        position = token_ids.index(highest)
        raise out_of_bounds(f"{param}[{position}]", "<=", vocab_size - 1, highest)


def _too_long(num_prompt_tokens: str, max_len: int, max_tokens: int) -> ApiError:
    return bad_request(
        "prompt",
        "context_length_exceeded",
        f"This model's maximum context length is {max_len} tokens, however you requested "
        f"{num_prompt_tokens} tokens in your prompt and {max_tokens} tokens for the completion. "
        "Please reduce the length of the prompt or 'max_tokens'.",
    )
