"""What `docs/client.md`, `docs/quickstart.md`, the client's README and `docs/examples` tell people
to run is run, against one `octavo serve` with the built-in model.

LangChain's example is run in its own environment (`tests/outside`).
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from serve_process import ENVIRONMENT, ROOT, octavo_serve

# The documents are run by `make test-slow`: nothing else depends on them.
pytestmark = pytest.mark.slow

DOCS = ROOT / "docs"
EXAMPLES = DOCS / "examples"
ADDRESS = "http://127.0.0.1:8000"
TEXT = "Octavo was a grey cat. She lived in Lyon with an old printer, who folded paper all day."
RUN_OUTSIDE = {"langchain_chain.py"}


@pytest.fixture(scope="module")
def address(builtin_model: Path) -> Iterator[str]:
    with octavo_serve() as address:
        yield address


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)


def run(command: list[str | Path], address: str, piped: str = "", cwd: Path = ROOT) -> str:
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        input=piped,
        cwd=cwd,
        env={**ENVIRONMENT, "OCTAVO_BASE_URL": f"{address}/v1"},
        timeout=110,
    )
    assert result.returncode == 0, f"{result.stdout[-2000:]}\n{result.stderr[-3000:]}"
    return result.stdout


def run_python(code: str, address: str) -> str:
    assert ADDRESS in code
    return run([sys.executable, "-W", "error", "-c", code.replace(ADDRESS, address)], address)


def example(name: str, *arguments: str | Path) -> list[str | Path]:
    return [sys.executable, "-W", "error", EXAMPLES / name, *arguments]


def test_the_tour(address: str) -> None:
    parts = blocks(DOCS / "client.md", "python")
    marked = "\nprint('==')\n".join(parts)
    outputs = run_python(marked, address).split("==\n")
    assert len(outputs) == len(parts)
    ask, mistake, stream, events, many, asynchronous, tokens, wrong, patient, around, last = outputs
    assert "Paris" in ask
    expected = blocks(DOCS / "client.md", "python")[1].splitlines()[-1]
    assert mistake.startswith(expected.removeprefix("# ").removesuffix("...").strip())
    assert stream.splitlines()[-1].split()[0] in ("length", "stop")
    assert {"0", "1"} == {line[0] for line in events.splitlines()}
    assert events.count("is whole") == 2
    assert len(many.splitlines()) == 3
    assert "8192" in many.splitlines()[2]  # the model's context, told to who went beyond it
    assert len(asynchronous.splitlines()) >= 2
    assert "Hello, world" in tokens.splitlines()
    assert tokens.splitlines()[-1] == "ok"
    assert "400 decimal_above_max_value temperature" in wrong
    assert patient.strip()
    assert "200 my-request-1 0" in around
    assert last == ""


def test_the_tours_tree_is_the_codes() -> None:
    (tree,) = re.findall(r"```text\n(APIError.*?)```", (DOCS / "client.md").read_text(), re.DOTALL)
    assert tree in (ROOT / "clients/python/octavo_client/_errors.py").read_text()


def test_the_quick_start_in_python(address: str) -> None:
    ask, stream, many = blocks(DOCS / "quickstart.md", "python")
    assert "Paris" in run_python(ask, address)
    assert run_python(stream, address).strip()
    lines = run_python(many, address).splitlines()
    assert [line for line in lines if line.startswith("The capital of Japan is ")]


def test_the_quick_start_in_a_shell(address: str) -> None:
    curl, complete = (
        block.replace(ADDRESS, address).replace(
            ".venv/bin/octavo", f"{sys.executable} -m octavo_client"
        )
        for block in blocks(DOCS / "quickstart.md", "sh")
    )
    text = json.loads(run(["sh", "-c", curl], address))["choices"][0]["text"]
    assert "Paris" in text
    assert run(["sh", "-c", complete], address).strip() == text.strip()


def test_the_clients_readme(address: str) -> None:
    (block,) = blocks(ROOT / "clients" / "python" / "README.md", "python")
    assert "Red, green," in run_python(block, address)


def test_every_example_is_listed() -> None:
    listed = set(re.findall(r"\]\((\w+\.\w+)\)", (EXAMPLES / "README.md").read_text()))
    assert listed == {path.name for path in EXAMPLES.iterdir()} - {"README.md"}


def test_summarize(address: str) -> None:
    text = (TEXT + " ") * 80  # more than one part
    lines = run(example("summarize.py"), address, piped=text).splitlines()
    assert len([line for line in lines if len(line) > 20]) >= 2


def test_translate(address: str) -> None:
    sentences = ["The book is on the table.", "The house is big."]
    lines = run(example("translate.py", *sentences), address).splitlines()
    assert [line.partition("\t")[0] for line in lines] == sentences
    # Whether it is right is beyond so small a model.
    assert all(len(line.partition("\t")[2].split()) > 1 for line in lines)


def test_answer(address: str) -> None:
    answer, sureness = run(
        example("answer.py", "Where did Octavo live?"), address, piped=TEXT
    ).splitlines()
    assert "Lyon" in answer
    assert 0 < int(re.findall(r"(\d+)%", sureness)[0]) <= 100


def test_batch(address: str, tmp_path: Path) -> None:
    prompts = ["The capital of France is", "One, two, three,", "x " * 20_000]
    (tmp_path / "good.txt").write_text("\n".join(prompts[:2]) + "\n\n")
    (tmp_path / "bad.txt").write_text("\n".join(prompts))
    said = run(example("batch.py", tmp_path / "good.txt", tmp_path / "good.jsonl"), address)
    assert said == "2 prompts, 0 failed\n"
    rows = [json.loads(line) for line in (tmp_path / "good.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == prompts[:2]
    assert "Paris" in rows[0]["text"]
    with pytest.raises(AssertionError, match="3 prompts, 1 failed"):
        run(example("batch.py", tmp_path / "bad.txt", tmp_path / "bad.jsonl"), address)
    rows = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert [sorted(row) for row in rows] == [["prompt", "text", "tokens"]] * 2 + [
        ["error", "prompt"]
    ]


def test_evaluate(address: str) -> None:
    lines = run(example("evaluate.py"), address, piped=TEXT).splitlines()
    perplexity, num_tokens = re.findall(r"[\d.]+", lines[0])
    assert 1 < float(perplexity) < 1000
    assert int(num_tokens) > 15
    assert lines[1] == "The capital of France is Paris"
    assert re.fullmatch(r"accuracy (50|75|100)%", lines[-1])


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
def test_curl(address: str) -> None:
    parts = run(["sh", EXAMPLES / "curl.sh"], address).split("--- ")
    _, models, completion, stream, tokens = (part.partition("\n")[2] for part in parts)
    assert json.loads(models)["data"][0]["id"] == "smollm2-135m-instruct"
    assert "Paris" in json.loads(completion)["choices"][0]["text"]
    assert stream.strip().endswith("data: [DONE]")
    assert json.loads(tokens)["count"] == 5


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no Node here")
def test_fetch(address: str) -> None:
    assert "Paris" in run(["node", EXAMPLES / "fetch.mjs"], address)


def test_every_example_is_run() -> None:
    here = Path(__file__).read_text()
    elsewhere = (ROOT / "tests" / "outside" / "test_outside_same_script.py").read_text()
    for path in EXAMPLES.iterdir():
        if path.name != "README.md":
            assert f'"{path.name}"' in (elsewhere if path.name in RUN_OUTSIDE else here)
