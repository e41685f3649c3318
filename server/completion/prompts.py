"""From the prompts of a request to token ids that fit the model, without blocking the event loop.

Refuses what cannot fit before it is tokenized: tokenizers take long over megabytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from server.tenants import Tenant
from server.text_workers import TextWorkers
from server.tokenizer import Tokenizer
from server.tokenizer.fill_in_middle import FillInMiddle
from server.wire.errors import ApiError, bad_request
from server.wire.fields import Prompt
from server.wire.limits import MAX_BODY_BYTES, TOKENIZE_INLINE_CHARACTERS
from server.wire.parameter_names import unsupported
from server.wire.schemas import CompletionRequest
from server.wire.validation import out_of_bounds


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """`text` is what an echo shows: the prompt as it was sent, or what was left of it."""

    token_ids: list[int]
    text: str


async def encode_prompts(
    body: CompletionRequest,
    tokenizer: Tokenizer,
    workers: TextWorkers,
    tenant: Tenant,
    *,
    vocab_size: int,
    max_len: int,
) -> list[EncodedPrompt]:
    """Each prompt, none empty, each with room for `max_tokens` more in `max_len`.

    Raises ApiError 400: an id outside the vocabulary, more than the model can hold, a suffix where
    the model has no tokens to mark one. And 503 when too many long ones are being tokenized.
    """
    encoder = _PromptEncoder(body, tokenizer, vocab_size, max_len)
    if encoder.size > TOKENIZE_INLINE_CHARACTERS:
        return await workers.run(tenant, encoder.encode_all)
    return encoder.encode_all()


class _PromptEncoder:
    """Encodes the prompts of one request. Raises what `encode_prompts` raises."""

    def __init__(
        self, body: CompletionRequest, tokenizer: Tokenizer, vocab_size: int, max_len: int
    ) -> None:
        self._body = body
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._max_len = max_len
        self._markers = _markers(tokenizer) if body.suffix else None
        self._suffix_ids: list[int] = []
        sizes = [len(prompt.encode()) for prompt in body.prompt if isinstance(prompt, str)]
        suffix_size = len(body.suffix.encode())
        self.size = sum(sizes) + suffix_size * len(body.prompt)
        if self.size > MAX_BODY_BYTES:
            raise bad_request(
                "suffix",
                "string_above_max_length",
                f"Invalid 'suffix': it counts once for each of the {len(body.prompt)} prompts, and "
                f"all together may have {MAX_BODY_BYTES} bytes.",
            )
        longest = max(sizes, default=0) + suffix_size
        if body.truncate_prompt_tokens is None and longest > max_len * tokenizer.max_token_bytes:
            least = -(-longest // tokenizer.max_token_bytes)
            raise self._too_long(f"at least {least}")

    def encode_all(self) -> list[EncodedPrompt]:
        prompts = self._body.prompt
        if self._markers is not None:
            self._suffix_ids = self._tokenizer.encode(self._body.suffix, False)
        return [
            self._encode("prompt" if len(prompts) == 1 else f"prompt[{position}]", prompt)
            for position, prompt in enumerate(prompts)
        ]

    def _encode(self, param: str, prompt: Prompt) -> EncodedPrompt:
        body, tokenizer = self._body, self._tokenizer
        if not isinstance(prompt, str):
            check_token_ids(param, prompt, self._vocab_size)
        if self._markers is not None:
            token_ids = self._fill(self._markers, prompt)
        elif isinstance(prompt, str):
            token_ids = tokenizer.encode(prompt, body.add_special_tokens)
        else:
            token_ids = prompt
        if not token_ids:
            raise bad_request(
                "prompt",
                "invalid_value",
                f"Invalid '{param}': it has no tokens, and this model has no token that starts a "
                "document.",
            )
        kept = self._truncate(token_ids)
        if (highest := max(kept)) >= self._vocab_size:
            raise bad_request(
                param,
                "invalid_value",
                f"Invalid '{param}': it contains the token {highest}, which the tokenizer has and "
                f"the model has not: its last one is {self._vocab_size - 1}.",
            )
        if len(kept) + body.max_tokens > self._max_len:
            raise self._too_long(str(len(kept)))
        text = ""
        if body.echo:
            is_whole = isinstance(prompt, str) and len(kept) == len(token_ids)
            text = str(prompt) if is_whole else tokenizer.decode(kept, body.skip_special_tokens)
        return EncodedPrompt(kept, text)

    def _fill(self, markers: FillInMiddle, prompt: Prompt) -> list[int]:
        """The prompt whose continuation belongs between `prompt` and the suffix."""
        tokenizer = self._tokenizer
        before = tokenizer.encode(prompt, False) if isinstance(prompt, str) else prompt
        token_ids = markers.join(before, self._suffix_ids)
        return tokenizer.begin_document(token_ids) if self._body.add_special_tokens else token_ids

    def _truncate(self, token_ids: list[int]) -> list[int]:
        limit = self._body.truncate_prompt_tokens
        if limit is None:
            return token_ids
        if limit == -1:  # as much as fits
            limit = max(self._max_len - self._body.max_tokens, 1)
        return token_ids[-limit:] if self._body.truncation_side == "left" else token_ids[:limit]

    def _too_long(self, num_prompt_tokens: str) -> ApiError:
        return bad_request(
            "prompt",
            "context_length_exceeded",
            f"This model's maximum context length is {self._max_len} tokens, however you requested "
            f"{num_prompt_tokens} tokens in your prompt and {self._body.max_tokens} tokens for the "
            "completion. Please reduce the length of the prompt or 'max_tokens'.",
        )


def _markers(tokenizer: Tokenizer) -> FillInMiddle:
    if tokenizer.fill_in_middle is None:
        raise unsupported("suffix", "this model's vocabulary has no tokens to mark a gap with")
    return tokenizer.fill_in_middle


def check_token_ids(param: str, token_ids: list[int], vocab_size: int) -> None:
    """Raises ApiError 400 that names the position of an id outside the vocabulary."""
    lowest, highest = min(token_ids), max(token_ids)
    if lowest < 0:
        raise out_of_bounds(f"{param}[{token_ids.index(lowest)}]", ">=", 0, lowest)
    if highest >= vocab_size:
        position = token_ids.index(highest)
        raise out_of_bounds(f"{param}[{position}]", "<=", vocab_size - 1, highest)
