"""The model's chat template: a list of messages in, a prompt out.

Each rendering is a process of its own (`render.py`), because nothing inside of a process bounds
what a template may take. A few at a time, and a bounded queue. Takes no template from requests.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import cast

from pydantic import BaseModel

from server.fair_slots import FairSlots
from server.logs import one_line
from server.tenants import Tenant
from server.tokenizer import Tokenizer
from server.wire.chat import ApplyTemplateRequest, ApplyTemplateResponse
from server.wire.errors import ApiError, bad_request, unavailable
from server.wire.limits import (
    MAX_BODY_BYTES,
    MAX_ECHOED_CHARACTERS,
    MAX_RENDERINGS,
    MAX_RENDERINGS_WAITING,
    RENDERING_SECONDS,
)

logger = logging.getLogger(__name__)

_RENDER = Path(__file__).with_name("render.py")
# A character takes up to six times its bytes in JSON's escapes; the rest is for what is around it.
_MAX_ANSWER_BYTES = 6 * MAX_BODY_BYTES + (64 << 10)
_PIECE_BYTES = 64 << 10
_MAX_FILES = 16  # of ours, for the pipes to a process that starts; seven, or nine with uvloop


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
        self._slots = FairSlots(MAX_RENDERINGS, MAX_RENDERINGS_WAITING)

    async def apply(
        self, body: ApplyTemplateRequest, tokenizer: Tokenizer, tenant: Tenant
    ) -> ApplyTemplateResponse:
        """The conversation as a prompt. Raises ApiError 400 where there is no template, where it
        fails or refuses these messages, and 503 when too many wait already or the system has no
        process to give."""
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
        await self._slots.take(tenant.name)
        try:
            answer = await self._render(json.dumps(job).encode())
        finally:
            self._slots.free()
        if answer.refused is not None:
            words = one_line(answer.refused)[:MAX_ECHOED_CHARACTERS]
            raise _no_prompt(f"The model's chat template refuses these messages: {words}")
        if answer.failed is not None:
            raise _failed(one_line(answer.failed)[:MAX_ECHOED_CHARACTERS])
        return ApplyTemplateResponse(
            prompt=answer.prompt, stop_token_ids=_end_ids(tokenizer, answer.turn_end)
        )

    async def _render(self, job: bytes) -> _Answer:
        process = await _start()
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


async def _start() -> asyncio.subprocess.Process:
    """Raises ApiError 503 when there are no processes, descriptors or memory left."""
    try:
        _check_files()
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", str(_RENDER)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            # Where modules are, and nothing else of ours: a sandbox has had holes before.
            env={"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,  # Ctrl+C is for the server
        )
    except OSError as error:
        logger.warning("no process for the chat template could be started: %s", error)
        raise unavailable(
            "The server has no process for the chat template to spare. Try again in a moment.",
            "server_is_overloaded",
        ) from None


def _check_files() -> None:
    """Raises OSError. uvloop that runs out of descriptors half way keeps those it got for ever."""
    with ExitStack() as files:
        for _ in range(_MAX_FILES):
            files.enter_context(open(os.devnull, "rb"))


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
