"""EngineClient from start to close: starts that fail, cancellation, nothing left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import uvloop
from engine_children import has_pid, is_alive, is_ready, make_client, make_request, read_all, until

from engine import EngineClient, EngineConfig, EngineDeadError, EngineStartError

TESTS = Path(__file__).parent.parent

pytestmark = pytest.mark.usefixtures("child_on_path")


@pytest.mark.parametrize(
    ("model_path", "message"),
    [
        ("missing", "^no model at 'missing'; try another name$"),
        ("broken", "^the engine failed: ZeroDivisionError: a bug in the loader$"),
        ("die", "^the engine process stopped while it was loading .exit code 3."),
    ],
)
async def test_a_start_that_fails(
    model_path: str, message: str, capfd: pytest.CaptureFixture[str]
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
    printed = capfd.readouterr()
    assert printed.out == "", "standard output is the API process's own"
    assert "the fake engine loads" in printed.err
    # A user's mistake is one line; a bug shows where it is.
    assert ("Traceback" in printed.err) == (model_path == "broken")


async def test_no_such_module() -> None:
    client = EngineClient(EngineConfig(""), module="no_such_module")
    with pytest.raises(EngineStartError, match="exit code 1"):
        await client.start()


async def test_progress() -> None:
    progress: list[tuple[str, float]] = []
    client = EngineClient(
        EngineConfig(""),
        on_progress=lambda phase, fraction: progress.append((phase, fraction)),
        module="fake_engine_process",
    )
    await client.start()
    await client.close()
    assert progress == [("reading", 0.0), ("reading", 1.0)]


async def test_close(client: EngineClient) -> None:
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


async def test_close_before_start() -> None:
    client = make_client()
    await client.close()
    assert not client.is_ready


async def test_cancelled_while_loading() -> None:
    client = make_client("hang")
    start = asyncio.create_task(client.start())
    await until(lambda: has_pid(client))
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert client.pid is not None
    assert not is_alive(client.pid)
    await client.close()


async def test_cancelled_at_any_moment_of_the_start() -> None:
    for num_rounds in range(6):
        client = make_client()
        start = asyncio.create_task(client.start())
        for _ in range(num_rounds):
            await asyncio.sleep(0)
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
        await client.close()
    gc.collect()  # what was left open warns, and warnings are errors


async def test_closed_while_loading() -> None:
    client = make_client("hang")
    start = asyncio.create_task(client.start())
    await until(lambda: has_pid(client))
    await client.close()
    with pytest.raises(EngineStartError):
        await start


async def test_the_working_directory_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("engine", "msgspec", "socket"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the wrong place')")
    monkeypatch.chdir(tmp_path)
    client = make_client()
    await client.start()
    await client.close()


def test_on_uvloop_and_outside_the_main_thread() -> None:
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
        assert parent.communicate(timeout=20)[1] == "the fake engine loads\n"
