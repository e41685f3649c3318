"""The URLs of the API, one file for each noun. Each handler reads as: parse, build, answer."""

from fastapi import APIRouter

from server.routes import (
    chat,
    completions,
    docs,
    engines,
    health,
    metrics,
    models,
    tokenization,
    version,
)

router = APIRouter()
for _part in (completions, engines, models, tokenization, chat, docs, health, metrics, version):
    router.include_router(_part.router)
