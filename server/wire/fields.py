"""The request fields that may take several shapes, checked by hand from parsed JSON.

A generic union of types would try every shape on every item (seconds for a long prompt) and report
each failure. These raise BadRequest for the first, and pydantic goes on to the next field. No
vocabulary here.
"""

from __future__ import annotations

from typing import Any, Literal

from server.wire.errors import bad_request
from server.wire.limits import (
    MAX_BAD_WORD_LENGTH,
    MAX_BAD_WORDS,
    MAX_CACHE_SALT_LENGTH,
    MAX_ECHOED_NAME,
    MAX_LOGIT_BIAS,
    MAX_PROMPTS,
    MAX_STOP_LENGTH,
    MAX_STOP_STRINGS,
)
from server.wire.validation import (
    empty_array,
    empty_string,
    out_of_bounds,
    too_long,
    too_many,
    too_many_properties,
    wrong_type,
)

Prompt = str | list[int]

_PROMPT_SHAPES = "a string, an array of strings, an array of token ids or an array of such arrays"


def parse_prompts(value: Any) -> list[Prompt]:
    """One or many prompts as a list of many. `null` is the start of a document, like ""."""
    if value is None:
        return [""]
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise wrong_type("prompt", _PROMPT_SHAPES, value)
    if not value:
        raise empty_array("prompt")
    if type(value[0]) is int:
        return [_token_ids("prompt", value)]
    if len(value) > MAX_PROMPTS:
        raise too_many("prompt", MAX_PROMPTS, len(value))
    if isinstance(value[0], str):
        for position, item in enumerate(value):
            if not isinstance(item, str):
                raise wrong_type(f"prompt[{position}]", "a string", item)
        return value
    if isinstance(value[0], list):
        for position, item in enumerate(value):
            if not isinstance(item, list):
                raise wrong_type(f"prompt[{position}]", "an array of token ids", item)
            if not item:
                raise empty_array("prompt")
            _token_ids(f"prompt[{position}]", item)
        return value
    raise wrong_type("prompt", _PROMPT_SHAPES, value[0])


def parse_token_ids(param: str, value: Any) -> list[int]:
    """An array of integers, which may be empty; whether they are tokens is not known here."""
    if not isinstance(value, list):
        raise wrong_type(param, "an array of token ids", value)
    return _token_ids(param, value) if value else []


def _token_ids(param: str, value: list[Any]) -> list[int]:
    if {type(item) for item in value} != {int}:
        position = next(i for i, item in enumerate(value) if type(item) is not int)
        raise wrong_type(f"{param}[{position}]", "a token id (an integer)", value[position])
    return value


def parse_stop(value: Any) -> list[str]:
    """One or many stop strings as a list; `null` and [] are none."""
    if value is None:
        return []
    if isinstance(value, str):
        return [_check_string("stop", value, MAX_STOP_LENGTH)]
    if not isinstance(value, list):
        raise wrong_type("stop", "a string or an array of strings", value)
    if len(value) > MAX_STOP_STRINGS:
        raise too_many("stop", MAX_STOP_STRINGS, len(value))
    for position, item in enumerate(value):
        _check_string(f"stop[{position}]", item, MAX_STOP_LENGTH)
    return value


def _check_string(param: str, value: Any, max_length: int) -> str:
    if not isinstance(value, str):
        raise wrong_type(param, "a string", value)
    if not value:
        raise empty_string(param)
    if len(value) > max_length:
        raise too_long(param, max_length, len(value))
    return value


def parse_bad_words(value: Any) -> list[str]:
    """Words that must not come up; `null` and [] are none."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise wrong_type("bad_words", "an array of strings", value)
    if len(value) > MAX_BAD_WORDS:
        raise too_many("bad_words", MAX_BAD_WORDS, len(value))
    for position, word in enumerate(value):
        _check_string(f"bad_words[{position}]", word, MAX_BAD_WORD_LENGTH)
    return value


def parse_allowed_token_ids(value: Any) -> list[int] | None:
    """The only tokens that may come up; `null` allows all, [] is refused."""
    if value is None:
        return None
    if not isinstance(value, list):
        raise wrong_type("allowed_token_ids", "an array of token ids", value)
    if not value:
        raise empty_array("allowed_token_ids")
    return _token_ids("allowed_token_ids", value)


def parse_cache_salt(value: Any) -> str:
    """What separates prefix caches; `null` is none. Raises for characters of paths and keys."""
    if value is None:
        return ""
    salt = _check_string("cache_salt", value, MAX_CACHE_SALT_LENGTH)
    if any(char in "@/\\\0" for char in salt):
        raise bad_request(
            "cache_salt",
            "invalid_value",
            "Invalid 'cache_salt': it must not contain '@', '/', a backslash or NUL.",
        )
    return salt


def parse_early_stopping(value: Any) -> bool | Literal["never"]:
    """When a beam search ends; `null` is false."""
    if value is None:
        return False
    if isinstance(value, bool):
        return value
    if value == "never":
        return "never"
    if isinstance(value, str):
        raise bad_request(
            "early_stopping",
            "invalid_value",
            "Invalid 'early_stopping': expected true, false or \"never\".",
        )
    raise wrong_type("early_stopping", 'a boolean or "never"', value)


def parse_logit_bias(value: Any) -> dict[int, float]:
    """{"50256": -100} with the ids as numbers; whether they are tokens is not known here."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise wrong_type("logit_bias", "an object", value)
    if len(value) > MAX_LOGIT_BIAS:
        raise too_many_properties("logit_bias", MAX_LOGIT_BIAS, len(value))
    strange = [key for key in value if not (key.isascii() and key.isdecimal() and len(key) < 10)]
    if strange:
        raise unknown_tokens(strange)
    for key, bias in value.items():
        if type(bias) not in (int, float):
            raise wrong_type(f"logit_bias.{key}", "a number", bias)
        if not bias >= -100.0:
            raise out_of_bounds(f"logit_bias.{key}", ">=", -100.0, bias)
        if not bias <= 100.0:
            raise out_of_bounds(f"logit_bias.{key}", "<=", 100.0, bias)
    return {int(key): float(bias) for key, bias in value.items()}


def unknown_tokens(keys: list[str]) -> Exception:
    """For keys of `logit_bias` that are no token ids of the model; names a few of them."""
    named = ", ".join(repr(key[:MAX_ECHOED_NAME]) for key in keys[:5])
    return bad_request(
        "logit_bias",
        "invalid_value",
        f"Invalid 'logit_bias': its keys must be token ids of the model, written as strings; "
        f"these are not: {named}.",
    )
