"""The process that renders a template, when it is not ours any more: a sandbox has had holes."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path

import pytest
import uvloop
from engine_children import is_alive
from test_chat_templates import ANYBODY, HELLO, PLAIN, URL, serving, tokenizer_with

from server.chat import template as template_module
from server.chat.template import ChatTemplates
from server.tenants import Tenant
from server.wire.chat import ApplyTemplateRequest
from server.wire.errors import ApiError

HELLO_BODY = ApplyTemplateRequest.model_validate({"messages": HELLO})
Run = Callable[[str], None]


@pytest.fixture
def run_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Has this program take the place of `render.py`."""
    path = tmp_path / "render.py"
    monkeypatch.setattr(template_module, "_RENDER", path)

    def write(program: str) -> None:
        path.write_text(program)

    return write


@pytest.mark.parametrize(
    "program",
    [
        "",
        "import os; os.kill(os.getpid(), 9)",
        "import sys; sys.stdin.read(); print('Hello')",
        "import sys; sys.stdin.read(); print('[]')",
        "import sys; sys.stdin.read(); print('[' * 100_000)",
        """print('{"prompt": ["Hello"]}')""",
        r"""print('{"prompt": "\\ud800", "turn_end": ""}')""",
        # More than it may say, and then it does not end.
        "import time; print('x' * 40_000_000, flush=True); time.sleep(100)",
    ],
)
async def test_what_is_no_answer(run_instead: Run, program: str) -> None:
    templates, tokenizer = ChatTemplates(seconds=30), tokenizer_with("x")
    run_instead(program)
    for _ in range(3):  # more than may run at a time: nothing of them is left
        with pytest.raises(ApiError, match="or ends its process") as raised:
            await templates.apply(HELLO_BODY, tokenizer, ANYBODY)
        assert raised.value.status == 400
    run_instead("""print('{"prompt": "Hello", "turn_end": ""}')""")
    assert (await templates.apply(HELLO_BODY, tokenizer, ANYBODY)).prompt == "Hello"


async def test_it_ends_when_its_client_goes_away(run_instead: Run, tmp_path: Path) -> None:
    """At once: the time that it has is longer than what is waited here."""
    noted = tmp_path / "pid"
    run_instead(
        f"import os, time; open({str(noted)!r}, 'w').write(str(os.getpid())); time.sleep(100)"
    )
    async with serving("x") as client:
        asking = asyncio.ensure_future(client.post(URL, json={"messages": HELLO}, timeout=60))
        await until(lambda: noted.exists() and bool(noted.read_text()))
        asking.cancel()
        await until(lambda: not is_alive(int(noted.read_text())))


async def test_one_conversation_does_not_wait_for_the_many_of_another(
    run_instead: Run, tmp_path: Path
) -> None:
    templates, tokenizer = ChatTemplates(seconds=60), tokenizer_with("x")
    gate = tmp_path / "gate"
    run_instead(
        f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.01)\n"
        """print('{"prompt": "Hello", "turn_end": ""}')"""
    )
    ends: list[str] = []

    async def ask(name: str) -> None:
        await templates.apply(HELLO_BODY, tokenizer, Tenant(name))
        ends.append(name)

    async with asyncio.TaskGroup() as asking:
        for name in ["a"] * 12 + ["b"]:
            asking.create_task(ask(name))
        await asyncio.sleep(0)  # each has its place
        gate.touch()
    assert len(ends) == 13
    assert ends.index("b") < 6


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_no_files_to_be_had(
    loop_factory: Callable[[], asyncio.AbstractEventLoop], caplog: pytest.LogCaptureFixture
) -> None:
    """Descriptors are used up, or nearly: nothing more is lost by that."""

    async def ask() -> None:
        async with serving(PLAIN) as client:
            assert (await client.post(URL, json={"messages": HELLO})).status_code == 200
            num_open = len(os.listdir("/proc/self/fd"))
            for num_free in range(10):
                with files_left(num_free):
                    answer = await client.post(URL, json={"messages": HELLO})
                assert answer.status_code == 503
                assert answer.json()["error"]["code"] == "server_is_overloaded"
                assert int(answer.headers["retry-after"]) > 0
            assert len(os.listdir("/proc/self/fd")) <= num_open
            assert (await client.post(URL, json={"messages": HELLO})).status_code == 200

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(ask())
    assert "Too many open files" in caplog.text
    assert "Traceback" not in caplog.text


@contextmanager
def files_left(num_free: int) -> Iterator[None]:
    """So many more can be opened. What is open stays so."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    are_open = {int(name) for name in os.listdir("/proc/self/fd")}
    unused = (number for number in count() if number not in are_open)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next(islice(unused, num_free, None)), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(100):
        if condition():
            return
        await asyncio.sleep(0.1)
    raise AssertionError("it does not come")
