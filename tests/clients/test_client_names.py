"""What `octavo_client` makes public: a promise, so a change of it is a change here too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import octavo_client
import pytest

PACKAGE = Path(octavo_client.__file__).parent
PUBLIC = [
    "APIConnectionError",
    "APIError",
    "APIResponseValidationError",
    "APIStatusError",
    "APITimeoutError",
    "AsyncClient",
    "AsyncCompletionStream",
    "AsyncStream",
    "AuthenticationError",
    "BadRequestError",
    "CallOptions",
    "ChunkEvent",
    "Client",
    "ClientOptions",
    "Completion",
    "CompletionChoice",
    "CompletionEvent",
    "CompletionParams",
    "CompletionResult",
    "CompletionStream",
    "ConflictError",
    "CreateParams",
    "Detokenization",
    "Health",
    "IncompleteStreamError",
    "InternalServerError",
    "Logprobs",
    "ManyParams",
    "Model",
    "ModelList",
    "NotFoundError",
    "PermissionDeniedError",
    "Prompt",
    "RateLimitError",
    "RawResponse",
    "SamplingParams",
    "Stream",
    "StreamOptions",
    "TextDeltaEvent",
    "TextDoneEvent",
    "Tokenization",
    "UnprocessableEntityError",
    "Usage",
]


def test_the_public_names() -> None:
    assert octavo_client.__all__ == PUBLIC == sorted(PUBLIC)
    assert set(PUBLIC) <= set(dir(octavo_client))
    with pytest.raises(AttributeError, match="Nonsense"):
        octavo_client.Nonsense  # noqa: B018


@pytest.mark.parametrize("name", PUBLIC)
def test_each_is_there(name: str) -> None:
    value = getattr(octavo_client, name)
    if name not in ("CompletionEvent", "Prompt"):  # unions, which know no name
        assert value.__name__ == name
        assert value.__module__.startswith("octavo_client.")
        assert value.__doc__ or name in (
            "CompletionChoice",
            "Health",
            "Model",
            "Usage",
            "StreamOptions",
        )


def test_errors_have_one_root_and_are_in_the_table() -> None:
    octavo_client.APIError  # noqa: B018 (its module is loaded with it)
    table = str(sys.modules["octavo_client._errors"].__doc__).split()
    for name in PUBLIC:
        if name.endswith("Error"):
            assert issubclass(getattr(octavo_client, name), octavo_client.APIError)
            assert name in table


def test_the_package_says_that_it_is_typed() -> None:
    assert (PACKAGE / "py.typed").exists()


def test_importing_it_is_light() -> None:
    """What it needs comes when a name is used: `octavo --help` does without."""
    code = "import sys, octavo_client; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert not {"httpx", "pydantic", "rich"} & set(run.stdout.split())
