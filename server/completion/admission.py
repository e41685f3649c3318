"""From a checked request body to requests for the engine: everything that may still be refused.

Answers belong to the routes. A refusal here is an HTTP status, because nothing was sent yet.
"""

from __future__ import annotations

from engine import BeamSearch, EngineInfo, Request, beam_search_blocks
from server.completion.answer_size import check_answer_size
from server.completion.choice import ChoiceFormat
from server.completion.completion import Completion
from server.completion.prompts import EncodedPrompt, encode_prompts
from server.completion.sampling import sampling_params
from server.observe.record import CompletionRecord
from server.request_queue import Ticket
from server.services import Services
from server.tenants import Tenant
from server.text import StopAutomaton
from server.tokenizer import Tokenizer
from server.wire.errors import ApiError, bad_request, model_loading
from server.wire.limits import MAX_ECHOED_NAME, MAX_MODEL_NAME, MAX_SEQUENCES
from server.wire.schemas import CompletionRequest


async def build_completion(
    completion_id: str,
    body: CompletionRequest,
    services: Services,
    tenant: Tenant,
    record: CompletionRecord,
) -> Completion:
    """The completion that answers `body`, not started yet. Raises ApiError."""
    check_model(body.model, services)
    if not services.engine.is_ready:
        raise model_loading()
    _check_num_sequences(body)
    _check_priority(body, tenant)
    ticket = services.queue.enter(tenant, _least_tokens(body, services.tokenizer))
    try:
        return await _build_admitted(completion_id, body, services, ticket, record)
    except BaseException:
        ticket.close()
        raise


async def _build_admitted(
    completion_id: str,
    body: CompletionRequest,
    services: Services,
    ticket: Ticket,
    record: CompletionRecord,
) -> Completion:
    info = services.engine.info
    tokenizer = services.tokenizer
    sampling = sampling_params(body, tokenizer, info.vocab_size)
    prompts = await encode_prompts(
        body,
        tokenizer,
        services.workers,
        ticket.tenant,
        vocab_size=info.vocab_size,
        max_len=min(info.max_model_len, info.num_blocks * info.block_size),
    )
    check_answer_size(body, prompts)
    ticket.settle(
        sum(len(prompt.token_ids) + body.num_generated * body.max_tokens for prompt in prompts)
    )
    beam_search = _beam_search(body, prompts, info)
    tenant = ticket.tenant
    cache_salt = _cache_salt(body, tenant, services.settings.share_prefix_cache)
    requests = [
        Request(
            f"{completion_id}-{position}",
            prompt.token_ids,
            sampling,
            body.num_generated,
            cache_salt,
            body.priority,
            beam_search,
            tenant.name,
        )
        for position, prompt in enumerate(prompts)
    ]
    completion = Completion(
        services.engine,
        tokenizer,
        requests,
        _choice_format(body),
        num_returned=body.n,
        echo=[prompt.text for prompt in prompts],
        ticket=ticket,
        record=record,
    )
    # FastAPI keeps the body until all is answered. Of these lists little may have been of use, and
    # the queue's limits are for what was.
    body.prompt, body.allowed_token_ids = [], None
    return completion


def _least_tokens(body: CompletionRequest, tokenizer: Tokenizer) -> int:
    """What the request may use at least, told without tokenizing anything."""
    num_tokens = len(body.prompt) * body.num_generated * body.max_tokens
    if body.truncate_prompt_tokens is None:
        for prompt in body.prompt:
            size = len(prompt)
            num_tokens += size // tokenizer.max_token_bytes if isinstance(prompt, str) else size
    return num_tokens


def _cache_salt(body: CompletionRequest, tenant: Tenant, is_shared: bool) -> str:
    """Without sharing, the prompts of one key's holder leave no trace that others could find."""
    if is_shared or not tenant.has_key:
        return body.cache_salt
    return f"{tenant.name}@{body.cache_salt}"  # no name and no client's salt has an "@" in it


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


def _check_priority(body: CompletionRequest, tenant: Tenant) -> None:
    """With keys nobody goes before the others: a queue of such requests would starve them."""
    if tenant.has_key and body.priority < 0:
        raise bad_request(
            "priority",
            "integer_below_min_value",
            f"Invalid 'priority': {body.priority} would go before the requests of other API keys. "
            "With API keys the least is 0, the default; what may wait has a larger one.",
        )


def _check_num_sequences(body: CompletionRequest) -> None:
    num_sequences = len(body.prompt) * body.num_generated
    if num_sequences > MAX_SEQUENCES:
        param = "n" if body.num_generated == body.n else "best_of"
        raise bad_request(
            param,
            "invalid_value",
            f"Invalid '{param}': {len(body.prompt)} prompts with {body.num_generated} choices each "
            f"are {num_sequences} completions; one request may ask for {MAX_SEQUENCES}.",
        )


def _beam_search(
    body: CompletionRequest, prompts: list[EncodedPrompt], info: EngineInfo
) -> BeamSearch | None:
    """Raises ApiError 400 for more beams than can run together."""
    if not body.use_beam_search:
        return None
    if body.n > info.max_num_seqs:
        raise bad_request(
            "n",
            "invalid_value",
            f"Invalid 'n': a beam search runs its beams together, and this server runs "
            f"{info.max_num_seqs} at a time.",
        )
    # Not that of the longest prompt: beams of a shorter one may have less to share.
    num_blocks, length = max(
        (beam_search_blocks(length, body.max_tokens, body.n, info.block_size), length)
        for length in {len(prompt.token_ids) for prompt in prompts}
    )
    if num_blocks > info.num_blocks:
        raise bad_request(
            "n",
            "invalid_value",
            f"Invalid 'n': {body.n} beams of {body.max_tokens} tokens after a prompt of {length} "
            f"may need {num_blocks} pages of the KV cache, which has {info.num_blocks}. Ask for "
            "fewer beams or tokens.",
        )
    return BeamSearch(body.length_penalty, body.early_stopping)


def _choice_format(body: CompletionRequest) -> ChoiceFormat:
    return ChoiceFormat(
        stop=StopAutomaton(body.stop) if body.stop else None,
        includes_stop=body.include_stop_str_in_output,
        min_tokens=body.min_tokens,
        skips_special_tokens=body.skip_special_tokens,
        logprobs=body.logprobs,
        echoed_logprobs=body.logprobs if body.echo else None,
        prompt_logprobs=body.prompt_logprobs,
        names_tokens_by_id=body.return_tokens_as_token_ids,
        returns_token_ids=body.return_token_ids,
    )
