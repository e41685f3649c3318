"""Names of request parameters that the request model does not have: known elsewhere, or a typo."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from server.wire.errors import ApiError, bad_request
from server.wire.limits import MAX_ECHOED_NAME

# What clients know from other servers. Silence would let them believe that it works.
_KNOWN_ELSEWHERE = frozenset(
    {
        "add_special_tokens",
        "allowed_token_ids",
        "bad_words",
        "cache_salt",
        "grammar",
        "guided_choice",
        "guided_grammar",
        "guided_json",
        "guided_regex",
        "include_stop_str_in_output",
        "json_schema",
        "length_penalty",
        "lora_path",
        "priority",
        "prompt_embeds",
        "prompt_logprobs",
        "regex",
        "response_format",
        "return_token_ids",
        "return_tokens_as_token_ids",
        "skip_special_tokens",
        "spaces_between_special_tokens",
        "stop_regex",
        "structured_outputs",
        "suffix",
        "truncate_prompt_tokens",
        "truncation_side",
        "typical_p",
        "use_beam_search",
    }
)


def check_names(extra: Mapping[str, Any], known: Iterable[str], allow_unknown: bool) -> None:
    """Raises ApiError 400 for the first of the `extra` parameters that may not pass.

    Null and "" ask for nothing: parameters known elsewhere may have them.
    """
    for name, value in extra.items():
        if name in _KNOWN_ELSEWHERE:
            if value not in (None, ""):
                raise unsupported(name, "this server does not have it")
        elif not allow_unknown:
            raise _unknown(name, known)


def unsupported(name: str, why: str) -> ApiError:
    return bad_request(name, "unsupported_parameter", f"Unsupported parameter: '{name}' ({why}).")


def _unknown(name: str, known: Iterable[str]) -> ApiError:
    shown = name[:MAX_ECHOED_NAME]
    close = get_close_matches(shown, known, n=1)
    hint = f". Did you mean '{close[0]}'?" if close else ""
    return bad_request(
        None, "unknown_parameter", f"Unrecognized request argument supplied: {shown}{hint}"
    )
