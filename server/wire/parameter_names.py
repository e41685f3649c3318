"""Names of request parameters that the request model does not have: known elsewhere, or a typo."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from server.wire.errors import ApiError, bad_request
from server.wire.limits import MAX_ECHOED_NAME

# What clients know from other servers. Silence would let them believe that it works.
_NOT_HERE = """
    custom_logit_processor dry_allowed_length dry_base dry_multiplier dry_penalty_last_n
    dry_sequence_breakers dynatemp_exponent dynatemp_range ebnf extra_key functions grammar
    guided_choice guided_decoding_backend guided_grammar guided_json guided_regex
    guided_whitespace_pattern id_slot json_object json_schema kv_transfer_params
    logits_processors lora lora_path min_keep mirostat mirostat_eta mirostat_tau n_keep
    no_stop_trim post_sampling_probs prompt_embeds regex repeat_last_n repetition_detection
    response_fields response_format return_hidden_states return_progress return_tokens rid
    samplers session_id stop_regex stream_interval structured_outputs tfs_z timings_per_token
    tools top_a top_n_sigma typical_p xtc_probability xtc_threshold
"""
_CALLED_OTHERWISE_HERE = {
    "beam_width": "n",
    "logprob_token_ids": "logprobs",
    "max_completion_tokens": "max_tokens",
    "max_new_tokens": "max_tokens",
    "messages": "prompt",
    "min_new_tokens": "min_tokens",
    "n_predict": "max_tokens",
    "n_probs": "logprobs",
    "num_beams": "n",
    "repeat_penalty": "repetition_penalty",
    "stop_sequences": "stop",
    "top_logprobs": "logprobs",
}
_KNOWN_ELSEWHERE = {
    **dict.fromkeys(_NOT_HERE.split(), "this server does not have it"),
    **{name: f"here it is '{other}'" for name, other in _CALLED_OTHERWISE_HERE.items()},
}
_NEUTRAL = (None, "", {"type": "text"})  # the last one is for `response_format`


def check_names(extra: Mapping[str, Any], known: Iterable[str], allow_unknown: bool) -> None:
    """Raises ApiError 400 for the first of the `extra` parameters that may not pass.

    Null and "" ask for nothing: parameters known elsewhere may have them.
    """
    for name, value in extra.items():
        if name in _KNOWN_ELSEWHERE:
            if value not in _NEUTRAL:
                raise unsupported(name, _KNOWN_ELSEWHERE[name])
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
