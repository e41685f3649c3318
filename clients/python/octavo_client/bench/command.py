"""`octavo bench serve`: the options of a benchmark, put together into one run."""

from __future__ import annotations

import asyncio
import json
import math
import sys
from datetime import datetime, timezone
from pathlib import Path
from random import Random, SystemRandom

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from octavo_client._config import ClientConfig
from octavo_client.bench.answer import Answer
from octavo_client.bench.datasets import (
    DatasetError,
    Lengths,
    Prompt,
    random_prompts,
    text_prompts,
)
from octavo_client.bench.load import Target, poisson_arrivals, run_load
from octavo_client.bench.metrics import summarize
from octavo_client.bench.report import json_report, print_report
from octavo_client.options import first_model, open_client, server_options

DEFAULT_CONCURRENCY = 16

positive = click.IntRange(min=1)


class PositiveNumber(click.FloatRange):
    """A finite number above 0."""

    def __init__(self) -> None:
        super().__init__(min=0, min_open=True, max=math.inf, max_open=True)


@click.group()
def bench() -> None:
    """Measure a server."""


@bench.command()
@server_options
@click.option(
    "--dataset",
    type=click.Choice(["random", "shared-prefix", "text"]),
    default="random",
    show_default=True,
    help="Random token ids; the same with a common beginning; pieces of a text file.",
)
@click.option(
    "--input-len", type=positive, default=128, show_default=True, help="Tokens; of text, words."
)
@click.option("--output-len", type=positive, default=128, show_default=True, help="Tokens.")
@click.option(
    "--len-spread",
    type=click.FloatRange(0, 1),
    default=0.0,
    help="Draw both lengths from within this share of them, such as 0.2.",
)
@click.option(
    "--prefix-len",
    type=positive,
    default=512,
    show_default=True,
    help="Tokens that all prompts of shared-prefix have in common, besides --input-len.",
)
@click.option(
    "--file", "path", type=click.Path(path_type=Path), help="The text; needed for text only."
)
@click.option(
    "--vocab-size",
    type=click.IntRange(min=2),
    default=32000,
    show_default=True,
    help="Random ids are below it.",
)
@click.option(
    "--max-concurrency",
    type=positive,
    help=f"Requests at a time. Without it: {DEFAULT_CONCURRENCY}, or any number with a rate.",
)
@click.option(
    "--request-rate",
    type=PositiveNumber(),
    help="Requests a second, at random times (Poisson), whether or not the server keeps up.",
)
@click.option("--num-prompts", type=positive, default=64, show_default=True)
@click.option(
    "--num-warmups",
    type=click.IntRange(min=0),
    help="Requests before the measurement, as many at a time. Default: one for each stream, "
    "or one with a rate.",
)
@click.option(
    "--ignore-eos/--no-ignore-eos",
    default=None,
    help="Whether answers go on to their full length. Default: unless the prompts are text.",
)
@click.option("--temperature", type=float, default=0.0, show_default=True)
@click.option(
    "--usage/--no-usage",
    default=True,
    help="Ask the server to count tokens (stream_options.include_usage).",
)
@click.option("--timeout", type=PositiveNumber(), default=600.0, help="Seconds for one answer.")
@click.option(
    "--seed",
    type=int,
    help="Of prompts and times. Used twice on one server, it measures the prefix cache. "
    "Default: a new one each time.",
)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures.")
@click.pass_context
def serve(
    ctx: click.Context,
    url: str | None,
    api_key: str | None,
    model: str | None,
    dataset: str,
    input_len: int,
    output_len: int,
    len_spread: float,
    prefix_len: int,
    path: Path | None,
    vocab_size: int,
    max_concurrency: int | None,
    request_rate: float | None,
    num_prompts: int,
    num_warmups: int | None,
    ignore_eos: bool | None,
    temperature: float,
    usage: bool,
    timeout: float,
    seed: int | None,
    json_path: Path | None,
) -> None:
    """Time a completions server over HTTP, as its clients see it.

    Streams completions and reports the time to the first token (TTFT), between tokens (ITL, TPOT)
    and to the end (E2E), and tokens a second. The exit code is 1 if any request failed.
    """
    if seed is None:
        seed = SystemRandom().randrange(2**31)
    if max_concurrency is None and request_rate is None:
        max_concurrency = DEFAULT_CONCURRENCY
    if num_warmups is None:
        num_warmups = 1 if request_rate is not None else min(max_concurrency or 1, num_prompts)
    if ignore_eos is None:
        ignore_eos = dataset != "text"
    random = Random(seed)
    lengths = Lengths(input_len, len_spread), Lengths(output_len, len_spread)
    # Warm-up prompts come from the same draw and are never asked again: they warm no prefix but
    # the shared one.
    count = num_warmups + num_prompts
    prompts = _prompts(dataset, count, random, lengths, prefix_len, path, vocab_size)
    params: dict[str, object] = {"model": model, "temperature": temperature, "stream": True}
    if usage:
        params["stream_options"] = {"include_usage": True}
    if ignore_eos:
        params["ignore_eos"] = True
    with open_client(url, api_key) as client:
        params["model"] = model = model or first_model(client)
    config = ClientConfig.resolve(url, api_key)
    target = Target(config.base_url, config.headers, params, timeout)
    console = Console()
    rate = "" if request_rate is None else f", {request_rate:g} requests/s"
    streams = "" if max_concurrency is None else f", {max_concurrency} at a time"
    console.print(
        f"{target.base_url}  {model}\n{dataset}, {input_len} in, {output_len} out"
        f"{streams}{rate}, seed {seed}",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    answers, seconds = _run(target, prompts, num_warmups, max_concurrency, request_rate, random)
    summary = summarize(answers, seconds)
    print_report(console, summary)
    if json_path is not None:
        run = {
            "date": date,
            "base_url": target.base_url,
            "model_id": model,
            "dataset": dataset,
            "input_len": input_len,
            "output_len": output_len,
            "len_spread": len_spread,
            "prefix_len": prefix_len if dataset == "shared-prefix" else None,
            "num_prompts": num_prompts,
            "num_warmups": num_warmups,
            "request_rate": request_rate,
            "max_concurrency": max_concurrency,
            "seed": seed,
            "params": params,
        }
        try:
            json_path.write_text(json.dumps(json_report(summary, run), indent=2) + "\n")
        except OSError as error:
            raise click.ClickException(f"cannot write {json_path}: {error.strerror}") from error
    if summary.num_failed:
        ctx.exit(1)


def _prompts(
    dataset: str,
    count: int,
    random: Random,
    lengths: tuple[Lengths, Lengths],
    prefix_len: int,
    path: Path | None,
    vocab_size: int,
) -> list[Prompt]:
    input_len, output_len = lengths
    if (path is not None) != (dataset == "text"):
        raise click.UsageError("--file and --dataset text go together")
    try:
        if path is not None:
            return text_prompts(
                count, random, path=path, input_len=input_len, output_len=output_len
            )
        return random_prompts(
            count,
            random,
            prefix_len=prefix_len if dataset == "shared-prefix" else 0,
            input_len=input_len,
            output_len=output_len,
            vocab_size=vocab_size,
        )
    except DatasetError as error:
        raise click.ClickException(str(error)) from error


def _run(
    target: Target,
    prompts: list[Prompt],
    num_warmups: int,
    max_concurrency: int | None,
    request_rate: float | None,
    random: Random,
) -> tuple[list[Answer], float]:
    """Warm up with the first `num_warmups` prompts and measure with the rest."""
    warmups, prompts = prompts[:num_warmups], prompts[num_warmups:]
    arrivals = None
    if request_rate is not None:
        arrivals = poisson_arrivals(len(prompts), request_rate, random)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        refresh_per_second=2,  # drawing it takes time from the measurement
        disable=not sys.stderr.isatty(),
    ) as progress:
        task = progress.add_task("warming up", total=None)
        if warmups:
            asyncio.run(run_load(target, warmups, max_concurrency=max_concurrency))
        progress.update(task, description="measuring", total=len(prompts))
        return asyncio.run(
            run_load(
                target,
                prompts,
                max_concurrency=max_concurrency,
                arrivals=arrivals,
                on_answer=lambda answer: progress.advance(task),
            )
        )
