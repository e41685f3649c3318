"""Many clients at a time: each makes one random request after the other and checks each answer."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from chaos.soak.answers import Expected, Json
from chaos.soak.bad import random_refusal
from chaos.soak.calls import (
    KEYS,
    SMALL_KEY,
    Call,
    completion_call,
    random_body,
    random_key,
    random_question,
    write_long,
)
from chaos.soak.connection import Connection, Head
from chaos.soak.events import Events
from chaos.soak.ledger import Ledger, Seen

LONGEST_SILENCE = 120.0  # seconds; an answer that has not come then is lost

_OVERLOADED = {
    "message": "Too many requests wait for this server already. Try again in a moment.",
    "type": "service_unavailable_error",
    "param": None,
    "code": "server_is_overloaded",
}
_STEP_FAILED = {
    "message": "The engine failed on this request, and again when it computed nothing else. The "
    "server's log has the reason.",
    "type": "server_error",
    "param": None,
    "code": "step_failed",
}
_LIMITED = re.compile(
    r"(You have reached the limit of (30 requests|3000 tokens) per minute\. Try again in "
    r"(\d+m)?[\d.]+m?s\.|This request may use \d+ tokens, which is over the limit of 3000 tokens "
    r"per minute by itself\.)"
)


class Traffic:
    """`endings` counts what became of requests; `ledger` knows each."""

    def __init__(self, port: int, ledger: Ledger, seed: int) -> None:
        self._port = port
        self._ledger = ledger
        self._rng = random.Random(seed)  # noqa: S311 - to be repeatable
        self._completion_ids: set[str] = set()
        self._beginnings: Counter[tuple[str, ...]] = Counter()  # of prompts, by cache
        self._fingerprints: set[str] = set()
        self.endings: Counter[str] = Counter()

    async def run(self, numbers: Iterator[int], num_clients: int, until: float) -> None:
        """Make requests until there are no numbers left, or the time is."""
        rngs = [random.Random(self._rng.random()) for _ in range(num_clients)]  # noqa: S311
        async with asyncio.TaskGroup() as group:
            for rng in rngs:
                group.create_task(self._client(rng, numbers, until))

    async def _client(self, rng: random.Random, numbers: Iterator[int], until: float) -> None:
        connection: Connection | None = None
        for number in numbers:
            if time.monotonic() > until:
                break
            is_slow = rng.random() < 0.03
            if connection is not None and (is_slow or rng.random() < 0.2):
                await connection.close()
                connection = None
            if connection is None:
                connection = await Connection.open(self._port, has_small_buffer=is_slow)
            async with asyncio.timeout(LONGEST_SILENCE):
                stays_open = await self._request(rng, number, connection, is_slow)
            if stays_open:
                connection.check_idle()
            if not stays_open or is_slow:
                await connection.close()
                connection = None
            self.endings["requests"] += 1
        if connection is not None:
            await connection.close()

    async def _request(
        self, rng: random.Random, number: int, connection: Connection, is_slow: bool
    ) -> bool:
        """Whether the connection can be used again."""
        request_id = f"soak-{number}"
        kind = rng.random()
        if kind < 0.10:
            return await self._refused(rng, request_id, connection)
        if kind < 0.14:
            return await self._question(rng, request_id, connection)
        body = random_body(rng, number)
        vanishes = kind < 0.28
        if vanishes and 0 < body["max_tokens"] < 40 and not body.get("use_beam_search"):
            body["max_tokens"] = 40  # so that something is left to be given up
            if rng.random() < 0.1:
                write_long(rng, body)
        call = completion_call(body, request_id, random_key(rng))
        asked = Asked(body, call)
        self._beginnings.update(asked.beginnings)
        if vanishes:
            await self._vanish(rng, asked, connection)
            return False
        connection.send(call.encode())
        head = await connection.head()
        self._check_head(head, request_id)
        if head.headers["content-type"].startswith("text/event-stream"):
            await self._stream(rng, asked, connection, head, is_slow)
        else:
            await self._whole(asked, connection, head)
        return not head.closes

    async def _refused(self, rng: random.Random, request_id: str, connection: Connection) -> bool:
        data, refusal = random_refusal(rng, request_id)
        connection.send(data)
        head = await connection.head()
        answer = json.loads(await connection.body(head))
        is_busy = head.status == 503 and answer == {"error": _OVERLOADED}
        if not is_busy:
            assert head.status == refusal.status, (head, answer, data[:500])
            assert answer == {"error": refusal.error}, (answer, data[:500])
        assert head.closes == refusal.closes, (head, data[:500])
        if refusal.closes:
            await connection.expect_end()
        line = None
        if refusal.route != "none" or refusal.status != 404:
            line = {
                "request_id": request_id if refusal.has_id else None,
                "status": head.status,
                "error_code": answer["error"]["code"],
                "finish_reason": None,
            }
        self._ledger.add(request_id, Seen(refusal.route, refusal.method, head.status, line))
        self.endings["busy" if is_busy else "refused"] += 1
        return not head.closes

    async def _question(self, rng: random.Random, request_id: str, connection: Connection) -> bool:
        call, answer = random_question(rng, request_id)
        connection.send(call.encode())
        head = await connection.head()
        self._check_head(head, request_id)
        assert (head.status, json.loads(await connection.body(head))) == (200, answer), call
        # The page of metrics calls both paths of a question by the short one.
        self._ledger.add(request_id, Seen(call.path.removeprefix("/v1"), call.method, 200))
        self.endings["about tokens"] += 1
        return True

    async def _vanish(self, rng: random.Random, asked: Asked, connection: Connection) -> None:
        """Before the whole request was sent, before the answer, or in the middle of it."""
        data = asked.call.encode()
        way = rng.choice(["half", "at once", "soon", "soon", "reading", "reading"])
        if way == "half":
            data = data[: rng.choice([rng.randrange(1, len(data)), len(data) - 1])]
        connection.send(data)
        if way == "soon":
            await asyncio.sleep(rng.choice([0, 0.01, 0.1]))
        elif way == "reading":
            head = await connection.head()
            self._check_head(head, asked.call.request_id)
            num_bytes = rng.choice([1, 500, 5000])
            data = b""
            async for piece in connection.pieces(head):
                data += piece
                if len(data) >= num_bytes:
                    break
            if head.status == 200 and asked.body.get("stream"):
                Events(data.decode()).check_beginning(asked.expected)
        else:
            await asyncio.sleep(0)
        await connection.close(resets=rng.random() < 0.5)
        self._ledger.add(asked.call.request_id, asked.seen(None))
        self.endings["vanished"] += 1

    async def _whole(self, asked: Asked, connection: Connection, head: Head) -> None:
        answer = json.loads(await connection.body(head))
        if head.status != 200:
            self._check_error(asked, head, answer["error"])
            assert set(answer) == {"error"}
            return
        assert not asked.body.get("stream")
        self._check_answer(asked, answer)

    async def _stream(
        self,
        rng: random.Random,
        asked: Asked,
        connection: Connection,
        head: Head,
        is_slow: bool,
    ) -> None:
        assert head.status == 200 and asked.body.get("stream"), head
        data = []
        async for piece in connection.pieces(head):
            data.append(piece)
            if is_slow and rng.random() < 0.1:
                await asyncio.sleep(0.02)
        events = Events(b"".join(data).decode("ascii"))
        assert events.is_done, "a stream ended without [DONE]"
        if events.error is not None:
            if not asked.expected.is_poisoned:
                events.check_beginning(asked.expected)
            self._check_error(asked, head, events.error)
            return
        self._check_answer(asked, events.fold(asked.body.get("stream_options") or {}))

    def _check_head(self, head: Head, request_id: str) -> None:
        assert head.headers["x-request-id"] == head.headers["request-id"] == request_id

    def _check_answer(self, asked: Asked, answer: Json) -> None:
        """A good one, whole or folded."""
        body, expected = asked.body, asked.expected
        assert not expected.is_poisoned, "poison was answered"
        completion_id, usage = answer["id"], answer.pop("usage")
        assert re.fullmatch("cmpl-[0-9a-f]{32}", completion_id)
        assert completion_id not in self._completion_ids, "an id came twice"
        self._completion_ids.add(completion_id)
        self._fingerprints.add(answer["system_fingerprint"])
        assert len(self._fingerprints) == 1
        right = {
            "id": completion_id,
            "object": "text_completion",
            "created": answer["created"],
            "model": body["model"],
            "system_fingerprint": answer["system_fingerprint"],
            "choices": expected.choices,
        }
        assert answer == right, f"{body}\nwas answered\n{answer}\nright is\n{right}"
        line: dict[str, Any] = {"finish_reason": _joined(asked.reasons), "status": 200}
        line |= {"completion_id": completion_id, "error_code": None, "model": body["model"]}
        line["prompt_tokens"] = expected.num_prompt_tokens
        line["completion_tokens"] = expected.num_completion_tokens
        if usage is not None:
            line["cached_tokens"] = self._check_usage(asked, usage)
        self._ledger.add(asked.call.request_id, asked.seen(200, line))
        self.endings.update(asked.reasons)

    def _check_usage(self, asked: Asked, usage: Json) -> int:
        """Returns the number of cached tokens."""
        num_prompt, num_completion = (
            asked.expected.num_prompt_tokens,
            asked.expected.num_completion_tokens,
        )
        num_cached: int = usage["prompt_tokens_details"]["cached_tokens"]
        assert usage == {
            "prompt_tokens": num_prompt,
            "completion_tokens": num_completion,
            "total_tokens": num_prompt + num_completion,
            "prompt_tokens_details": {"cached_tokens": num_cached},
        }, f"{asked.body}: {usage}, right is {num_prompt} + {num_completion}"
        assert 0 <= num_cached <= num_prompt
        if all(self._beginnings[beginning] == 1 for beginning in asked.beginnings):
            assert num_cached == 0, "found in the cache what nobody else may have put there"
        self.endings["found in the cache"] += num_cached > 0
        return num_cached

    def _check_error(self, asked: Asked, head: Head, error: Json) -> None:
        """The engine or the queue had to refuse what is a good request."""
        code = error["code"]
        if code == "step_failed":
            assert asked.expected.is_poisoned and error == _STEP_FAILED, (asked.body, error)
            assert head.status in (500, 200)
        elif code == "rate_limit_exceeded":
            assert asked.call.key == SMALL_KEY and head.status == 429, (asked.call, head)
            assert error == {"message": error["message"], "type": "rate_limit_error"} | {
                "param": None,
                "code": code,
            }
            assert _LIMITED.fullmatch(error["message"]), error
        else:
            assert error == _OVERLOADED, (asked.body, error)
            assert head.status in (503, 200)
        if head.status in (429, 503) and head.headers.get("x-should-retry") != "false":
            assert int(head.headers["retry-after"]) >= 1
        line = {"status": head.status, "error_code": code}
        self._ledger.add(asked.call.request_id, asked.seen(head.status, line))
        self.endings[code] += 1


class Asked:
    """A completion that is asked for, and what is known of it beforehand."""

    def __init__(self, body: Json, call: Call) -> None:
        self.body = body
        self.call = call
        self.expected = Expected(body)
        owner = KEYS[call.key or ""]
        salt = body.get("cache_salt", "")
        self.beginnings = [
            (owner, salt, *map(str, token_ids[:4])) for token_ids, _ in self.expected.prompts
        ]

    @property
    def reasons(self) -> list[str]:
        return [choice.finish_reason for choice in self.expected.generated]

    def seen(self, status: int | None, line: dict[str, Any] | None = None) -> Seen:
        """`line` is what the log says beyond what it says in any case; nothing ended well if it has
        no finish reason."""
        body, expected = self.body, self.expected
        num_choices = len(expected.prompts) * expected.num_generated
        seen = Seen("/v1/completions", "POST", status, num_choices=num_choices)
        seen.full_tokens = expected.num_full_tokens
        if line is not None:
            seen.line = {
                "request_id": self.call.request_id,
                "route": "/v1/completions",
                "key_name": KEYS[self.call.key or ""],
                "stream": body.get("stream", False),
                "prompts": len(expected.prompts),
                "n": expected.num_generated,
                "max_tokens": body["max_tokens"],
                **line,
            }
        if line is not None and line.get("finish_reason"):
            seen.reasons = self.reasons
        return seen


def _joined(reasons: list[str]) -> str:
    return ",".join(sorted(set(reasons)))
