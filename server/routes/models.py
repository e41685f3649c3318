"""The models that this server has."""

from dataclasses import asdict

from fastapi import APIRouter

from server.completion.admission import check_model
from server.routes.described import ERRORS
from server.services import InjectedServices, Services
from server.wire.schemas import ModelCard, ModelList

router = APIRouter()


@router.get("/v1/models", responses=ERRORS)
async def list_models(services: InjectedServices) -> ModelList:
    """The models this server has."""
    return ModelList(data=[_card(name, services) for name in services.model_names])


@router.get("/v1/models/{model_id:path}", responses=ERRORS)
async def get_model(model_id: str, services: InjectedServices) -> ModelCard:
    """One model."""
    check_model(model_id, services)
    return _card(model_id, services)


def _card(name: str, services: Services) -> ModelCard:
    facts = {} if services.facts is None else asdict(services.facts)
    return ModelCard(
        id=name,
        created=services.created,
        max_model_len=services.engine.info.max_model_len,
        **facts,
    )
