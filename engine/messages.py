"""What the API process and the engine process say to each other, as msgspec types (no pickle).

Frames are a 4-byte little-endian length and a MessagePack body. One `Step` carries the outputs of
all requests of one engine step. The types of `request.py` and `info.py` travel inside as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec

from engine.config import EngineConfig
from engine.info import EngineInfo
from engine.request import ChoiceOutput, Request
from engine.stats import EngineStats

# API process -> engine process


class Init(msgspec.Struct, tag=True, frozen=True):
    """The first message: what engine to be."""

    config: EngineConfig


class Add(msgspec.Struct, tag=True, frozen=True):
    """A request, and `others` that differ from it in id and prompt alone: what they have in common
    may be large, such as all tokens that are allowed, and they may be a thousand."""

    request: Request
    others: list[tuple[str, list[int]]] = []

    @classmethod
    def alike(cls, requests: Sequence[Request]) -> Add:
        """For requests that `are_alike`."""
        first, *others = requests
        return cls(first, [(other.request_id, other.prompt_token_ids) for other in others])

    @property
    def requests(self) -> list[Request]:
        """All of them, with one object for what they have in common."""
        return [
            self.request,
            *(
                replace(self.request, request_id=request_id, prompt_token_ids=token_ids)
                for request_id, token_ids in self.others
            ),
        ]


def are_alike(request: Request, other: Request) -> bool:
    """Whether one message says what both have in common. Of sampling parameters it must be one
    object: to compare large ones would take long."""
    alike = replace(other, request_id=request.request_id, prompt_token_ids=request.prompt_token_ids)
    return request.sampling is other.sampling and request == alike


class Abort(msgspec.Struct, tag=True, frozen=True):
    """End a request, or one choice of it. Unknown and finished ones are ignored."""

    request_id: str
    index: int | None = None


class GetStats(msgspec.Struct, tag=True, frozen=True):
    pass


class Ping(msgspec.Struct, tag=True, frozen=True):
    """Asks for a Pong between two steps: whether steps come to an end."""


# engine process -> API process


class Loading(msgspec.Struct, tag=True, frozen=True):
    """Progress of the start: a phase in words and the share of it that is done, 0 to 1."""

    phase: str
    fraction: float


class Ready(msgspec.Struct, tag=True, frozen=True):
    info: EngineInfo


class Step(msgspec.Struct, tag=True, frozen=True):
    outputs: list[ChoiceOutput]


class Started(msgspec.Struct, tag=True, frozen=True):
    """The next step is the first one with these requests. It may not survive that step."""

    request_ids: list[str]


class Pong(msgspec.Struct, tag=True, frozen=True):
    pass


class Stats(msgspec.Struct, tag=True, frozen=True):
    stats: EngineStats


class Fatal(msgspec.Struct, tag=True, frozen=True):
    """The engine cannot start or go on. `message` is one line for the user."""

    message: str


ToEngine = Init | Add | Abort | GetStats | Ping
FromEngine = Loading | Ready | Started | Step | Stats | Pong | Fatal
