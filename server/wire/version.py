"""The wire format of GET /version."""

from __future__ import annotations

from pydantic import BaseModel


class Version(BaseModel):
    version: str
