"""Random requests over HTTP: completions of every kind, and other questions, bad ones in `bad.py`.

Seeded: a generator in the same state makes the same request.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import Any

from chaos.soak.answers import Json
from chaos.soak.engine_process import LIMITS
from chaos.soak.vocabulary import ALPHABET, BOS, POISON, encode, token_name
from fake_runner import VOCAB_SIZE

MODEL = "soak-model"
ALIAS = "alias"
# The holder of the last key may not ask for much.
KEYS = {"key-a": "a", "key-b": "b", "key-c": "c", "key-small": "small"}
SMALL_KEY = "key-small"
KEYS_FILE = (
    "key-a name=a\nkey-b name=b rpm=1000000 tpm=900000000\nkey-c name=c\n"
    "key-small name=small rpm=30 tpm=3000\n"
)
LONG_TEXT = 70_000  # characters: tokenized in a thread, and not free among the bodies


@dataclass(frozen=True)
class Call:
    """A request as it is sent. `request_id` is what its log line will have."""

    method: str
    path: str
    request_id: str
    body: bytes = b""
    key: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def encode(self) -> bytes:
        lines = [f"{self.method} {self.path} HTTP/1.1", "Host: localhost"]
        lines.append(f"x-request-id: {self.request_id}")
        if self.key is not None:
            lines.append(f"Authorization: Bearer {self.key}")
        headers = dict(self.headers)
        if self.body:
            headers.setdefault("Content-Type", "application/json")
            headers.setdefault("Content-Length", str(len(self.body)))
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


def completion_call(body: Json, request_id: str, key: str) -> Call:
    data = json.dumps(body, ensure_ascii=len(body) % 2 == 0).encode()
    return Call("POST", "/v1/completions", request_id, data, key)


def random_key(rng: random.Random) -> str:
    return SMALL_KEY if rng.random() < 0.02 else rng.choice(["key-a", "key-a", "key-b", "key-c"])


def random_text(rng: random.Random) -> str:
    """Often begun as others are."""
    common = rng.choice(["", "", "the same beginning ", "日" * 4])
    text = common + "".join(rng.choices(ALPHABET, k=rng.randint(0, 14)))
    return text + "<special>" * (rng.random() < 0.1)


def random_token_ids(rng: random.Random) -> list[int]:
    common = [rng.randrange(4)] * rng.choice([0, 0, 8, 20])
    return common + [rng.randrange(VOCAB_SIZE) for _ in range(rng.randint(1, 12))]


def random_prompt(rng: random.Random) -> Any:
    """In one of the shapes that the API takes."""
    num_prompts = rng.choice([1, 1, 2, 3])
    texts = [random_text(rng) for _ in range(num_prompts)]
    ids = [random_token_ids(rng) for _ in range(num_prompts)]
    return rng.choice([texts[0], texts[0], texts, ids[0], ids, ids[0], texts[0], None])


def random_body(rng: random.Random, number: int) -> Json:
    """What a completion may be asked for, and how; one in fifty is poison."""
    body: Json = {
        "model": rng.choice([MODEL, MODEL, ALIAS]),
        "prompt": random_prompt(rng),
        "seed": rng.randrange(3),
        "max_tokens": rng.choice([0, 1, 4, 12, 12, 40]),
    }
    kind = rng.random()
    if kind < 0.02:
        _search_beams(rng, body)
    elif kind < 0.04:
        _poison(rng, body)
    elif kind < 0.05:
        _write_much(body)
    else:
        _vary(rng, body)
    if rng.random() < 0.3:
        body["cache_salt"] = rng.choice(["salt", "pepper", f"own-{number}"])
    for name, values in (
        ("user", ["u1", "u2"]),
        ("priority", [0, 1]),
        ("logprobs", [0, 3]),
        ("echo", [True]),
        ("return_token_ids", [True]),
        ("return_tokens_as_token_ids", [True]),
        ("stop_token_ids", [list(range(0, 90, 7))]),
        ("ignore_eos", [True]),
        ("include_stop_str_in_output", [True]),
        ("add_special_tokens", [False]),
    ):
        if rng.random() < 0.15:
            body[name] = rng.choice(values)
    prompt = body["prompt"]
    if not prompt or (isinstance(prompt, list) and "" in prompt):
        body.pop("add_special_tokens", None)  # nothing would be left
    return body


def _vary(rng: random.Random, body: Json) -> None:
    if rng.random() < 0.3:
        body["n"] = rng.choice([1, 2, 3])
    if rng.random() < 0.5:
        body["stream"] = True
        if rng.random() < 0.5:
            names = ("include_usage", "continuous_usage_stats")
            body["stream_options"] = {name: rng.random() < 0.5 for name in names}
    elif rng.random() < 0.2:
        body["best_of"] = body.get("n", 1) + rng.choice([0, 1, 2])
    elif rng.random() < 0.15:
        body["prompt_logprobs"] = 1
    if rng.random() < 0.3:
        body["stop"] = random_stop(rng)
    if rng.random() < 0.2:  # the fake runner draws as if they were not there
        body |= {"temperature": 0.7, "top_p": 0.9, "presence_penalty": 0.5}
        body["logit_bias"] = {"1": 5, "2": -100}
    if rng.random() < 0.02:
        write_long(rng, body)
    elif rng.random() < 0.05:
        body["truncate_prompt_tokens"] = rng.randint(1, 40)


def write_long(rng: random.Random, body: Json) -> None:
    """A long text as the prompt, most of which is cut off again."""
    text = "".join(rng.choices(ALPHABET, k=100))
    body["prompt"] = text * (LONG_TEXT // 100)
    body["truncate_prompt_tokens"] = rng.randint(1, 40)
    body["truncation_side"] = rng.choice(["left", "right"])


def random_stop(rng: random.Random) -> str | list[str]:
    """Strings of what is drawn most, and some that begin as others do."""
    stops = ["".join(rng.choices(" eta", k=rng.randint(1, 4))) for _ in range(rng.randint(1, 3))]
    stops += ["".join(rng.choices(ALPHABET, k=rng.randint(1, 2)))]
    rng.shuffle(stops)
    return stops[0] if rng.random() < 0.3 else stops


def _search_beams(rng: random.Random, body: Json) -> None:
    body |= {"use_beam_search": True, "n": rng.randint(1, 3), "max_tokens": rng.choice([1, 4, 8])}


def _poison(rng: random.Random, body: Json) -> None:
    body["max_tokens"] = max(body["max_tokens"], 1)
    body["prompt"] = [*random_token_ids(rng), POISON]
    if rng.random() < 0.3:
        body["prompt"] = [random_token_ids(rng), body["prompt"]]
    body["stream"] = rng.random() < 0.5


def _write_much(body: Json) -> None:
    """More than a connection's buffers hold."""
    body |= {"prompt": "much", "n": 6, "max_tokens": 80, "stream": True, "logprobs": 3}
    body |= {"ignore_eos": True, "stream_options": {"continuous_usage_stats": True}}


def random_question(rng: random.Random, request_id: str) -> tuple[Call, Json]:
    """About tokens, and the answer."""
    key = rng.choice(["key-a", "key-b"])
    text = random_text(rng) * (1000 if rng.random() < 0.1 else 1)
    token_ids = encode(text)
    if rng.random() < 0.5:
        data = json.dumps({"prompt": text, "return_token_strs": True}).encode()
        if token_ids[:1] != [BOS]:
            token_ids = [BOS, *token_ids]
        answer = {
            "count": len(token_ids),
            "max_model_len": LIMITS.max_model_len,
            "tokens": token_ids,
            "token_strs": [token_name(token_id) for token_id in token_ids],
        }
        path = rng.choice(["/tokenize", "/v1/tokenize"])
        return Call("POST", path, request_id, data, key), answer
    data = json.dumps({"tokens": token_ids}).encode()
    return Call("POST", "/detokenize", request_id, data, key), {"prompt": text}
