"""`completions.stream`: events, pieces of text and the whole, with both clients."""

from __future__ import annotations

from typing import Any

import octavo_client
import pytest
from both_faces import MakeClient, all_of, each, inside, settled
from fault_server import (
    DONE,
    SILENCE,
    STREAM_HEAD,
    FaultServer,
    chunk,
    event,
    framed,
    json_answer,
    stream_answer,
)
from octavo_client import ChunkEvent, TextDeltaEvent, TextDoneEvent

A, B = event(chunk("a")), event(chunk("b", "stop"))
USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
COUNTED = event({**chunk(""), "choices": [], "usage": USAGE})
GOOD = stream_answer(A, B, COUNTED, DONE)
REQUEST: dict[str, Any] = {"model": "m", "prompt": "x"}


async def test_events(server: FaultServer, make_client: MakeClient) -> None:
    server.answers = [GOOD]
    async with (
        inside(make_client(server.base_url)) as client,
        inside(client.completions.stream(**REQUEST)) as stream,
    ):
        events = await all_of(stream)
    assert [event.type for event in events] == [
        *("chunk", "text.delta"),
        *("chunk", "text.delta", "text.done"),
        "chunk",
    ]
    assert events[1] == TextDeltaEvent("a", "a", 0)
    assert events[3] == TextDeltaEvent("b", "ab", 0)
    assert events[4] == TextDoneEvent("ab", 0, "stop")
    assert isinstance(events[5], ChunkEvent)
    assert events[5].chunk.usage is not None


async def test_text_and_the_whole(server: FaultServer, make_client: MakeClient) -> None:
    server.answers = [GOOD]
    async with (
        inside(make_client(server.base_url)) as client,
        inside(client.completions.stream(**REQUEST)) as stream,
    ):
        deltas = each(stream.text_deltas)
        seen = [(delta, stream.text, stream.usage) async for delta in deltas]
        whole = await settled(stream.get_final_completion())
        assert stream.usage.total_tokens == 7
    assert seen == [("a", "a", None), ("b", "ab", None)]
    assert whole.choices[0].text == "ab"
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage.completion_tokens == 2
    assert server.requests[0].json == {
        **REQUEST,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_the_whole_alone(server: FaultServer, make_client: MakeClient) -> None:
    server.answers = [GOOD]
    async with (
        inside(make_client(server.base_url)) as client,
        inside(client.completions.stream(**REQUEST, stream_options=None)) as stream,
    ):
        async for _ in each(stream):
            break
        assert stream.current_completion_snapshot.choices[0].text == "a"
        assert (await settled(stream.get_final_completion())).choices[0].text == "ab"
        assert (await settled(stream.get_final_completion())).choices[0].text == "ab"
    assert server.requests[0].json["stream_options"] is None


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([A, B], octavo_client.IncompleteStreamError),
        ([A, event({"error": {"message": "Died.", "code": "dead"}}), DONE], octavo_client.APIError),
        ([A, b"data: {\n\n", DONE], octavo_client.APIResponseValidationError),
    ],
)
async def test_a_broken_stream_has_no_whole(
    server: FaultServer, make_client: MakeClient, pieces: list[bytes], expected: type[Exception]
) -> None:
    server.answers = [stream_answer(*pieces)]
    async with (
        inside(make_client(server.base_url)) as client,
        inside(client.completions.stream(**REQUEST)) as stream,
    ):
        with pytest.raises(expected):
            await settled(stream.get_final_completion())
        # Not even when asked again, after the error was put aside.
        with pytest.raises(octavo_client.IncompleteStreamError, match="before its end"):
            await settled(stream.get_final_completion())
        assert stream.current_completion_snapshot.choices[0].text.startswith("a")


async def test_leaving_closes_the_connection(server: FaultServer, make_client: MakeClient) -> None:
    server.answers = [[STREAM_HEAD, framed(A), SILENCE], GOOD]
    async with inside(make_client(server.base_url)) as client:
        async with inside(client.completions.stream(**REQUEST)) as stream:
            async for _ in each(stream.text_deltas):
                break
        assert await all_of(stream) == []
        with pytest.raises(octavo_client.IncompleteStreamError):
            await settled(stream.get_final_completion())
        async with inside(client.completions.stream(**REQUEST)) as stream:
            assert await all_of(stream.text_deltas) == ["a", "b"]
    assert server.num_connections == 2


async def test_nothing_is_sent_before_the_block(
    server: FaultServer, make_client: MakeClient
) -> None:
    server.answers = [json_answer({"error": {"message": "No."}}, 400)]
    async with inside(make_client(server.base_url)) as client:
        manager = client.completions.stream(**REQUEST)
        assert server.requests == []
        with pytest.raises(octavo_client.BadRequestError):
            async with inside(manager):
                pass


async def test_an_error_of_the_callers_own_passes(
    server: FaultServer, make_client: MakeClient
) -> None:
    server.answers = [GOOD]
    async with inside(make_client(server.base_url)) as client:
        with pytest.raises(ZeroDivisionError):
            async with inside(client.completions.stream(**REQUEST)):
                raise ZeroDivisionError


async def test_slow_bytes_and_giant_events(server: FaultServer, make_client: MakeClient) -> None:
    giant = "x" * 3_000_000
    content = event(chunk(giant)) + B + DONE
    slow = [framed(content[i : i + 1]) for i in range(60)]
    answer = [piece for byte in slow for piece in (byte, 0.002)]
    server.answers = [[STREAM_HEAD, *answer, framed(content[60:]), framed(b""), "keep open"]]
    async with (
        inside(make_client(server.base_url)) as client,
        inside(client.completions.stream(**REQUEST)) as stream,
    ):
        whole = await settled(stream.get_final_completion())
    assert whole.choices[0].text == f"{giant}b"


async def test_an_event_without_an_end(server: FaultServer, make_client: MakeClient) -> None:
    server.answers = [[STREAM_HEAD, *[framed(b"x" * 1_000_000)] * 20, SILENCE]]
    async with (
        inside(make_client(server.base_url)) as client,
        inside(client.completions.stream(**REQUEST)) as stream,
    ):
        with pytest.raises(octavo_client.APIResponseValidationError, match="longer than"):
            await settled(stream.get_final_completion())
