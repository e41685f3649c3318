"""What a request needs of the running server; made once by `create_app`, passed on explicitly."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated

from fastapi import Depends, Request

from engine import Engine
from server.chat.template import ChatTemplates
from server.model_facts import ModelFacts
from server.observe.watch import Watch
from server.request_queue import RequestQueue
from server.settings import Settings
from server.tenants import Tenant, tenant_of
from server.text_workers import TextWorkers
from server.tokenizer import Tokenizer


@dataclass(frozen=True)
class Services:
    """The first of `model_names` is the model's own name, the others are aliases."""

    engine: Engine
    tokenizer: Tokenizer
    settings: Settings
    model_names: Sequence[str]
    queue: RequestQueue
    watch: Watch
    workers: TextWorkers = field(default_factory=TextWorkers)
    facts: ModelFacts | None = None
    chat_templates: ChatTemplates = field(default_factory=ChatTemplates)
    created: int = field(default_factory=lambda: int(time.time()))

    @cached_property
    def system_fingerprint(self) -> str:
        """Changes when the model, the number type or the kernels do, and with them the numbers."""
        info = self.engine.info
        parts = (self.model_names[0], info.architecture, info.device, info.dtype, info.kernels)
        return "fp_" + hashlib.blake2b("\0".join(parts).encode(), digest_size=5).hexdigest()


async def get_services(request: Request) -> Services:
    """A FastAPI dependency; FastAPI would call a plain function in a thread, for each request."""
    services: Services = request.app.state.services
    return services


InjectedServices = Annotated[Services, Depends(get_services)]


async def get_tenant(request: Request) -> Tenant:
    """A FastAPI dependency: whose request it is."""
    return tenant_of(request.scope)


InjectedTenant = Annotated[Tenant, Depends(get_tenant)]
