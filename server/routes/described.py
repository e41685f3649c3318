"""What /openapi.json says of answers and bodies that FastAPI does not see."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from server.wire.schemas import ErrorResponse

ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorResponse},
    "5XX": {"model": ErrorResponse},
}

# An event of a stream, as OpenAPI 3.2 describes them: `data` is a CompletionResponse, an
# ErrorResponse or [DONE].
EVENT = {
    "type": "object",
    "properties": {"data": {"type": "string"}},
    "required": ["data"],
}


def json_body(model: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra` of an operation whose body is a `model`, which `create_app` describes."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
