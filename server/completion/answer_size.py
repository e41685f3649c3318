"""How large an answer may get, told before anything of it is computed.

A short request can ask for a long answer: a prompt is shown once for each choice, with as many
log-probabilities as are wanted. Text that the model writes is not counted: it takes its time.
"""

from __future__ import annotations

from collections.abc import Sequence

from server.completion.prompts import EncodedPrompt
from server.wire.errors import bad_request
from server.wire.limits import (
    BYTES_PER_LOGPROB,
    BYTES_PER_RANKED_TOKEN,
    BYTES_PER_TOKEN_ID,
    MAX_ANSWER_BYTES,
)
from server.wire.schemas import CompletionRequest


def check_answer_size(body: CompletionRequest, prompts: Sequence[EncodedPrompt]) -> None:
    """Raises ApiError 400 for more than is kept in memory for one request."""
    size = body.num_generated * sum(_choice_size(body, prompt) for prompt in prompts)
    if size > MAX_ANSWER_BYTES:
        raise bad_request(
            None,
            "answer_too_large",
            f"The answer to this request could have {size >> 20} MiB beside the completions: "
            "prompts ('echo'), token ids and log-probabilities, those of a prompt once for each "
            f"choice. It may have {MAX_ANSWER_BYTES >> 20} MiB. Ask for fewer choices, tokens or "
            "log-probabilities, or send several requests.",
        )


def _choice_size(body: CompletionRequest, prompt: EncodedPrompt) -> int:
    """Bytes of one choice; of a stream that is written as it is read only the beginning."""
    num_prompt_tokens = len(prompt.token_ids)
    num_new_tokens = 0 if body.stream else body.max_tokens
    size = len(prompt.text)
    if body.logprobs is not None:
        num_shown = num_new_tokens + (num_prompt_tokens if body.echo else 0)
        size += num_shown * (body.logprobs + 1) * BYTES_PER_LOGPROB
    if body.prompt_logprobs is not None:
        size += num_prompt_tokens * (body.prompt_logprobs + 1) * BYTES_PER_RANKED_TOKEN
    if body.return_token_ids:
        size += (num_prompt_tokens + num_new_tokens) * BYTES_PER_TOKEN_ID
    return size
