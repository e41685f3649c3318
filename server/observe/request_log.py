"""One line in the log for each completion: finished, refused, failed or abandoned.

And for each request that was turned away before anybody could tell what it asked for.
"""

from __future__ import annotations

import logging

from server.observe.record import RequestRecord

logger = logging.getLogger("octavo.request")

MAX_LOGGED_PROMPTS = 8
MAX_LOGGED_CHARACTERS = 2000  # of a prompt


class RequestLog:
    """The fields of a line are the same for all; null is what does not apply."""

    def ended(self, record: RequestRecord) -> None:
        is_reported = record.is_completion or record.is_turned_away
        if is_reported and logger.isEnabledFor(logging.INFO):
            event = f"request_{record.outcome}"
            logger.info(_Summary(record), extra={"event": event, "fields": _fields(record)})


def _fields(record: RequestRecord) -> dict[str, object]:
    completion = record.completion
    fields: dict[str, object] = {
        "request_id": record.request_id,
        "trace_id": record.trace_id,
        "key_name": record.key_name,
        "client": record.client,
        "route": record.route,
        "status": record.status,
        "error_type": record.error_type,
        "error_code": record.error_code,
        "stream": record.stream,
        "completion_id": completion and completion.completion_id,
        "model": completion and completion.model,
        "prompts": completion and completion.num_prompts,
        "n": completion and completion.n,
        "max_tokens": completion and completion.parameters.get("max_tokens"),
        "prompt_tokens": completion and completion.num_prompt_tokens,
        "completion_tokens": completion and completion.num_generated_tokens,
        "cached_tokens": completion and completion.num_cached_tokens,
        "finish_reason": completion and completion.finish_reason,
        "queue_ms": _milliseconds(record.queue_seconds),
        "ttft_ms": _milliseconds(record.first_token_seconds),
        "itl_ms": _milliseconds(None if completion is None else completion.mean_gap),
        "e2e_ms": _milliseconds(record.seconds),
    }
    if completion is not None and completion.prompts is not None:
        shown = completion.prompts[:MAX_LOGGED_PROMPTS]
        fields["prompt"] = [prompt[:MAX_LOGGED_CHARACTERS] for prompt in shown]
    return fields


class _Summary:
    """The line for people; only made where there are people, for it is half of the cost."""

    def __init__(self, record: RequestRecord) -> None:
        self._record = record

    def __str__(self) -> str:
        return _summary(self._record)


def _summary(record: RequestRecord) -> str:
    words = [f"{record.request_id} {record.status} in {record.seconds:.2f} s"]
    completion = record.completion
    if completion is not None and completion.finish_reasons:
        words.append(
            f"{completion.num_prompt_tokens} + {completion.num_generated_tokens} tokens "
            f"({completion.num_cached_tokens} cached), {completion.finish_reason}"
        )
    for name, seconds in (
        ("queue", record.queue_seconds),
        ("first token", record.first_token_seconds),
        ("between tokens", None if completion is None else completion.mean_gap),
    ):
        if seconds is not None:
            words.append(f"{name} {seconds * 1e3:.0f} ms")
    if record.error_type is not None:
        words.append(record.error_code or record.error_type)
    if completion is not None and completion.prompts is not None:
        shown = completion.prompts[:MAX_LOGGED_PROMPTS]
        words += [repr(prompt[:MAX_LOGGED_CHARACTERS]) for prompt in shown]
    return ", ".join(words)


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 2)
