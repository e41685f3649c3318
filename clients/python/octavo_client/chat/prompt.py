"""A conversation as a prompt. The server does it, which has the model's chat template.

`POST /apply-template` is llama.cpp's name for it, and Octavo's; vLLM does it with `POST /tokenize`.
No template is ever rendered here: it is a program that came with somebody's model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from octavo_client._calls import Call
from octavo_client._client import Client
from octavo_client._errors import APIError, APIStatusError
from octavo_client._types import BaseResult
from octavo_client._wire import Result

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
    """Asks the server of `client`, as often as it asks for anything."""

    def __init__(self, client: Client) -> None:
        self._transport = client._transport

    def make(self, model: str, messages: Sequence[dict[str, str]]) -> ChatPrompt:
        """The prompt that asks for the next answer. Raises APIError."""
        body = {"model": model, "messages": messages, "add_generation_prompt": True}
        try:
            applied = self._post("/apply-template", _Applied, body)
            return ChatPrompt(applied.prompt, tuple(applied.stop_token_ids))
        except APIStatusError as error:
            if not _has_no_such_path(error, model):
                raise
        try:
            return ChatPrompt(self._post("/tokenize", _Tokenized, body).tokens)  # vLLM
        except APIStatusError as error:
            if not _has_no_such_path(error, model):
                raise
        raise APIError(
            f"{self._transport.config.root_url} cannot make a prompt of a conversation: it has "
            "neither /apply-template nor /tokenize. `octavo complete` needs neither."
        )

    def _post(self, path: str, result_type: type[Result], body: Mapping[str, object]) -> Result:
        url = f"{self._transport.config.root_url}{path}"
        return self._transport.send(Call("POST", url, result_type, body)).parse()


def _has_no_such_path(error: APIStatusError, model: str) -> bool:
    """Not the model, which vLLM tells by its words alone."""
    is_about_model = error.code == NO_MODEL or f"`{model}`" in error.message
    return error.status_code in (404, 405) and not is_about_model
