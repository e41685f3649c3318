"""The process that renders a template, when it is not ours any more: a sandbox has had holes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from engine_children import is_alive
from test_chat_templates import HELLO, URL, serving, tokenizer_with

from server.chat import template as template_module
from server.chat.template import ChatTemplates
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
            await templates.apply(HELLO_BODY, tokenizer)
        assert raised.value.status == 400
    run_instead("""print('{"prompt": "Hello", "turn_end": ""}')""")
    assert (await templates.apply(HELLO_BODY, tokenizer)).prompt == "Hello"


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


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(100):
        if condition():
            return
        await asyncio.sleep(0.1)
    raise AssertionError("it does not come")
