"""What becomes of requests when the engine dies, without any engine."""

from __future__ import annotations

import pytest

from engine import (
    ChoiceOutput,
    EngineDeadError,
    FinishReason,
    OutputStream,
    Request,
    SamplingParams,
)
from engine.channel import encode_frame
from engine.messages import Abort, Add, ToEngine
from engine.submissions import KILLED_THE_ENGINE, Submissions


class Desk:
    """Submissions, what they send, and the streams of those who wait."""

    def __init__(self) -> None:
        self.sent: list[ToEngine] = []
        self.submissions = Submissions(self.sent.append)

    def add(self, *names: str, n: int = 1) -> OutputStream:
        requests = [Request(name, [1], n=n) for name in names]
        stream = OutputStream(requests, self.submissions.abort)
        self.submissions.add(stream, requests)
        return stream

    def take_sent(self) -> list[str]:
        """Ids of the requests sent since the last time, "-" in front of the aborted ones."""
        names = []
        for message in self.sent:
            if isinstance(message, Add):
                names += [request.request_id for request in message.requests]
            elif isinstance(message, Abort):
                names.append(f"-{message.request_id}")
        self.sent.clear()
        return names

    def put(self, name: str, finish_reason: FinishReason | None = None, index: int = 0) -> None:
        self.submissions.put(ChoiceOutput(name, index, [5], finish_reason))

    def die(self, *started: str) -> None:
        self.submissions.start(list(started))
        self.submissions.die("it died")
        self.sent.clear()


async def test_untouched_requests_are_sent_again_and_once_only() -> None:
    desk = Desk()
    stream = desk.add("a")
    desk.die()
    desk.submissions.revive()
    assert desk.take_sent() == ["a"]
    desk.die()
    desk.submissions.revive()
    assert desk.take_sent() == []
    with pytest.raises(EngineDeadError, match="it died"):
        await anext(stream)


async def test_who_has_received_something_is_told_at_once() -> None:
    desk = Desk()
    stream, other = desk.add("a", "b"), desk.add("c")
    desk.put("a")
    desk.die()
    assert len(await anext(stream)) == 1
    with pytest.raises(EngineDeadError, match="it died"):
        await anext(stream)
    desk.submissions.revive()
    assert desk.take_sent() == ["c"], "b belongs to the stream that has failed"
    assert other.is_open("c")


async def test_suspects_run_alone_and_the_guilty_one_is_refused() -> None:
    desk = Desk()
    first, bad, untouched = desk.add("first", n=2), desk.add("bad"), desk.add("untouched")
    desk.die("first", "bad")
    desk.submissions.revive()
    assert desk.take_sent() == ["first+trial"]
    late = desk.add("late")
    assert desk.take_sent() == [], "a trial is alone"
    desk.put("first+trial", FinishReason.LENGTH)
    assert desk.take_sent() == [], "its second choice is not there yet"
    desk.put("first+trial", FinishReason.LENGTH, index=1)
    assert desk.take_sent() == ["bad+trial"]
    desk.die("bad+trial")
    [outputs] = [outputs async for outputs in bad]
    assert [(o.finish_reason, o.error) for o in outputs] == [
        (FinishReason.ERROR, KILLED_THE_ENGINE)
    ]
    desk.submissions.revive()
    assert desk.take_sent() == ["first", "untouched", "late"]
    for stream, name in [(untouched, "untouched"), (late, "late")]:
        desk.put(name, FinishReason.LENGTH)
        assert len([outputs async for outputs in stream]) == 1
    desk.put("first", FinishReason.LENGTH)
    desk.put("first", FinishReason.LENGTH, index=1)
    assert len(await anext(first)) == 2


async def test_a_trial_that_had_not_begun_proves_nothing() -> None:
    desk = Desk()
    stream = desk.add("a")
    desk.die("a")
    desk.submissions.revive()
    desk.die()
    assert stream.is_open("a")
    desk.submissions.revive()
    assert desk.take_sent() == ["a+trial"]


async def test_aborts_of_what_is_held_back() -> None:
    desk = Desk()
    suspects = [desk.add(name) for name in "abc"]
    waiting = desk.add("w", n=2)
    desk.die("a", "b", "c")
    suspects[1].close()
    waiting.abort("w", 1)
    desk.submissions.revive()
    assert desk.take_sent() == ["a+trial"]
    suspects[0].close()
    assert desk.take_sent() == ["-a+trial", "c+trial"]
    desk.put("a+trial", FinishReason.LENGTH)  # it was on its way
    assert desk.take_sent() == []
    desk.put("c+trial", FinishReason.LENGTH)
    assert desk.take_sent() == ["c", "w", "-w"]
    assert not suspects[0].is_open("a")


def num_bytes(messages: list[ToEngine]) -> int:
    return sum(len(encode_frame(message)) for message in messages)


async def test_what_many_prompts_have_in_common_is_sent_once() -> None:
    """Else a request of 4 MiB could become one of gigabytes on its way to the engine."""
    desk = Desk()
    sampling = SamplingParams(allowed_token_ids=tuple(range(50_000)))
    requests = [Request(f"a{number}", [1, 2, 3], sampling) for number in range(1024)]
    desk.submissions.add(OutputStream(requests, desk.submissions.abort), requests)
    assert num_bytes(desk.sent) < 250_000
    assert desk.take_sent() == [request.request_id for request in requests]
    desk.die()
    desk.submissions.revive()
    assert num_bytes(desk.sent) < 250_000
    assert desk.take_sent() == [request.request_id for request in requests]


async def test_each_request_has_its_own_parameters() -> None:
    desk = Desk()
    warm, cold = SamplingParams(temperature=1.0), SamplingParams(temperature=0.5)
    requests = [
        Request("a", [1], warm),
        Request("b", [2], warm),
        Request("c", [3], cold),
        Request("d", [4], cold, n=2),
        Request("e", [5], warm),
    ]
    desk.submissions.add(OutputStream(requests, desk.submissions.abort), requests)
    added = [message.requests for message in desk.sent if isinstance(message, Add)]
    assert added == [requests[:2], requests[2:3], requests[3:4], requests[4:]]
