"""The client in an environment of its own: installs without the server's world, and works there."""

from __future__ import annotations

import os
import subprocess
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
from serve_process import ROOT, octavo_serve

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ABSENT = ["torch", "fastapi", "numpy", "uvicorn", "tiktoken", "server", "engine"]
# Nothing of this environment's may leak into the other one.
CLEAN = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that holds the client and what tests need."""
    folder = tmp_path_factory.mktemp("client") / "venv"
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    tools = [
        "pytest>=9,<10",
        "pytest-asyncio>=1.3,<2",
        "pytest-timeout>=2.4,<3",
        "hypothesis>=6.150,<7",
    ]
    command = [python, "-m", "pip", "install", "-q", ROOT / "clients" / "python", *tools]
    subprocess.run(command, check=True, env=CLEAN, cwd=folder)
    return python


@pytest.fixture(scope="module")
def address(builtin_model: Path) -> Iterator[str]:
    with octavo_serve() as address:
        yield address


def test_it_brings_nothing_of_the_server(python: Path, tmp_path: Path) -> None:
    script = "import importlib.util as u, sys; print([n for n in sys.argv[1:] if u.find_spec(n)])"
    command = [python, "-c", script, *ABSENT]
    result = subprocess.run(command, check=True, capture_output=True, cwd=tmp_path, env=CLEAN)
    assert result.stdout.strip() == b"[]"


def test_its_tests_pass_there(python: Path) -> None:
    # The conftest of all tests belongs to the server's world.
    options = ["-q", "-p", "no:cacheprovider", "--confcutdir", "tests/clients"]
    command = [python, "-m", "pytest", *options, "tests/clients"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=CLEAN)
    assert result.returncode == 0, result.stdout[-5000:]


def test_it_talks_to_a_real_server(python: Path, address: str, tmp_path: Path) -> None:
    script = """
import asyncio, sys
from octavo_client import APIError, AsyncClient, Client

url = sys.argv[1]
request = {"model": "smollm2-135m-instruct", "prompt": "The capital of France is"}
with Client(base_url=url) as client:
    client.health()
    assert [model.id for model in client.models.list().data] == ["smollm2-135m-instruct"]
    whole = client.completions.create(**request, max_tokens=8, temperature=0)
    with client.completions.create(**request, max_tokens=8, temperature=0, stream=True) as stream:
        text = "".join(choice.text for chunk in stream for choice in chunk.choices)
    assert text == whole.choices[0].text
    try:
        client.completions.create(model="other", prompt="x")
    except APIError as error:
        assert (error.status_code, error.code) == (404, "model_not_found"), error
    else:
        raise AssertionError("no error")


async def main():
    async with AsyncClient(base_url=url) as client:
        answers = await asyncio.gather(
            *(client.completions.create(**request, max_tokens=8, temperature=0) for _ in range(4))
        )
    return {answer.choices[0].text for answer in answers}


assert asyncio.run(main()) == {text}
print(text)
"""
    command = [python, "-c", script, f"{address}/v1"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=CLEAN)
    assert result.returncode == 0, result.stderr
    assert "Paris" in result.stdout
    command = [python, "-m", "octavo_client", "complete", "The capital of France is"]
    command += ["--url", address, "--temperature", "0", "--max-tokens", "8"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=CLEAN)
    assert (result.returncode, "Paris" in result.stdout) == (0, True), result.stderr
