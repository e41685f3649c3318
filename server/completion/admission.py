"""From a checked request body to requests for the engine: everything that may still be refused.

Answers belong to `routes.py`. A refusal here is an HTTP status, because nothing was sent yet.
"""

from __future__ import annotations

import secrets

from engine import Request, SamplingParams
from server.completion.completion import Completion
from server.completion.prompts import encode_prompts
from server.services import Services
from server.tokenizer import Tokenizer
from server.wire.errors import ApiError, bad_request, model_loading
from server.wire.fields import unknown_tokens
from server.wire.limits import MAX_ECHOED_NAME, MAX_MODEL_NAME, MAX_SEQUENCES
from server.wire.schemas import CompletionRequest
from server.wire.validation import out_of_bounds


async def build_completion(
    completion_id: str, body: CompletionRequest, services: Services
) -> Completion:
    """The completion that answers `body`, not started yet. Raises ApiError."""
    check_model(body.model, services)
    if not services.engine.is_ready:
        raise model_loading()
    num_sequences = len(body.prompt) * body.n
    if num_sequences > MAX_SEQUENCES:
        raise bad_request(
            "n",
            "invalid_value",
            f"Invalid 'n': {len(body.prompt)} prompts with {body.n} choices each are "
            f"{num_sequences} completions; one request may ask for {MAX_SEQUENCES}.",
        )
    info = services.engine.info
    tokenizer = services.tokenizer
    sampling = _sampling_params(body, tokenizer, info.vocab_size)
    prompts = await encode_prompts(
        body.prompt,
        tokenizer,
        vocab_size=info.vocab_size,
        max_len=min(info.max_model_len, info.num_blocks * info.block_size),
        max_tokens=body.max_tokens,
    )
    echo = None
    if body.echo:
        echo = [
            prompt if isinstance(prompt, str) else tokenizer.decode(prompt)
            for prompt in body.prompt
        ]
    requests = [
        Request(f"{completion_id}-{position}", token_ids, sampling, body.n)
        for position, token_ids in enumerate(prompts)
    ]
    return Completion(services.engine, tokenizer, requests, stop=body.stop, echo=echo)


def check_model(name: str, services: Services) -> None:
    """Raises ApiError 404 for a model that is not served."""
    is_alias = services.settings.model_alias_any and 0 < len(name) <= MAX_MODEL_NAME
    if name not in services.model_names and not is_alias:
        raise ApiError(
            404,
            f"The model '{name[:MAX_ECHOED_NAME]}' does not exist here. "
            f"This server has '{services.model_names[0]}'.",
            code="model_not_found",
        )


def _sampling_params(
    body: CompletionRequest, tokenizer: Tokenizer, vocab_size: int
) -> SamplingParams:
    strange = [str(token_id) for token_id in body.logit_bias if token_id >= vocab_size]
    if strange:
        raise unknown_tokens(strange)
    for position, token_id in enumerate(body.stop_token_ids):
        if token_id >= vocab_size:
            raise out_of_bounds(f"stop_token_ids[{position}]", "<=", vocab_size - 1, token_id)
    eos_token_ids = () if body.ignore_eos else tokenizer.eos_token_ids
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
        stop_token_ids=tuple(dict.fromkeys((*body.stop_token_ids, *eos_token_ids))),
        logprobs=body.logprobs,
        prompt_logprobs=body.logprobs if body.echo else None,
    )
