"""Any bytes as a request's body: parsed, or refused with one bounded error, in bounded memory."""

from __future__ import annotations

import json
import tracemalloc

from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from server.wire.body import parse_json
from server.wire.combinations import check_request
from server.wire.engines import EngineCompletionRequest
from server.wire.errors import ApiError
from server.wire.schemas import CompletionRequest
from server.wire.tokenization import DetokenizeRequest, TokenizeRequest

MODELS = [CompletionRequest, EngineCompletionRequest, TokenizeRequest, DetokenizeRequest]
FIELDS = sorted({name for model in MODELS for name in model.model_fields})

SEED_BODY = json.dumps(
    {
        "model": "m",
        "prompt": ["x", "\u4e16"],
        "n": 2,
        "temperature": 0.5,
        "logit_bias": {"5": 1},
        "stop": ["a"],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
).encode()
PIECES = st.sampled_from(
    [b"NaN", b"-Infinity", b"1e999", b"\\ud800", b"\x00", b"\xff", b"[" * 300, b"{", b'"', b"\\u"]
    + [b"9" * 5000, b"null", b"true", b"-0", b"1.0", b"\xef\xbb\xbf", b",", b":"]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=30)
    | st.sampled_from([2**31, 2**63, 2**64, -1, 1e308, "x" * 3000])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text(max_size=8) | st.sampled_from(FIELDS), inner, max_size=5)
    ),
    max_leaves=12,
)


def parse(model: type[BaseModel], body: bytes) -> None:
    """Raises whatever is not an answer to a client, and AssertionError for too much of one."""
    tracemalloc.start()
    try:
        parsed = parse_json(model, body)
        if isinstance(parsed, CompletionRequest):
            check_request(parsed, allow_unknown_params=False)
        elif isinstance(parsed, TokenizeRequest | DetokenizeRequest):
            parsed.check(allow_unknown_params=False)
    except ApiError as error:
        assert 400 <= error.status < 500
        envelope = error.envelope()
        assert envelope.isascii()
        assert len(envelope) < 10_000
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 1_000_000 + 100 * len(body)


@settings(max_examples=300, deadline=None)
@given(model=st.sampled_from(MODELS), body=st.binary(max_size=2000))
def test_arbitrary_bytes(model: type[BaseModel], body: bytes) -> None:
    parse(model, body)


@settings(max_examples=300, deadline=None)
@given(
    model=st.sampled_from(MODELS),
    patches=st.lists(
        st.tuples(
            st.integers(0, len(SEED_BODY)), PIECES | st.binary(max_size=8), st.integers(0, 9)
        ),
        min_size=1,
        max_size=4,
    ),
)
def test_damaged_bodies(model: type[BaseModel], patches: list[tuple[int, bytes, int]]) -> None:
    body = bytearray(SEED_BODY)
    for position, piece, num_replaced in patches:
        body[position : position + num_replaced] = piece
    parse(model, bytes(body))


@settings(max_examples=300, deadline=None)
@given(
    model=st.sampled_from(MODELS),
    fields=st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=9), VALUES, max_size=8),
    num_unknown=st.sampled_from([0, 0, 0, 500]),
)
def test_any_values_in_any_fields(
    model: type[BaseModel], fields: dict[str, object], num_unknown: int
) -> None:
    unknown = {f"unknown_parameter_number_{number}": 0 for number in range(num_unknown)}
    parse(model, json.dumps({"model": "m", "prompt": "x"} | unknown | fields).encode())
