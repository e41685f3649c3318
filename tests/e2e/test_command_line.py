"""The command line against a real server with the built-in model; all commands of `docs/cli.md`.

Blocks after `<!-- tested -->` are run as they stand, by a shell whose `octavo` is this tree's.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner
from octavo_client.complete import complete
from octavo_client.parameters import PARAMETERS
from pseudo_terminal import CTRL_C, CTRL_D, ENTER, plain, terminal
from serve_process import ENVIRONMENT, ROOT, octavo_serve

from server.wire.schemas import CompletionRequest

# The documents are run by `make test-slow`: nothing else depends on them.
pytestmark = pytest.mark.slow

PAGE = (ROOT / "docs" / "cli.md").read_text()
OCTAVO = [sys.executable, "-m", "octavo_client"]
PATIENCE_SECONDS = 60


@pytest.fixture(scope="module")
def address(builtin_model: Path) -> Iterator[str]:
    """`builtin_model` has put its model into the cache."""
    with octavo_serve() as address:
        yield address


@pytest.fixture
def environment(address: str, tmp_path: Path) -> dict[str, str]:
    """With the server's address, and an `octavo` to be found by a shell."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "octavo"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m octavo_client "$@"\n')
    script.chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    return {
        **ENVIRONMENT,
        "PATH": path,
        "OCTAVO_BASE_URL": address,
        "TERM": "xterm-256color",
        "XDG_CONFIG_HOME": str(tmp_path),
    }


def run(
    environment: dict[str, str], *arguments: str, piped: str = ""
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*OCTAVO, *arguments],
        cwd=ROOT,
        env=environment,
        input=piped,
        capture_output=True,
        encoding="utf-8",
        timeout=100,
    )


def num_running(address: str) -> int:
    count: int = httpx.get(f"{address}/stats", timeout=30).json()["engine"]["running"]
    return count


def wait_until_idle(address: str) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while num_running(address):
        assert time.monotonic() < end, "the server still works"
        time.sleep(0.05)


def test_every_parameter_of_the_api_is_an_option() -> None:
    """But what the options say otherwise."""
    elsewhere = {"model", "prompt", "stream", "stream_options", "logprobs"}
    names = {parameter.name for parameter in PARAMETERS}
    assert names == set(CompletionRequest.model_fields) - elsewhere
    text = CliRunner().invoke(complete, ["--help"]).stdout
    for parameter in PARAMETERS:
        assert f"{parameter.flags[-1].partition('/')[0]} " in text


def test_the_server_takes_every_option(environment: dict[str, str]) -> None:
    whole = (
        "--max-tokens 4 --min-tokens 1 --stop XX --stop-token-id 5 --ignore-eos "
        "--include-stop-str-in-output --temperature 0.5 --top-p 0.9 --top-k 9 --min-p 0.01 "
        "--seed 1 --presence-penalty 0.1 --frequency-penalty 0.1 --repetition-penalty 1.1 "
        "--logit-bias 5=1 --bad-word no -n 2 --best-of 3 --echo --truncate-prompt-tokens 9 "
        "--truncation-side left --no-add-special-tokens --prompt-logprobs 1 "
        "--no-skip-special-tokens --no-spaces-between-special-tokens --return-token-ids "
        "--return-tokens-as-token-ids --priority 1 --cache-salt s --user u --json --logprobs"
    )
    beams = (
        "--max-tokens 4 -n 2 --beam-search --length-penalty 0.5 --early-stopping never --json "
        "--suffix= "
    )
    few = "--max-tokens 2 --allowed-token-id 33 --allowed-token-id 34 --json --no-stream"
    used = set(re.findall(r"(?<= )--?[a-z-]+", f" {whole} {beams} {few}".replace("--no-", "--")))
    flags = {flag for parameter in PARAMETERS for flag in parameter.flags}
    missing = {flag for flag in flags if not used & set(flag.replace("--no-", "--").split("/"))}
    assert missing == {"--n"}
    for options in (whole, beams, few):
        result = run(environment, "complete", "The sea is", *options.split())
        assert result.returncode == 0, result.stderr
        assert json.loads(result.stdout.splitlines()[0])["choices"]


def test_tokens_by_probability(environment: dict[str, str]) -> None:
    command = ["complete", "The capital of France is", "--temperature", "0", "--max-tokens", "8"]
    text = run(environment, *command).stdout
    table = run(environment, *command, "--logprobs").stdout.splitlines()[1:]
    tokens = [json.loads(line[9:].rpartition('"  ')[0] + '"') for line in table if line]
    with terminal([*OCTAVO, *command, "--logprobs"], environment, cwd=ROOT) as screen:
        assert screen.wait() == 0
    assert plain(screen.written).startswith(text)
    assert "probability:" in screen.written
    assert len(table) == 8
    assert "Paris" in text
    assert tokens


def test_a_conversation(environment: dict[str, str], address: str) -> None:
    command = [*OCTAVO, "chat", "--temperature", "0", "--max-tokens", "40", "--stats"]
    with terminal(command, environment, cwd=ROOT) as screen:
        screen.expect("smollm2-135m-instruct at ")
        screen.expect(">>> ")
        screen.type(f"What is 2 + 3?{ENTER}")
        screen.expect("tok/s")
        screen.expect(">>> ")
        screen.type(f"/show prompt{ENTER}")
        screen.expect("2 \\+ 3\\?<.im_end.>\n<.im_start.>assistant\n\\w")
        screen.expect(">>> ")
        # An answer that would take minutes: stopped, and the server does no more of it.
        screen.type(f"/set ignore_eos on{ENTER}")
        screen.expect(">>> ")
        screen.type(f"/set max_tokens 7000{ENTER}")
        screen.expect(">>> ")
        screen.type(f"Tell me a long story.{ENTER}")
        screen.expect("story\\.\n.*\\w+ \\w+ \\w+")
        assert num_running(address) == 1
        screen.type(CTRL_C)
        screen.expect(r"\(stopped\)")
        wait_until_idle(address)
        screen.expect(">>> ")
        screen.type(f"/set max_tokens 9000{ENTER}")
        screen.expect(">>> ")
        screen.type(f"And then?{ENTER}")
        screen.expect("Error: .*8192 tokens.* /drop forgets the oldest turn")
        screen.expect(">>> ")
        screen.type(CTRL_D)
        assert screen.wait() == 0


def test_an_interrupt_before_the_answer_begins(environment: dict[str, str], address: str) -> None:
    """Nothing has come yet: it is the request that is given up."""
    command = [*OCTAVO, "chat", "--ignore-eos", "--max-tokens", "7000"]
    with terminal(command, environment, cwd=ROOT) as screen:
        screen.expect(">>> ")
        screen.type(f"{'word ' * 900}{ENTER}")
        end = time.monotonic() + PATIENCE_SECONDS
        while not num_running(address) and time.monotonic() < end:
            time.sleep(0.01)
        screen.type(CTRL_C)
        screen.expect(r"\(stopped\)")
        wait_until_idle(address)
        screen.expect(">>> ")
        screen.type(CTRL_D)
        assert screen.wait() == 0


def blocks(mark: str) -> list[str]:
    return re.findall(rf"<!-- {mark} -->\n```sh\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("block", blocks("tested"))
def test_the_page_can_be_typed(environment: dict[str, str], block: str) -> None:
    result = subprocess.run(
        ["sh", "-e", "-c", block],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=110,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout
    assert "Traceback" not in result.stderr


def test_the_table_of_the_page(environment: dict[str, str]) -> None:
    """The same form and beginning; numbers depend on the machine's number type."""
    (block,) = blocks("tested, with its answer")
    result = subprocess.run(
        ["sh", "-c", block], cwd=ROOT, env=environment, capture_output=True, encoding="utf-8"
    )
    shown = PAGE.partition(block)[2].partition("```text\n")[2].partition("```")[0]

    def tokens(table: str) -> list[str]:
        rows = [line for line in table.splitlines() if "perplexity" not in line]
        assert len(rows) == 9
        return [line[9:31].strip() for line in rows[:3]]

    assert tokens(shown) == tokens(result.stdout)


def test_commands_and_words_of_the_page_are_real(environment: dict[str, str]) -> None:
    listed = set(re.findall(r"^octavo ([a-z]+) ", PAGE, re.MULTILINE))
    known = set(re.findall(r"^  ([a-z]+) ", run(environment, "--help").stdout, re.MULTILINE))
    assert listed == known
    helps = "".join(run(environment, name, "--help").stdout for name in sorted(known - {"bench"}))
    options = set(re.findall(r"`(?:octavo \w+ )?(--[a-z-]+)", PAGE))
    assert len(options) > 10
    assert options <= set(re.findall(r"--[a-z-]+", helps))
    words = run(environment, "chat", piped="/help\n").stderr
    for word in re.findall(r"`(/[a-z]+)(?:[` ])", PAGE):
        assert word in words
