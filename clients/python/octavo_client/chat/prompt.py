"""A conversation as a prompt. The server does it, which has the model's chat template.

`POST /apply-template` is llama.cpp's name for it, and Octavo's; vLLM does it with `POST /tokenize`.
No template is ever rendered here: it is a program that came with somebody's model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from octavo_client._config import ClientConfig
from octavo_client._envelope import status_error, transport_error
from octavo_client._errors import APIError
from octavo_client._types import BaseResult
from octavo_client._wire import parse

NO_MODEL = "model_not_found"


@dataclass(frozen=True)
class ChatPrompt:
    """A prompt, text or token ids, and the tokens that end the answer besides the model's own."""

    prompt: str | list[int]
    stop_token_ids: Sequence[int] = ()


class _Applied(BaseResult):
    prompt: str
    stop_token_ids: list[int] = []


class _Tokenized(BaseResult):
    tokens: list[int]


class ChatPrompts:
    """Asks the server of `config` over `http`, which stays the caller's."""

    def __init__(self, http: httpx.Client, config: ClientConfig) -> None:
        self._http = http
        self._config = config

    def make(self, model: str, messages: Sequence[dict[str, str]]) -> ChatPrompt:
        """The prompt that asks for the next answer. Raises APIError."""
        body = {"model": model, "messages": messages, "add_generation_prompt": True}
        response = self._post("/apply-template", body)
        if response.status_code in (404, 405) and status_error(response).code != NO_MODEL:
            response = self._post("/tokenize", body)  # vLLM
            if response.status_code in (404, 405) and status_error(response).code != NO_MODEL:
                raise APIError(
                    f"{self._config.root_url} cannot make a prompt of a conversation: it has "
                    "neither /apply-template nor /tokenize. `octavo complete` needs neither."
                )
            return ChatPrompt(parse(response, _Tokenized).tokens)
        applied = parse(response, _Applied)
        return ChatPrompt(applied.prompt, tuple(applied.stop_token_ids))

    def _post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        request = self._http.build_request(
            "POST",
            f"{self._config.root_url}{path}",
            json=body,
            headers=self._config.headers,
            timeout=self._config.timeout,
        )
        try:
            return self._http.send(request)
        except httpx.RequestError as error:
            raise transport_error(error, request) from error
