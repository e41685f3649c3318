"""OutputStream by itself, and EngineClient with a real child process around a counting runner."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import uvloop
from fake_engine_process import (
    DIE,
    LIMITS,
    RAISE,
    SEND_GARBAGE,
    SEND_OVERSIZED,
    expected_tokens,
)

import engine.client
from engine import (
    ChoiceOutput,
    EngineClient,
    EngineConfig,
    EngineDeadError,
    EngineStartError,
    FinishReason,
    OutputStream,
    Request,
    SamplingParams,
)

TESTS = Path(__file__).parent.parent
ENDLESS = 10**6


def make_request(
    request_id: str, prompt: list[int], max_tokens: int = ENDLESS, n: int = 1
) -> Request:
    return Request(request_id, prompt, SamplingParams(max_tokens=max_tokens), n=n)


def make_client(model_path: str = "") -> EngineClient:
    return EngineClient(EngineConfig(model_path), module="fake_engine_process")


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Ask again and again; the test's own timeout is the limit."""
    while not await condition():  # noqa: ASYNC110 - the other process sets no event here
        await asyncio.sleep(0.005)


async def is_ready(client: EngineClient) -> bool:
    return client.is_ready


async def has_pid(client: EngineClient) -> bool:
    return client.pid is not None


async def is_idle(client: EngineClient) -> bool:
    stats = await client.stats()
    return stats.num_running == stats.num_waiting == stats.num_blocks_used == 0


async def read_all(stream: OutputStream) -> dict[tuple[str, int], list[int]]:
    tokens: dict[tuple[str, int], list[int]] = defaultdict(list)
    async for outputs in stream:
        assert outputs
        for output in outputs:
            tokens[output.request_id, output.index] += output.token_ids
    return dict(tokens)


def is_alive(pid: int) -> bool:
    """Also true of a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture(autouse=True)
def _importable_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(TESTS))


@pytest.fixture
async def client() -> AsyncIterator[EngineClient]:
    client = make_client()
    await client.start()
    yield client
    await client.close()


class TestOutputStream:
    def make(self, *requests: Request) -> tuple[OutputStream, list[tuple[str, int | None]]]:
        aborted: list[tuple[str, int | None]] = []
        return OutputStream(
            list(requests), lambda request_id, index: aborted.append((request_id, index))
        ), aborted

    async def test_a_slow_reader_gets_everything_at_once(self) -> None:
        stream, _ = self.make(make_request("a", [1], n=2))
        outputs = [
            ChoiceOutput("a", 0, [1]),
            ChoiceOutput("a", 1, [2]),
            ChoiceOutput("a", 0, [3], FinishReason.LENGTH),
        ]
        for output in outputs:
            stream.put(output)
        assert await anext(stream) == outputs
        stream.put(ChoiceOutput("a", 1, [4], FinishReason.STOP))
        assert [o.token_ids for o in await anext(stream)] == [[4]]
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    async def test_a_waiting_reader_is_woken_once_for_a_whole_step(self) -> None:
        stream, _ = self.make(make_request("a", [1]), make_request("b", [1]))
        reader = asyncio.create_task(anext(stream))
        await asyncio.sleep(0)
        step = [ChoiceOutput("a", 0, [1]), ChoiceOutput("b", 0, [2])]
        for output in step:
            stream.put(output)
        assert await reader == step

    async def test_abort_of_a_choice_drops_what_waits_and_what_comes(self) -> None:
        stream, aborted = self.make(make_request("a", [1], n=2), make_request("b", [1]))
        for request_id, index in [("a", 0), ("a", 1), ("b", 0)]:
            stream.put(ChoiceOutput(request_id, index, [1]))
        stream.abort("a", 1)
        stream.abort("a", 1)
        stream.put(ChoiceOutput("a", 1, [2]))
        assert aborted == [("a", 1)]
        assert [(o.request_id, o.index) for o in await anext(stream)] == [("a", 0), ("b", 0)]
        stream.abort("a")
        stream.abort("b", 0)
        assert aborted == [("a", 1), ("a", None), ("b", 0)]
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    async def test_abort_of_the_unknown_and_the_finished_is_ignored(self) -> None:
        stream, aborted = self.make(make_request("a", [1]))
        stream.abort("b")
        stream.abort("a", 7)
        stream.put(ChoiceOutput("a", 0, [1], FinishReason.STOP))
        stream.abort("a", 0)
        stream.close()
        assert aborted == []
        assert len(await anext(stream)) == 1

    async def test_leaving_aborts_the_rest_and_ends_a_waiting_reader(self) -> None:
        stream, aborted = self.make(make_request("a", [1]), make_request("b", [1], n=2))
        reader = asyncio.create_task(read_all(stream))
        await asyncio.sleep(0)
        async with stream:
            stream.put(ChoiceOutput("a", 0, [1], FinishReason.STOP))
        stream.close()
        assert aborted == [("b", None)]
        assert await reader == {("a", 0): [1]}

    async def test_giving_up_a_wait_loses_nothing(self) -> None:
        stream, aborted = self.make(make_request("a", [1]))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(stream), timeout=0.001)
        stream.put(ChoiceOutput("a", 0, [1]))
        assert [o.token_ids for o in await anext(stream)] == [[1]]
        assert aborted == []

    async def test_failure_comes_after_what_had_come(self) -> None:
        stream, aborted = self.make(make_request("a", [1]))
        stream.put(ChoiceOutput("a", 0, [1]))
        stream.fail("it died")
        assert len(await anext(stream)) == 1
        for _ in range(2):
            with pytest.raises(EngineDeadError, match="it died"):
                await anext(stream)
        stream.close()
        assert aborted == []

    async def test_a_finished_stream_does_not_fail(self) -> None:
        stream, _ = self.make(make_request("a", [1]))
        stream.put(ChoiceOutput("a", 0, [1], FinishReason.STOP))
        stream.fail("it died")
        assert await read_all(stream) == {("a", 0): [1]}


class TestGeneration:
    async def test_one_request(self, client: EngineClient) -> None:
        assert client.is_ready
        assert client.info.max_model_len == LIMITS.max_model_len
        outputs: list[ChoiceOutput] = []
        async for some in client.add([make_request("a", [7, 8, 9], max_tokens=20)]):
            outputs += some
        assert [t for o in outputs for t in o.token_ids] == expected_tokens(9, 0, 20)
        assert [o.finish_reason for o in outputs] == [None] * 19 + [FinishReason.LENGTH]

    async def test_many_streams_at_once(self, client: EngineClient) -> None:
        streams = [
            client.add([make_request(f"r{i}", [50, i], max_tokens=20 + i)]) for i in range(16)
        ]
        results = await asyncio.gather(*[read_all(stream) for stream in streams])
        for i, tokens in enumerate(results):
            assert tokens == {(f"r{i}", 0): expected_tokens(i, 0, 20 + i)}

    async def test_several_requests_and_choices_in_one_stream(self, client: EngineClient) -> None:
        requests = [make_request(f"r{i}", [i], max_tokens=5 + i, n=i) for i in range(1, 5)]
        assert await read_all(client.add(requests)) == {
            (f"r{i}", index): expected_tokens(i, index, 5 + i)
            for i in range(1, 5)
            for index in range(i)
        }

    async def test_outputs_of_a_slow_reader_are_joined(self, client: EngineClient) -> None:
        slow = client.add([make_request("slow", [1], max_tokens=30)])
        await read_all(client.add([make_request("other", [2], max_tokens=60)]))
        assert [t for o in await anext(slow) for t in o.token_ids] == expected_tokens(1, 0, 30)

    async def test_abort_of_one_choice(self, client: EngineClient) -> None:
        stream = client.add([make_request("a", [5], max_tokens=100, n=3)])
        first = await anext(stream)
        stream.abort("a", 1)
        tokens = await read_all(stream)
        assert set(tokens) == {("a", 0), ("a", 2)}
        for index in (0, 2):
            seen = [t for o in first if o.index == index for t in o.token_ids]
            assert seen + tokens["a", index] == expected_tokens(5, index, 100)

    async def test_leaving_frees_in_the_engine(self, client: EngineClient) -> None:
        async with client.add([make_request("a", [1], n=3), make_request("b", [2])]) as stream:
            await anext(stream)
            stats = await client.stats()
            assert stats.num_running + stats.num_waiting > 0
            assert stats.num_blocks_used > 0
        await until(lambda: is_idle(client))

    async def test_a_cancelled_reader_frees_in_the_engine(self, client: EngineClient) -> None:
        started = asyncio.Event()

        async def read() -> None:
            async with client.add([make_request("a", [1])]) as stream:
                async for _ in stream:
                    started.set()

        reader = asyncio.create_task(read())
        await started.wait()
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        await until(lambda: is_idle(client))

    async def test_aborted_before_the_engine_saw_it(self, client: EngineClient) -> None:
        client.add([make_request("a", [1])]).close()
        await until(lambda: is_idle(client))
        assert await read_all(client.add([make_request("b", [1], max_tokens=1)]))

    async def test_abort_of_what_the_engine_finished_is_ignored(self, client: EngineClient) -> None:
        stream = client.add([make_request("a", [1], max_tokens=1)])
        # The engine is done with it; the event loop has not read that yet.
        await until(lambda: is_idle(client))
        stream.close()
        for _ in range(2):
            assert await read_all(client.add([make_request("b", [1], max_tokens=3)]))

    async def test_stats_from_many_readers(self, client: EngineClient) -> None:
        await read_all(client.add([make_request("a", [1, 2, 3], max_tokens=10)]))
        cancelled = asyncio.create_task(client.stats())
        await asyncio.sleep(0)
        cancelled.cancel()
        for stats in await asyncio.gather(*[client.stats() for _ in range(20)]):
            assert stats.num_generated_tokens == 10
            assert stats.num_prompt_tokens == 3

    async def test_a_large_message(self, client: EngineClient) -> None:
        requests = [make_request(f"r{i}", list(range(100)) * 1000, max_tokens=1) for i in range(10)]
        async with client.add(requests) as stream:
            await anext(stream)
        await until(lambda: is_idle(client))


class TestDeath:
    async def test_killed_under_streams(
        self, client: EngineClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        pid = client.pid
        assert pid is not None
        streams = [client.add([make_request(f"r{i}", [i])]) for i in range(16)]
        await asyncio.gather(*[anext(stream) for stream in streams])
        os.kill(pid, signal.SIGKILL)
        failures = await asyncio.gather(
            *[read_all(stream) for stream in streams], return_exceptions=True
        )
        assert not client.is_ready
        for failure in failures:
            assert isinstance(failure, EngineDeadError)
            assert str(failure) == (
                "the engine process stopped unexpectedly (killed by signal 9) and is being "
                "started again; send the request again"
            )
        with pytest.raises(EngineDeadError, match="is being started"):
            client.add([make_request("refused", [1])])
        with pytest.raises(EngineDeadError, match="is being started"):
            await client.stats()
        assert client.info.num_blocks == LIMITS.num_blocks
        assert f"engine process {pid} stopped unexpectedly (killed by signal 9)" in caplog.text

        await until(lambda: is_ready(client))
        assert client.pid != pid
        assert not is_alive(pid)
        assert await read_all(client.add([make_request("next", [3], max_tokens=4)])) == {
            ("next", 0): expected_tokens(3, 0, 4)
        }

    @pytest.mark.parametrize(
        ("order", "ending", "logged"),
        [
            (DIE, "killed by signal 9", "it did not say why"),
            (RAISE, "exit code 1", "ZeroDivisionError: the runner was ordered to fail"),
            (SEND_GARBAGE, "exit code 0", "sent what is not a message"),
            (SEND_OVERSIZED, "exit code 0", "sent what is not a message"),
        ],
    )
    async def test_a_request_that_ends_the_engine(
        self,
        client: EngineClient,
        caplog: pytest.LogCaptureFixture,
        order: int,
        ending: str,
        logged: str,
    ) -> None:
        neighbour = client.add([make_request("neighbour", [1])])
        await anext(neighbour)
        with pytest.raises(EngineDeadError) as failure:
            await read_all(client.add([make_request("bad", [order])]))
        assert ending in str(failure.value)
        assert logged in caplog.text
        with pytest.raises(EngineDeadError):
            await read_all(neighbour)
        neighbour.close()
        await until(lambda: is_ready(client))
        assert await read_all(client.add([make_request("bad", [1], max_tokens=1)]))

    async def test_readers_of_stats_are_told(self, client: EngineClient) -> None:
        assert client.pid is not None
        os.kill(client.pid, signal.SIGSTOP)
        reader = asyncio.create_task(client.stats())
        await asyncio.sleep(0)
        os.kill(client.pid, signal.SIGKILL)
        with pytest.raises(EngineDeadError, match="killed by signal 9"):
            await reader

    async def test_abort_between_death_and_its_discovery(self, client: EngineClient) -> None:
        assert client.pid is not None
        streams = [client.add([make_request(f"r{i}", [1])]) for i in range(10)]
        os.kill(client.pid, signal.SIGKILL)
        os.waitid(os.P_PID, client.pid, os.WEXITED | os.WNOWAIT)  # the event loop sleeps meanwhile
        for stream in streams:
            stream.close()
            assert await read_all(stream) == {}

    async def test_an_engine_that_reads_nothing_gets_no_more(
        self, client: EngineClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(engine.client, "MAX_UNSENT_BYTES", 1 << 20)
        assert client.pid is not None
        os.kill(client.pid, signal.SIGSTOP)
        with pytest.raises(EngineDeadError, match="does not respond"):
            for i in range(100):
                client.add([make_request(f"r{i}", [1] * 100_000)])
        os.kill(client.pid, signal.SIGKILL)


class TestLifeCycle:
    @pytest.mark.parametrize(
        ("model_path", "message"),
        [
            ("missing", "^no model at 'missing'; try another name$"),
            ("broken", "^the engine failed: ZeroDivisionError: a bug in the loader$"),
            ("die", "^the engine process stopped while it was loading .exit code 3."),
        ],
    )
    async def test_a_start_that_fails(
        self, model_path: str, message: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        client = make_client(model_path)
        with pytest.raises(EngineStartError, match=message):
            await client.start()
        assert not client.is_ready
        assert client.pid is not None
        assert not is_alive(client.pid)
        with pytest.raises(EngineDeadError):
            client.add([make_request("a", [1])])
        await client.close()
        # A user's mistake is one line; a bug shows where it is.
        assert ("Traceback" in capfd.readouterr().err) == (model_path == "broken")

    async def test_no_such_module(self) -> None:
        client = EngineClient(EngineConfig(""), module="no_such_module")
        with pytest.raises(EngineStartError, match="exit code 1"):
            await client.start()

    async def test_progress(self) -> None:
        progress: list[tuple[str, float]] = []
        client = EngineClient(
            EngineConfig(""),
            on_progress=lambda phase, fraction: progress.append((phase, fraction)),
            module="fake_engine_process",
        )
        await client.start()
        await client.close()
        assert progress == [("reading", 0.0), ("reading", 1.0)]

    async def test_close(self, client: EngineClient) -> None:
        stream = client.add([make_request("a", [1])])
        await anext(stream)
        pid = client.pid
        assert pid is not None
        await client.close()
        assert not client.is_ready
        assert not is_alive(pid)
        with pytest.raises(EngineDeadError, match="the engine has been shut down"):
            await read_all(stream)
        with pytest.raises(EngineDeadError, match="the engine has been shut down"):
            client.add([make_request("b", [1])])
        await client.close()

    async def test_close_before_start(self) -> None:
        client = make_client()
        await client.close()
        assert not client.is_ready

    async def test_cancelled_while_loading(self) -> None:
        client = make_client("hang")
        start = asyncio.create_task(client.start())
        await until(lambda: has_pid(client))
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
        assert client.pid is not None
        assert not is_alive(client.pid)
        await client.close()

    async def test_closed_while_loading(self) -> None:
        client = make_client("hang")
        start = asyncio.create_task(client.start())
        await until(lambda: has_pid(client))
        await client.close()
        with pytest.raises(EngineStartError):
            await start

    async def test_the_working_directory_does_not_matter(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("engine", "msgspec", "socket"):
            (tmp_path / f"{name}.py").write_text(
                "raise SystemExit('imported from the wrong place')"
            )
        monkeypatch.chdir(tmp_path)
        client = make_client()
        await client.start()
        await client.close()

    def test_on_uvloop_and_outside_the_main_thread(self) -> None:
        async def use() -> dict[tuple[str, int], list[int]]:
            client = make_client()
            await client.start()
            try:
                stream = client.add([make_request("a", [1])])
                await anext(stream)
                assert client.pid is not None
                os.kill(client.pid, signal.SIGKILL)
                with pytest.raises(EngineDeadError):
                    await read_all(stream)
                await until(lambda: is_ready(client))
                return await read_all(client.add([make_request("b", [1], max_tokens=3)]))
            finally:
                await client.close()

        async def in_thread() -> dict[tuple[str, int], list[int]]:
            return await asyncio.to_thread(
                asyncio.Runner(loop_factory=uvloop.new_event_loop).run, use()
            )

        assert asyncio.run(in_thread()) == {("b", 0): [2, 3, 4]}


PARENT = """
import asyncio
from engine import EngineClient, EngineConfig

async def main():
    client = EngineClient(
        EngineConfig("{model_path}"),
        on_progress=lambda phase, fraction: print(phase, flush=True),
        module="fake_engine_process",
    )
    await client.start()
    print("ready", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize(("model_path", "awaited"), [("", "ready\n"), ("hang", "reading\n")])
def test_the_engine_does_not_outlive_its_parent(model_path: str, awaited: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT.format(model_path=model_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])},
    ) as parent:
        assert parent.stdout is not None
        for line in parent.stdout:
            if line == awaited:
                break
        parent.kill()
        # Both write to this pipe, so it ends when both are gone.
        assert parent.communicate(timeout=20)[1] == ""
