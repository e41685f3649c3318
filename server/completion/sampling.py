"""From a request's parameters to the engine's; checks what needs the model's vocabulary."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence

from engine import SamplingParams
from server.completion.prompts import check_token_ids
from server.tokenizer import Tokenizer
from server.wire.fields import unknown_tokens
from server.wire.schemas import CompletionRequest


def sampling_params(
    body: CompletionRequest, tokenizer: Tokenizer, vocab_size: int
) -> SamplingParams:
    """Raises ApiError 400 for tokens that the model does not have."""
    strange = [str(token_id) for token_id in body.logit_bias if token_id >= vocab_size]
    if strange:
        raise unknown_tokens(strange)
    for param in ("stop_token_ids", "allowed_token_ids"):
        token_ids = getattr(body, param)
        if token_ids:
            check_token_ids(param, token_ids, vocab_size)
    return SamplingParams(
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=max(body.top_k, 0),
        min_p=body.min_p,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        repetition_penalty=body.repetition_penalty,
        logit_bias=body.logit_bias,
        seed=secrets.randbits(63) if body.seed is None else body.seed,
        max_tokens=body.max_tokens,
        min_tokens=body.min_tokens,
        stop_token_ids=_stop_token_ids(body, tokenizer),
        logprobs=_num_logprobs(body),
        prompt_logprobs=_num_prompt_logprobs(body),
        allowed_token_ids=_distinct(body.allowed_token_ids),
        bad_words=tuple(dict.fromkeys(_encode_words(body.bad_words, tokenizer))),
    )


def _stop_token_ids(body: CompletionRequest, tokenizer: Tokenizer) -> tuple[int, ...]:
    token_ids = list(body.stop_token_ids)
    if not body.ignore_eos:
        token_ids += tokenizer.eos_token_ids
        if body.suffix and tokenizer.fill_in_middle is not None:
            token_ids += tokenizer.fill_in_middle.stop_token_ids
    return tuple(dict.fromkeys(token_ids))


def _num_logprobs(body: CompletionRequest) -> int | None:
    if body.logprobs is None and body.num_generated > body.n:
        return 0  # the best of several is chosen by them
    return body.logprobs


def _num_prompt_logprobs(body: CompletionRequest) -> int | None:
    """Of the prompt, as many as either parameter asks for."""
    wanted = [body.prompt_logprobs, body.logprobs if body.echo else None]
    return max((number for number in wanted if number is not None), default=None)


def _distinct(token_ids: Sequence[int] | None) -> tuple[int, ...] | None:
    return None if token_ids is None else tuple(dict.fromkeys(token_ids))


def _encode_words(words: Sequence[str], tokenizer: Tokenizer) -> Iterator[tuple[int, ...]]:
    """Each word as it is written at the start of a text, and as it is written after another."""
    for word in words:
        for text in (word, f" {word.lstrip()}"):
            token_ids = tokenizer.encode(text, add_special_tokens=False)
            if token_ids:
                yield tuple(token_ids)
