"""The command `octavo`, run as a process of its own, with made-up distributions beside it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

CLIENT = Path(__file__).parent.parent.parent / "clients" / "python"

GREET = """
import sys
import click

@click.command()
@click.option("--name", default="you")
def greet(name):
    "Say hello."
    print("hello", name)

print("loaded", file=sys.stderr)
"""


def octavo(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(site), str(CLIENT)])
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "octavo_client", *arguments],
        cwd=site,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )


def install(site: Path, name: str, commands: dict[str, str]) -> None:
    """The metadata of a distribution with these entry points, as an installer leaves it."""
    info = site / f"{name.replace('-', '_')}-9.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.9\n")
    lines = [f"{command} = {target}" for command, target in commands.items()]
    (info / "entry_points.txt").write_text("\n".join(["[octavo.commands]", *lines]))


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder of made-up installed distributions, in front of the real ones."""
    (tmp_path / "greeter.py").write_text(GREET)
    install(tmp_path, "octavo-client", {})
    install(
        tmp_path,
        "octavo-greeter",
        {
            "greet": "greeter:greet",
            "gone": "no_such_module:command",
            "missing": "greeter:nothing",
            "number": "greeter:__name__",
        },
    )
    return tmp_path


def test_version(site: Path) -> None:
    assert octavo(site, "--version").stdout == "octavo, version 9.9\n"


def test_help_lists_commands_without_loading_them(site: Path) -> None:
    run = octavo(site, "--help")
    assert run.returncode == 0
    assert "greet" in run.stdout
    assert "Comes from octavo-greeter." in run.stdout
    imported = {line.rpartition("|")[2].strip() for line in run.stderr.splitlines()}
    assert "click" in imported
    # None of the commands, and not what makes the client slow to import.
    assert not imported & {"greeter", "server", "engine", "fastapi", "torch", "numpy"}
    assert not imported & {"httpx", "pydantic", "rich", "octavo_client.complete"}
    assert re.search(r"complete +Complete a prompt\.", run.stdout)


def test_help_has_groups(site: Path) -> None:
    text = octavo(site, "--help").stdout
    headings = [line for line in text.splitlines() if line.endswith(":") and line[:1] != " "]
    # The client may be installed alone.
    has_server = any(found.name == "serve" for found in entry_points(group="octavo.commands"))
    server = ["Run a server:"] if has_server else []
    assert headings == [
        *("Options:", "Talk to a server:", *server, "This command:", "Further commands:")
    ]
    assert text.index("Talk to") < text.index("  chat ") < text.index("This comm")
    assert text.index("Further") < text.index("greet")
    options = octavo(site, "complete", "--help").stdout
    for heading in ("Server:", "Prompt:", "Length and end:", "Sampling:", "Output:", "Options:"):
        assert f"\n{heading}\n" in options
    assert options.count("--temperature") == 1


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion(site: Path, shell: str) -> None:
    script = octavo(site, "completion", shell).stdout
    assert "_OCTAVO_COMPLETE" in script
    assert "octavo" in script


def test_what_a_shell_is_told(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As bash asks; without loading any command before it is named."""
    monkeypatch.setenv("_OCTAVO_COMPLETE", "bash_complete")

    def told(*words: str) -> set[str]:
        monkeypatch.setenv("COMP_WORDS", " ".join(["octavo", *words]))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        run = octavo(site)
        assert ("loaded" in run.stderr) == (words[0] in ("greet", "missing"))
        assert "Traceback" not in run.stderr
        return {line.partition(",")[2] for line in run.stdout.splitlines()}

    assert told("com") == {"complete", "completion"}
    assert told("gre") == {"greet"}
    assert {"--version", "--help"} <= told("--")
    assert told("greet", "--na") == {"--name"}
    assert told("complete", "--top-p") == {"--top-p"}
    for wrong in ("gone", "missing", "nonsense"):
        assert "--name" not in told(wrong, "--")  # and nothing of what is wrong, see above


def test_a_command_is_loaded_when_asked_for(site: Path) -> None:
    run = octavo(site, "greet", "--name", "octavo")
    assert run.stdout == "hello octavo\n"
    assert "loaded" in run.stderr


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("gone", "no_such_module"),
        ("missing", "nothing"),
        ("number", "is not a command"),
        ("nonsense", "No such command 'nonsense'.\n"),
        ("gret", "No such command 'gret'. Did you mean 'greet'?\n"),
        ("srve", "No such command 'srve'. Did you mean 'serve'?\n"),  # installed or not
    ],
)
def test_commands_that_cannot_be_had(site: Path, command: str, words: str) -> None:
    run = octavo(site, command)
    assert run.returncode == 2
    assert words in run.stderr
    assert "Traceback" not in run.stderr


def test_a_server_command_without_the_server(tmp_path: Path) -> None:
    code = (
        "import octavo_client.cli as cli\n"
        "cli.entry_points = lambda group: []\n"
        "cli.main(['serve'], prog_name='octavo')"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(CLIENT)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2
    assert "a command of the server, which is not installed here" in run.stderr
