"""`octavo complete`: a prompt in, its completion on standard output as it is written.

Everything but the text (statistics, legends, errors) goes to standard error.
"""

from __future__ import annotations

import sys
from typing import Any, BinaryIO

import click

from octavo_client._client import Client
from octavo_client.grouped_help import GroupedCommand, GroupedOption
from octavo_client.options import first_model, open_client, server_options
from octavo_client.parameters import PARAMETERS, PROMPT, body_of, parameter_options
from octavo_client.printers import JsonPrinter, Printer, ProbabilityPrinter, TextPrinter
from octavo_client.stopwatch import Stopwatch

DEFAULT_MAX_TOKENS = 128
MAX_PROMPT_BYTES = 16 << 20  # more than servers take; a pipe may have no end
OUTPUT = "Output"
# What servers cannot stream: they know it at the end only.
_WHOLE = ("best_of", "use_beam_search", "prompt_logprobs")


@click.command(cls=GroupedCommand)
@click.argument("prompt", required=False)
@server_options
@click.option(
    "--file",
    type=click.File("rb"),
    cls=GroupedOption,
    group=PROMPT,
    help="Read the prompt from this file.",
)
@parameter_options(PARAMETERS)
@click.option(
    "--stream/--no-stream",
    default=True,
    cls=GroupedOption,
    group=OUTPUT,
    help="Print the text as it comes (default).",
)
@click.option(
    "--logprobs",
    is_flag=True,
    cls=GroupedOption,
    group=OUTPUT,
    help="Each token by its probability: painted on a terminal, a table elsewhere.",
)
@click.option(
    "--top-logprobs",
    type=int,
    default=3,
    show_default=True,
    cls=GroupedOption,
    group=OUTPUT,
    help="So many alternatives with each.",
)
@click.option(
    "--stats",
    is_flag=True,
    cls=GroupedOption,
    group=OUTPUT,
    help="Time to the first token and tok/s, on stderr.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    cls=GroupedOption,
    group=OUTPUT,
    help="The server's JSON, one object a line.",
)
def complete(
    prompt: str | None,
    url: str | None,
    api_key: str | None,
    model: str | None,
    file: BinaryIO | None,
    stream: bool,
    logprobs: bool,
    top_logprobs: int,
    stats: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Complete PROMPT. Without it, or with -, the prompt is what is piped in, less its last
    newline. At most 128 tokens, if --max-tokens does not say; what else is not given here is the
    server's choice."""
    body: dict[str, object] = {"max_tokens": DEFAULT_MAX_TOKENS, **body_of(given)}
    text = _prompt(prompt, file)
    if logprobs:
        body["logprobs"] = top_logprobs
    # Choices that grow at the same time cannot be read on one screen.
    is_single = body.get("n", 1) == 1
    is_stream = stream and (is_single or as_json) and not any(map(body.get, _WHOLE))
    if is_stream and stats:
        body["stream_options"] = {"include_usage": True}
    printer: Printer = TextPrinter()
    if as_json or logprobs:
        printer = JsonPrinter() if as_json else ProbabilityPrinter()
    with open_client(url, api_key) as client:
        name = model or first_model(client)
        stopwatch = Stopwatch()
        try:
            _run(client, name, text, body, is_stream, printer, stopwatch)
        finally:
            printer.finish()
    if stats:
        click.echo(stopwatch.report(is_stream), err=True)


def _run(
    client: Client,
    model: str,
    prompt: str,
    body: dict[str, object],
    is_stream: bool,
    printer: Printer,
    stopwatch: Stopwatch,
) -> None:
    if not is_stream:
        answer = client.completions.create(model=model, prompt=prompt, extra_body=body)
        stopwatch.see(answer)
        printer.add(answer)
        return
    with client.completions.create(
        model=model, prompt=prompt, stream=True, extra_body=body
    ) as chunks:
        for chunk in chunks:
            stopwatch.see(chunk)
            printer.add(chunk)


def _prompt(argument: str | None, file: BinaryIO | None) -> str:
    if file is not None:
        if argument is not None:
            raise click.UsageError("give PROMPT or --file, not both")
        return _read(file)
    if argument is not None and argument != "-":
        return argument
    if argument is None and sys.stdin.isatty():
        raise click.UsageError("there is no PROMPT: give one, or pipe it in")
    return _read(sys.stdin.buffer)


def _read(file: BinaryIO) -> str:
    content = file.read(MAX_PROMPT_BYTES + 1)
    if len(content) > MAX_PROMPT_BYTES:
        raise click.UsageError(f"the prompt is longer than {MAX_PROMPT_BYTES >> 20} MiB")
    try:
        return content.decode().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise click.UsageError(f"the prompt is not UTF-8: {error}") from error
