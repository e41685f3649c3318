"""`octavo complete`: a prompt in, its completion on standard output as it is written.

Everything but the text (statistics, errors) goes to standard error.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import click

from octavo_client._client import Client
from octavo_client._types import Completion, CompletionParams, Usage
from octavo_client.options import first_model, open_client, server_options


@dataclass
class Stopwatch:
    """When the answer began and ended, in seconds since the request; tokens as the server says."""

    started: float
    first: float | None = None
    ended: float = 0.0
    usage: Usage | None = None

    def see(self, part: Completion) -> None:
        """Take note of an answer or of a chunk that has just come."""
        self.ended = time.perf_counter() - self.started
        if part.choices and self.first is None:
            self.first = self.ended
        self.usage = part.usage or self.usage

    def report(self, is_stream: bool) -> str:
        parts = []
        if is_stream and self.first is not None:
            parts.append(f"first token after {self.first:.3f} s")
        total = f"{self.ended:.3f} s in all"
        if self.usage is not None:
            num_tokens = self.usage.completion_tokens
            parts.append(f"{self.usage.prompt_tokens} tokens in, {num_tokens} out")
            if is_stream and self.first is not None and num_tokens > 1:
                rate = (num_tokens - 1) / max(self.ended - self.first, 1e-9)
                total += f", {rate:.1f} tok/s after the first"
            else:
                total += f", {num_tokens / max(self.ended, 1e-9):.1f} tok/s"
        return "; ".join([*parts, total])


@click.command()
@click.argument("prompt", required=False)
@server_options
@click.option("--max-tokens", type=int, default=128, show_default=True)
@click.option("--temperature", type=float, help="0 takes the likeliest token each time.")
@click.option("--top-p", type=float)
@click.option("--seed", type=int, help="The same seed gives the same text.")
@click.option("--stop", multiple=True, metavar="TEXT", help="Ends the text; up to 16 of them.")
@click.option("-n", "num_choices", type=int, default=1, help="Several completions, when whole.")
@click.option("--stream/--no-stream", default=True, help="Print the text as it comes (default).")
@click.option("--stats", is_flag=True, help="Time to the first token and tok/s, on stderr.")
@click.option("--json", "as_json", is_flag=True, help="The server's JSON, one object a line.")
def complete(
    prompt: str | None,
    url: str | None,
    api_key: str | None,
    model: str | None,
    max_tokens: int,
    temperature: float | None,
    top_p: float | None,
    seed: int | None,
    stop: tuple[str, ...],
    num_choices: int,
    stream: bool,
    stats: bool,
    as_json: bool,
) -> None:
    """Complete PROMPT. Without it, or with -, the prompt is what is piped in, less its last
    newline."""
    params: CompletionParams = {
        "model": model or "",
        "prompt": _prompt(prompt),
        "max_tokens": max_tokens,
        "n": num_choices,
    }
    if temperature is not None:
        params["temperature"] = temperature
    if top_p is not None:
        params["top_p"] = top_p
    if seed is not None:
        params["seed"] = seed
    if stop:
        params["stop"] = list(stop)
    # Choices that grow at the same time cannot be read on one screen.
    is_stream = stream and (num_choices == 1 or as_json)
    if is_stream and stats:
        params["stream_options"] = {"include_usage": True}
    with open_client(url, api_key) as client:
        params["model"] = model or first_model(client)
        stopwatch = Stopwatch(time.perf_counter())
        if is_stream:
            _print_stream(client, params, stopwatch, as_json)
        else:
            _print_whole(client, params, stopwatch, as_json)
    if stats:
        click.echo(stopwatch.report(is_stream), err=True)


def _prompt(argument: str | None) -> str:
    if argument is not None and argument != "-":
        return argument
    if argument is None and sys.stdin.isatty():
        raise click.UsageError("there is no PROMPT: give one, or pipe it in")
    try:
        return sys.stdin.buffer.read().decode().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise click.UsageError(f"the prompt is not UTF-8: {error}") from error


def _print_stream(
    client: Client, params: CompletionParams, stopwatch: Stopwatch, as_json: bool
) -> None:
    ends_line = True
    try:
        with client.completions.create(**params, stream=True) as chunks:
            for chunk in chunks:
                stopwatch.see(chunk)
                if as_json:
                    click.echo(chunk.model_dump_json(exclude_unset=True))
                    continue
                for choice in chunk.choices:
                    if choice.text:  # noted first: an interrupt may come right after the write
                        ends_line = choice.text.endswith("\n")
                    click.echo(choice.text, nl=False)
    finally:
        if not ends_line:
            click.echo()  # also before an error's line, which must not be glued to the text


def _print_whole(
    client: Client, params: CompletionParams, stopwatch: Stopwatch, as_json: bool
) -> None:
    answer = client.completions.create(**params)
    stopwatch.see(answer)
    if as_json:
        click.echo(answer.model_dump_json(exclude_unset=True))
        return
    for choice in answer.choices:
        if len(answer.choices) > 1:
            click.echo(f"--- {choice.index + 1} of {len(answer.choices)} ---")
        click.echo(choice.text, nl=not choice.text.endswith("\n"))
