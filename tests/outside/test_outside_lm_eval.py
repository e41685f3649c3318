"""The evaluation harness `lm_eval` scores our server and `transformers` on the same weights.

The harness takes our tokenizer from the server. `transformers` is handed one, because what it reads
from the GGUF file leaves out that every digit is a token.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from client_environments import CLEAN, LM_EVAL
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import AutoTokenizer

from engine import open_checkpoint
from server.tokenizer import load_tokenizer

# The first time an environment is made takes minutes.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

TASKS = Path(__file__).parent / "lm_eval_tasks"
QUESTIONS = [json.loads(line) for line in (TASKS / "facts.jsonl").read_text().splitlines()]

Samples = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def tokenizer_folder(builtin_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in model's tokenizer as Hugging Face lays one out, with its digits."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(builtin_model.parent, gguf_file=builtin_model.name)
    pieces = [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence(pieces)
    tokenizer.save_pretrained(folder)
    ours = load_tokenizer(open_checkpoint(builtin_model).tokenizer)
    for question in QUESTIONS:
        for choice in question["choices"]:
            text = f"{question['question']} {choice}"
            assert tokenizer(text).input_ids == ours.encode(text)
    return folder


@pytest.fixture(scope="module")
def theirs(
    builtin_model: Path, tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Samples:
    """What `transformers` makes of the tasks."""
    arguments = {
        "pretrained": builtin_model.parent,
        "gguf_file": builtin_model.name,
        "tokenizer": tokenizer_folder,
        "dtype": "float32",
    }
    return lm_eval("hf", arguments, tmp_path_factory.mktemp("hf"), "--device", "cpu")


@pytest.fixture(scope="module")
def ours(address: str, tmp_path_factory: pytest.TempPathFactory) -> Samples:
    """What the server makes of them, several prompts to a request and two requests at a time."""
    arguments = {
        "model": "smollm2-135m-instruct",
        "base_url": f"{address}/v1/completions",
        "num_concurrent": 2,
    }
    folder = tmp_path_factory.mktemp("octavo")
    return lm_eval("local-completions", arguments, folder, "--batch_size", "8")


def lm_eval(model: str, arguments: dict[str, Any], folder: Path, *options: str) -> Samples:
    """Runs the tasks with a model of the harness; returns what it notes of each item, by task."""
    command = [LM_EVAL.python(), "-m", "lm_eval", "--model", model, *options, "--model_args"]
    command += [",".join(f"{name}={value}" for name, value in arguments.items())]
    command += ["--tasks", "facts,facts_in_words", "--include_path", TASKS]
    command += ["--log_samples", "--output_path", folder]
    offline = {"HF_HOME": str(folder), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        command, capture_output=True, text=True, cwd=TASKS, env=CLEAN | offline, timeout=600
    )
    assert result.returncode == 0, result.stderr[-5000:]
    samples = {}
    for task in ("facts", "facts_in_words"):
        (file,) = folder.glob(f"*/samples_{task}_2*.jsonl")
        lines = map(json.loads, file.read_text().splitlines())
        samples[task] = sorted(lines, key=lambda sample: sample["doc_id"])
    return samples


def test_the_same_scores_for_each_item(theirs: Samples, ours: Samples) -> None:
    assert len(theirs["facts"]) == len(ours["facts"]) == len(QUESTIONS)
    for their, our in zip(theirs["facts"], ours["facts"], strict=True):
        assert their["doc"] == our["doc"]
        assert len(our["filtered_resps"]) == len(our["doc"]["choices"])
        for expected, got in zip(their["filtered_resps"], our["filtered_resps"], strict=True):
            assert float(got[0]) == pytest.approx(float(expected[0]), abs=1e-3)
            assert got[1] == expected[1]  # whether it is what the model would have written
        assert (our["acc"], our["acc_norm"]) == (their["acc"], their["acc_norm"])
    assert {sample["acc"] for sample in ours["facts"]} == {0.0, 1.0}, "the task says too little"
    greedy = [got[1] for sample in ours["facts"] for got in sample["filtered_resps"]]
    assert set(greedy) == {"True", "False"}, "the task says too little"


def test_the_same_words_for_each_item(theirs: Samples, ours: Samples) -> None:
    written = [sample["resps"] for sample in ours["facts_in_words"]]
    assert written == [sample["resps"] for sample in theirs["facts_in_words"]]
    assert "Paris" in written[0][0][0]
    assert any(len(text[0][0]) < 20 for text in written), "no stop string was met"
