"""GET /pipeline/events: what the stages do, for the web page and other viewers."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from gllm.gateway.http.answering import EventStreamResponse
from gllm.gateway.protocol.errors import unavailable
from gllm.gateway.shared.gateways import Gateways


def pipeline_routes(gateways: Gateways) -> APIRouter:
    router = APIRouter()

    @router.get("/pipeline/events", tags=["operations"])
    async def pipeline_events(model: str | None = None) -> Response:
        """Server-sent events of the micro-batches, stages and requests, from now on until the client leaves. Of several
        models, those of `model`, by default of the first."""
        gateway = gateways.shown(model)
        if gateway.draining:
            raise unavailable("The server is shutting down.", "draining", retry_after=5)
        gateway.viewers.check_room()
        return EventStreamResponse(gateway.viewers.frames(gateway.not_ready, lambda: gateway.draining))

    return router
