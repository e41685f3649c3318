"""What each call of the API is in HTTP: method, URL, body, and what comes back.

The sync and the async client send the same calls. Does no input or output.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Generic, cast
from urllib.parse import quote

import httpx

from octavo_client._config import ClientConfig
from octavo_client._errors import APIError
from octavo_client._types import (
    CallOptions,
    Completion,
    CreateParams,
    Detokenization,
    Health,
    ManyParams,
    Model,
    ModelList,
    Prompt,
    Tokenization,
)
from octavo_client._wire import Result, parse


@dataclass(frozen=True)
class Call(Generic[Result]):
    """One call. `max_retries` is None where the client's own holds."""

    method: str
    url: str
    result_type: type[Result]
    body: Mapping[str, object] | None = None
    options: CallOptions = field(default_factory=CallOptions)
    max_retries: int | None = None

    def parse(self, response: httpx.Response) -> Result:
        return parse(response, self.result_type)

    def retries(self, config: ClientConfig) -> int:
        return config.max_retries if self.max_retries is None else self.max_retries

    def request(
        self, http: httpx.Client | httpx.AsyncClient, config: ClientConfig
    ) -> httpx.Request:
        """It as `http` sends it, with what `config` puts around every request.

        Raises APIError for what cannot be written: half a character, a number without end.
        """
        extra_body = self.options.get("extra_body")
        body = {**self.body, **(extra_body or {})} if self.body is not None else extra_body
        headers = httpx.Headers(config.headers)
        headers.update(self.options.get("extra_headers") or {})
        query = {**config.default_query, **(self.options.get("extra_query") or {})}
        timeout = self.options.get("timeout", config.timeout)
        try:
            return http.build_request(
                self.method,
                httpx.URL(self.url).copy_merge_params(query) if query else self.url,
                json=body,
                headers=headers,
                timeout=timeout,
            )
        except ValueError as error:
            raise APIError(f"the request cannot be sent: {error}") from error


def completion_call(config: ClientConfig, params: CreateParams, stream: bool) -> Call[Completion]:
    """POST /v1/completions."""
    check_names("completions.create", params, CreateParams.__annotations__)
    for name in ("model", "prompt"):
        if name not in params:
            raise TypeError(f"completions.create() needs {name!r}")
    options, fields = _split(params)
    return Call(
        "POST",
        f"{config.base_url}/completions",
        Completion,
        {**fields, "stream": stream},
        options,
    )


def tokenize_call(
    config: ClientConfig,
    prompt: str,
    model: str | None,
    add_special_tokens: bool,
    return_token_strs: bool,
    options: CallOptions,
) -> Call[Tokenization]:
    """POST /tokenize, in vLLM's form."""
    body: dict[str, object] = {
        "prompt": prompt,
        "add_special_tokens": add_special_tokens,
        "return_token_strs": return_token_strs,
    }
    return _root_call(config, "tokenize", Tokenization, body, model, options)


def detokenize_call(
    config: ClientConfig, tokens: Sequence[int], model: str | None, options: CallOptions
) -> Call[Detokenization]:
    """POST /detokenize, in vLLM's form."""
    body: dict[str, object] = {"tokens": list(tokens)}
    return _root_call(config, "detokenize", Detokenization, body, model, options)


def health_call(config: ClientConfig, options: CallOptions) -> Call[Health]:
    """GET /health, once: who asks whether the server is there wants to hear that it is not."""
    check_names("health", options, CallOptions.__annotations__)
    url = f"{config.root_url}/health"
    return Call("GET", url, Health, options=options, max_retries=0)


def models_call(config: ClientConfig, options: CallOptions) -> Call[ModelList]:
    """GET /v1/models."""
    check_names("models.list", options, CallOptions.__annotations__)
    return Call("GET", f"{config.base_url}/models", ModelList, options=options)


def model_call(config: ClientConfig, model: str, options: CallOptions) -> Call[Model]:
    """GET /v1/models/{model}. The slash of a name stays one, as servers take it."""
    check_names("models.retrieve", options, CallOptions.__annotations__)
    if not model:
        raise ValueError("models.retrieve() needs the name of a model")
    return Call("GET", f"{config.base_url}/models/{quote(model)}", Model, options=options)


def streaming(params: CreateParams) -> CreateParams:
    """The same for `completions.stream`, which has the server count its tokens as it goes."""
    if "stream_options" in params:
        return params
    return {**params, "stream_options": {"include_usage": True}}


def each_of_many(prompts: Iterable[Prompt], params: ManyParams) -> list[CreateParams]:
    """The parameters of one completion for each prompt; `TypeError` for what is not prompts."""
    check_names("completions.create_many", params, ManyParams.__annotations__)
    if "model" not in params:
        raise TypeError("completions.create_many() needs 'model'")
    if isinstance(prompts, str):
        raise TypeError("completions.create_many() wants a list of prompts, not one text")
    requests: list[CreateParams] = []
    for prompt in prompts:
        if not isinstance(prompt, str | Sequence):
            raise TypeError(f"a prompt is a text or a list of token ids, not {prompt!r}")
        requests.append({**params, "prompt": prompt})
    return requests


def check_names(call: str, given: Mapping[str, object], known: Iterable[str]) -> None:
    """`TypeError` for a parameter without a name here, which some servers would not look at."""
    known = list(known)
    for name in given:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise TypeError(
                f"{call}() has no parameter {name!r}; {hint}"
                "what this client has no name for goes into extra_body"
            )


def _root_call(
    config: ClientConfig,
    path: str,
    result_type: type[Result],
    body: dict[str, object],
    model: str | None,
    options: CallOptions,
) -> Call[Result]:
    check_names(path, options, CallOptions.__annotations__)
    if model is not None:
        body["model"] = model
    return Call("POST", f"{config.root_url}/{path}", result_type, body, options)


def _split(params: CreateParams) -> tuple[CallOptions, dict[str, object]]:
    """What goes around the call, and what goes into its body."""
    around = CallOptions.__annotations__
    options = {name: value for name, value in params.items() if name in around}
    fields = {name: value for name, value in params.items() if name not in around}
    return cast(CallOptions, options), fields
