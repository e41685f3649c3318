"""Rules of a completion request that involve several of its fields, and names it does not know.

What depends on the model or on the machine is checked at admission.
"""

from __future__ import annotations

from server.wire.errors import ApiError, bad_request
from server.wire.parameter_names import check_names
from server.wire.schemas import CompletionRequest

# What a beam search has no use for, with the values that ask for nothing. A beam search takes the
# model's own probabilities, which are those of temperature 1; 0 says that nothing is drawn.
_NEUTRAL_FOR_BEAMS: dict[str, tuple[object, ...]] = {
    "temperature": (0.0, 1.0),
    "top_p": (1.0,),
    "top_k": (0, -1),
    "min_p": (0.0,),
    "frequency_penalty": (0.0,),
    "presence_penalty": (0.0,),
    "repetition_penalty": (1.0,),
    "logit_bias": ({},),
    "allowed_token_ids": (None,),
    "bad_words": ([],),
    "stop": ([],),
}


def check_request(body: CompletionRequest, *, allow_unknown_params: bool) -> None:
    """Raises ApiError 400."""
    check_names(body.model_extra or {}, type(body).model_fields, allow_unknown_params)
    if body.best_of is not None and 1 < body.best_of < body.n:
        raise _invalid("best_of", f"{body.best_of} is less than 'n', which is {body.n}")
    if body.stream_options is not None and not body.stream:
        raise _invalid("stream_options", "it is only allowed when 'stream' is true")
    if body.stream and body.num_generated > body.n:
        raise _invalid(
            "best_of", "the best of several cannot be streamed; leave out 'stream' or 'best_of'"
        )
    if body.stream and body.prompt_logprobs is not None:
        raise _invalid("prompt_logprobs", "they cannot be streamed; use 'echo' with 'logprobs'")
    if body.min_tokens > body.max_tokens:
        raise _invalid(
            "min_tokens", f"{body.min_tokens} is more than 'max_tokens', which is {body.max_tokens}"
        )
    if body.truncate_prompt_tokens == 0:
        raise _invalid("truncate_prompt_tokens", "nothing would be left of the prompt")
    if body.suffix:
        _check_suffix(body)
    if body.use_beam_search:
        _check_beam_search(body)
    else:
        _check_no_beam_search(body)


def _check_suffix(body: CompletionRequest) -> None:
    """The prompt that the model gets is not the one that was sent."""
    if body.echo and body.logprobs is not None:
        raise _invalid("logprobs", "those of an echoed prompt cannot be had with 'suffix'")
    if body.truncate_prompt_tokens is not None:
        raise _invalid("truncate_prompt_tokens", "it cannot be combined with 'suffix'")


def _check_beam_search(body: CompletionRequest) -> None:
    if body.stream:
        raise _invalid("stream", "a beam search knows its text at the end only")
    if body.num_generated > body.n:
        raise _invalid("best_of", "with 'use_beam_search' the number of beams is 'n'")
    if body.max_tokens == 0:
        raise _invalid("max_tokens", "a beam search needs at least 1")
    for name, neutral in _NEUTRAL_FOR_BEAMS.items():
        if getattr(body, name) not in neutral:
            raise _invalid(name, "it cannot be combined with 'use_beam_search'")


def _check_no_beam_search(body: CompletionRequest) -> None:
    if body.length_penalty != 1.0:
        raise _invalid("length_penalty", "it needs 'use_beam_search'")
    if body.early_stopping is not False:
        raise _invalid("early_stopping", "it needs 'use_beam_search'")


def _invalid(param: str, why: str) -> ApiError:
    return bad_request(param, "invalid_value", f"Invalid '{param}': {why}.")
