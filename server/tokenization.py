"""Text to token ids and back as an answer of its own, without a completion and without the engine.

Long inputs are worked on in a thread, the writing of JSON included, so that streams go on.
"""

from __future__ import annotations

from functools import partial

import msgspec

from server.completion.prompts import check_token_ids
from server.tenants import Tenant
from server.text_workers import TextWorkers
from server.tokenizer import Tokenizer
from server.wire.limits import TOKENIZE_INLINE_CHARACTERS
from server.wire.tokenization import DetokenizeRequest, TokenizeRequest


async def tokenize(
    body: TokenizeRequest,
    tokenizer: Tokenizer,
    max_model_len: int,
    workers: TextWorkers,
    tenant: Tenant,
) -> bytes:
    """A TokenizeResponse as JSON. The prompt may be longer than the model's context.

    Raises ApiError 503 when too many long ones are being worked on.
    """
    if len(body.prompt) > TOKENIZE_INLINE_CHARACTERS:
        return await workers.run(tenant, partial(_tokenize, body, tokenizer, max_model_len))
    return _tokenize(body, tokenizer, max_model_len)


async def detokenize(
    body: DetokenizeRequest,
    tokenizer: Tokenizer,
    vocab_size: int,
    workers: TextWorkers,
    tenant: Tenant,
) -> bytes:
    """A DetokenizeResponse as JSON. Raises ApiError 400 for an id outside the vocabulary, and 503
    as `tokenize` does."""
    if len(body.tokens) > TOKENIZE_INLINE_CHARACTERS:
        return await workers.run(tenant, partial(_detokenize, body, tokenizer, vocab_size))
    return _detokenize(body, tokenizer, vocab_size)


def _tokenize(body: TokenizeRequest, tokenizer: Tokenizer, max_model_len: int) -> bytes:
    token_ids = tokenizer.encode(body.prompt, body.add_special_tokens)
    texts = [tokenizer.token_text(i) for i in token_ids] if body.return_token_strs else None
    return msgspec.json.encode(
        {
            "count": len(token_ids),
            "max_model_len": max_model_len,
            "tokens": token_ids,
            "token_strs": texts,
        }
    )


def _detokenize(body: DetokenizeRequest, tokenizer: Tokenizer, vocab_size: int) -> bytes:
    if body.tokens:
        check_token_ids("tokens", body.tokens, vocab_size)
    return msgspec.json.encode({"prompt": tokenizer.decode(body.tokens, skip_special_tokens=False)})
