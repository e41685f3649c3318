"""The model's chat template: a list of messages in, a prompt out.

Each rendering is a process of its own (`render.py`), because nothing inside of a process bounds
what a template may take. A few at a time, and a bounded queue. Takes no template from requests.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import cast

from pydantic import BaseModel

from server.logs import one_line
from server.tokenizer import Tokenizer
from server.wire.chat import ApplyTemplateRequest, ApplyTemplateResponse
from server.wire.errors import ApiError, bad_request, overloaded
from server.wire.limits import (
    MAX_BODY_BYTES,
    MAX_ECHOED_CHARACTERS,
    MAX_RENDERINGS,
    MAX_RENDERINGS_WAITING,
    RENDERING_SECONDS,
)

_RENDER = Path(__file__).with_name("render.py")
# A character takes up to six times its bytes in JSON's escapes; the rest is for what is around it.
_MAX_ANSWER_BYTES = 6 * MAX_BODY_BYTES + (64 << 10)
_PIECE_BYTES = 64 << 10


class _Answer(BaseModel):
    """What `render.py` says: a prompt, or why there is none."""

    prompt: str = ""
    turn_end: str = ""
    refused: str | None = None
    failed: str | None = None


class ChatTemplates:
    """Renders; how many do so at a time is its one state."""

    def __init__(self, seconds: float = RENDERING_SECONDS) -> None:
        self._seconds = seconds
        self._turns = asyncio.Semaphore(MAX_RENDERINGS)
        self._num_open = 0

    async def apply(
        self, body: ApplyTemplateRequest, tokenizer: Tokenizer
    ) -> ApplyTemplateResponse:
        """The conversation as a prompt. Raises ApiError 400 where there is no template, where it
        fails or refuses these messages, and 503 when too many wait already."""
        description = tokenizer.description
        if description.chat_template is None:
            raise _no_prompt("The model has no chat template.", "no_chat_template")
        job = {
            "template": description.chat_template,
            "messages": [message.model_dump() for message in body.messages],
            "add_generation_prompt": body.add_generation_prompt,
            "variables": {
                "bos_token": description.bos_token or "",
                "eos_token": description.eos_token or "",
                "pad_token": description.pad_token or "",
                "unk_token": description.unk_token or "",
                "tools": None,
                "documents": None,
            },
            "max_bytes": MAX_BODY_BYTES,
        }
        answer = await self._run(job)
        if answer.refused is not None:
            words = one_line(answer.refused)[:MAX_ECHOED_CHARACTERS]
            raise _no_prompt(f"The model's chat template refuses these messages: {words}")
        if answer.failed is not None:
            raise _failed(one_line(answer.failed)[:MAX_ECHOED_CHARACTERS])
        return ApplyTemplateResponse(
            prompt=answer.prompt, stop_token_ids=_end_ids(tokenizer, answer.turn_end)
        )

    async def _run(self, job: dict[str, object]) -> _Answer:
        if self._num_open >= MAX_RENDERINGS + MAX_RENDERINGS_WAITING:
            raise overloaded()
        self._num_open += 1
        try:
            async with self._turns:
                return await self._render(json.dumps(job).encode())
        finally:
            self._num_open -= 1

    async def _render(self, job: bytes) -> _Answer:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", str(_RENDER)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            # Where modules are, and nothing else of ours: a sandbox has had holes before.
            env={"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,  # Ctrl+C is for the server
        )
        stdout = cast(asyncio.StreamReader, process.stdout)
        output = bytearray()
        try:
            async with asyncio.timeout(self._seconds):
                await _give(job, cast(asyncio.StreamWriter, process.stdin))
                while len(output) <= _MAX_ANSWER_BYTES and (
                    piece := await stdout.read(_PIECE_BYTES)
                ):
                    output += piece
        except TimeoutError:
            raise _failed("it takes too long") from None
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            # wait() waits for the end of what it wrote, which a reader that is paused never sees.
            while await stdout.read(_PIECE_BYTES):
                pass
            await process.wait()
        try:
            return _Answer.model_validate_json(output)
        except ValueError:  # ended in the middle of its work
            raise _failed("it takes too long or too much memory, or ends its process") from None


async def _give(job: bytes, stdin: asyncio.StreamWriter) -> None:
    stdin.write(job)
    with suppress(BrokenPipeError, ConnectionResetError):  # it has ended already
        await stdin.drain()
    stdin.close()


def _end_ids(tokenizer: Tokenizer, turn_end: str) -> list[int]:
    """The special token that an answer ends with, if it does; text ends no answer."""
    token_ids = tokenizer.encode(turn_end.lstrip(), add_special_tokens=False)[:1]
    return [] if tokenizer.decode(token_ids) else token_ids


def _failed(why: str) -> ApiError:
    return _no_prompt(f"The model's chat template cannot be rendered: {why}.")


def _no_prompt(message: str, code: str = "chat_template_failed") -> ApiError:
    return bad_request("messages", code, message)
