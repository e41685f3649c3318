"""The URLs of the API, one file for each noun. Each handler reads as: parse, build, answer."""

from fastapi import APIRouter

from server.routes import completions, health, models

router = APIRouter()
for _part in (completions, models, health):
    router.include_router(_part.router)
