"""Requests that are refused, each with the answer that it must get and nothing else."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any

from chaos.soak.answers import Json
from chaos.soak.calls import MODEL, Call
from chaos.soak.engine_process import LIMITS
from fake_runner import VOCAB_SIZE


@dataclass(frozen=True)
class Refusal:
    """`route` is what `/metrics` calls the place that refused. `closes`: the connection ends.
    `has_id`: the server knew the request's own id."""

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    route: str = "/v1/completions"
    method: str = "POST"
    closes: bool = False
    has_id: bool = True

    @property
    def error(self) -> Json:
        return {
            "message": self.message,
            "type": "invalid_request_error",
            "param": self.param,
            "code": self.code,
        }


def _below(param: str, limit: int, value: int) -> tuple[str, str, str]:
    return _bound(param, "integer_below_min_value", f">= {limit}", value)


def _above(param: str, limit: int, value: int) -> tuple[str, str, str]:
    return _bound(param, "integer_above_max_value", f"<= {limit}", value)


def _bound(param: str, code: str, expected: str, value: float) -> tuple[str, str, str]:
    kind, side, end, _ = code.split("_")
    return (
        param,
        code,
        (
            f"Invalid '{param}': {kind} {side} {end}imum value. Expected a value {expected}, "
            f"but got {value} instead."
        ),
    )


def _type(param: str, expected: str, got: str) -> tuple[str, str, str]:
    return (
        param,
        "invalid_type",
        (f"Invalid type for '{param}': expected {expected}, but got {got} instead."),
    )


def _value(param: str, why: str) -> tuple[str, str, str]:
    return param, "invalid_value", f"Invalid '{param}': {why}"


# What is changed in a good request, and param, code and message of the error.
_BODIES: list[tuple[Json, tuple[str | None, str, str]]] = [
    ({"max_tokens": -1}, _below("max_tokens", 0, -1)),
    ({"max_tokens": "many"}, _type("max_tokens", "an integer", "a string")),
    ({"seed": 1.5}, _type("seed", "an integer", "a decimal")),
    ({"temperature": 2.5}, _bound("temperature", "decimal_above_max_value", "<= 2", 2.5)),
    ({"n": 0}, _below("n", 1, 0)),
    ({"n": 129}, _above("n", 128, 129)),
    ({"logprobs": 21}, _above("logprobs", 20, 21)),
    ({"prompt": [1, "x"]}, _type("prompt[1]", "a token id (an integer)", "a string")),
    ({"prompt": [1, -1]}, _below("prompt[1]", 0, -1)),
    ({"prompt": [VOCAB_SIZE + 1]}, _above("prompt[0]", VOCAB_SIZE, VOCAB_SIZE + 1)),
    (
        {"prompt": []},
        (
            "prompt",
            "empty_array",
            "Invalid 'prompt': empty array. Expected an array with minimum length 1, but got an "
            "empty array instead.",
        ),
    ),
    (
        {"prompt": "x" * 90, "max_tokens": 16},
        (
            "prompt",
            "context_length_exceeded",
            f"This model's maximum context length is {LIMITS.max_model_len} tokens, however you "
            "requested 91 tokens in your prompt and 16 tokens for the completion. Please reduce "
            "the length of the prompt or 'max_tokens'.",
        ),
    ),
    (
        {"stop": ""},
        (
            "stop",
            "string_below_min_length",
            "Invalid 'stop': string too short. Expected a string with minimum length 1, but got an "
            "empty string instead.",
        ),
    ),
    (
        {"stop": ["x"] * 17},
        (
            "stop",
            "array_above_max_length",
            "Invalid 'stop': array too long. Expected an array with maximum length 16, but got an "
            "array with length 17 instead.",
        ),
    ),
    ({"best_of": 2, "n": 3}, _value("best_of", "2 is less than 'n', which is 3.")),
    (
        {"best_of": 3, "stream": True},
        _value(
            "best_of", "the best of several cannot be streamed; leave out 'stream' or 'best_of'."
        ),
    ),
    (
        {"stream_options": {"include_usage": True}},
        _value("stream_options", "it is only allowed when 'stream' is true."),
    ),
    (
        {"min_tokens": 5, "max_tokens": 4},
        _value("min_tokens", "5 is more than 'max_tokens', which is 4."),
    ),
    (
        {"use_beam_search": True, "n": 17},
        _value(
            "n",
            "a beam search runs its beams together, and this server runs "
            f"{LIMITS.max_num_seqs} at a time.",
        ),
    ),
    (
        {"prompt": ["x"] * 513, "n": 2},
        _value(
            "n",
            "513 prompts with 2 choices each are 1026 completions; one request may ask for 1024.",
        ),
    ),
    (
        {"cache_salt": "a@b"},
        _value("cache_salt", "it must not contain '@', '/', a backslash or NUL."),
    ),
    (
        {"logit_bias": {"500": 1}},
        _value(
            "logit_bias",
            "its keys must be token ids of the model, written as strings; these are not: '500'.",
        ),
    ),
    (
        {"suffix": "x"},
        (
            "suffix",
            "unsupported_parameter",
            "Unsupported parameter: 'suffix' (this model's vocabulary has no tokens to mark a gap "
            "with).",
        ),
    ),
    (
        {"temprature": 1},
        (
            None,
            "unknown_parameter",
            "Unrecognized request argument supplied: temprature. Did you mean 'temperature'?",
        ),
    ),
]


def random_refusal(rng: random.Random, request_id: str) -> tuple[bytes, Refusal]:
    """What is sent and what must come."""
    key = rng.choice(["key-a", "key-b"])
    if rng.random() < 0.6:
        changes, (param, code, message) = rng.choice(_BODIES)
        body = _good() | changes
        data = json.dumps(body).encode()
        call = Call("POST", "/v1/completions", request_id, data, key)
        return call.encode(), Refusal(400, message, param, code)
    return rng.choice(_OTHERS)(request_id, key)


def _good(**changes: Any) -> Json:
    return {"model": MODEL, "prompt": "x", "max_tokens": 1, **changes}


def _completion(request_id: str, key: str | None, data: bytes, **headers: str) -> bytes:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Call("POST", "/v1/completions", request_id, data, key, named).encode()


_GOOD = json.dumps(_good()).encode()


def _other_model(request_id: str, key: str) -> tuple[bytes, Refusal]:
    message = f"The model 'other' does not exist here. This server has '{MODEL}'."
    data = json.dumps(_good(model="other")).encode()
    return _completion(request_id, key, data), Refusal(404, message, code="model_not_found")


def _half_json(request_id: str, key: str) -> tuple[bytes, Refusal]:
    message = (
        "We could not parse the JSON body of your request: it is not valid JSON in UTF-8, see "
        "line 1, column 10."
    )
    return _completion(request_id, key, b'{"model": '), Refusal(400, message)


def _array(request_id: str, key: str) -> tuple[bytes, Refusal]:
    message = "The body of the request must be a JSON object, but it is an array."
    return _completion(request_id, key, b"[1]"), Refusal(400, message, code="invalid_type")


def _text(request_id: str, key: str) -> tuple[bytes, Refusal]:
    message = "Send the body as 'Content-Type: application/json' (in UTF-8)."
    refusal = Refusal(415, message, code="unsupported_content_type", closes=True)
    return _completion(request_id, key, _GOOD, Content_Type="text/plain"), refusal


def _compressed(request_id: str, key: str) -> tuple[bytes, Refusal]:
    message = "Compressed request bodies are not supported. Send it without Content-Encoding."
    refusal = Refusal(415, message, code="unsupported_content_encoding", closes=True)
    return _completion(request_id, key, _GOOD, Content_Encoding="gzip"), refusal


def _huge(request_id: str, key: str) -> tuple[bytes, Refusal]:
    message = "The request body is larger than the limit of 4194304 bytes."
    refusal = Refusal(413, message, code="request_too_large", closes=True)
    return _completion(request_id, key, _GOOD, Content_Length=str(5 * 2**20)), refusal


def _no_key(request_id: str, key: str) -> tuple[bytes, Refusal]:
    message = "This server needs an API key. Send it as 'Authorization: Bearer YOUR_KEY'."
    refusal = Refusal(401, message, route="none", closes=True)
    return _completion(request_id, None, _GOOD), refusal


def _wrong_key(request_id: str, key: str) -> tuple[bytes, Refusal]:
    refusal = Refusal(
        401,
        "The API key is not valid.",
        code="invalid_api_key",
        route="none",
        method="GET",
    )
    return Call("GET", "/v1/models", request_id, key="wrong").encode(), refusal


def _unknown_route(request_id: str, key: str) -> tuple[bytes, Refusal]:
    refusal = Refusal(404, "Invalid URL (GET /v1/nothing)", route="none", method="GET")
    return Call("GET", "/v1/nothing", request_id, key=key).encode(), refusal


def _wrong_method(request_id: str, key: str) -> tuple[bytes, Refusal]:
    message = "Invalid method (GET /v1/completions). Use POST."
    refusal = Refusal(405, message, code="method_not_supported", method="GET")
    return Call("GET", "/v1/completions", request_id, key=key).encode(), refusal


def _long_url(request_id: str, key: str) -> tuple[bytes, Refusal]:
    message = "The request's URL is longer than the limit of 8192 bytes."
    refusal = Refusal(
        414, message, code="url_too_long", route="none", method="GET", closes=True, has_id=False
    )
    return Call("GET", "/" + "x" * 9000, request_id, key=key).encode(), refusal


def _large_head(request_id: str, key: str) -> tuple[bytes, Refusal]:
    message = "The request's headers are over the limit of 32768 bytes or 100 headers."
    refusal = Refusal(431, message, code="headers_too_large", route="none", closes=True)
    return _completion(request_id, key, _GOOD, X_Large="x" * 33_000), refusal


def _no_host(request_id: str, key: str) -> tuple[bytes, Refusal]:
    refusal = Refusal(
        400, "A request must have exactly one Host header.", route="none", closes=True
    )
    return _completion(request_id, key, _GOOD).replace(b"Host: localhost\r\n", b"", 1), refusal


def _no_http(request_id: str, key: str) -> tuple[bytes, Refusal]:
    message = "This is not a valid HTTP/1.1 request."
    refusal = Refusal(400, message, route="none", method="other", closes=True, has_id=False)
    return b"no HTTP at all\r\n\r\n", refusal


_OTHERS = [
    *(_other_model, _half_json, _array, _text, _compressed, _huge, _no_key, _wrong_key),
    *(_unknown_route, _wrong_method, _long_url, _large_head, _no_host, _no_http),
]
