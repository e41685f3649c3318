"""One answer of the model: asked for as a completion, handed on as it is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from octavo_client._client import Client
from octavo_client.chat.prompt import ChatPrompt
from octavo_client.stopwatch import Stopwatch


class Answer:
    """The text so far; it is there too when the stream was cut short."""

    def __init__(self, on_text: Callable[[str], None]) -> None:
        self._on_text = on_text
        self.text = ""
        self.finish_reason: str | None = None

    def stream(
        self,
        client: Client,
        model: str,
        prompt: ChatPrompt,
        parameters: Mapping[str, object],
        stopwatch: Stopwatch,
    ) -> None:
        """Take in the whole answer. Raises APIError.

        Whatever ends this early, a KeyboardInterrupt too, closes the stream: the server stops.
        """
        body = {**parameters, "stream_options": {"include_usage": True}}
        if prompt.stop_token_ids and not parameters.get("ignore_eos"):
            wanted = parameters.get("stop_token_ids")
            token_ids = [*(wanted if isinstance(wanted, list) else ()), *prompt.stop_token_ids]
            body["stop_token_ids"] = list(dict.fromkeys(token_ids))
        with client.completions.create(
            model=model, prompt=prompt.prompt, stream=True, extra_body=body
        ) as chunks:
            for chunk in chunks:
                stopwatch.see(chunk)
                for choice in chunk.choices:
                    self.finish_reason = choice.finish_reason or self.finish_reason
                    # Models begin an answer with the space or line that their template left out.
                    text = choice.text if self.text else choice.text.lstrip()
                    if text:
                        self.text += text
                        self._on_text(text)
