"""Routes for the served model, health, load and metrics, with keys and paths that clients of other servers expect."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from gllm import __version__
from gllm.gateway.shared.gateway import Gateway
from gllm.gateway.shared.gateways import Gateways


def operation_routes(gateways: Gateways) -> APIRouter:
    router = APIRouter()

    @router.get("/v1/models", tags=["models"])
    async def models() -> Response:
        """The models that are served, each under all of its names."""
        return JSONResponse(_model_list(gateways))

    @router.get("/v1/models/{model_id:path}", tags=["models"])
    async def one_model(model_id: str) -> Response:
        """A model, by name."""
        return JSONResponse(_model_card(gateways.of(model_id), model_id))

    @router.get("/health", tags=["operations"])
    async def health() -> Response:
        """200 while the engine is connected and makes progress; needs no API key."""
        return _state_response(gateways.unhealthy())

    @router.get("/ready", tags=["operations"])
    async def ready(recovering: bool = False) -> Response:
        """200 while an engine serves; with `recovering=true` also while the engine is being replaced and new requests
        wait. Before that `loaded` is the share of the weights that is loaded, 0 to 1. In front of several engines,
        `models` has the state of each model, with the seconds without requests. Needs no API key."""
        gateway = gateways.first
        figures: dict[str, object] = {}
        if gateway.loaded is not None and gateway.engine.hello is None:
            figures["loaded"] = round(gateway.loaded, 3)
        if models := gateways.states(recovering):
            figures["models"] = models
        return _state_response(gateways.not_ready(recovering), figures)

    @router.get("/metrics", tags=["operations"], response_class=PlainTextResponse)
    async def metrics(request: Request) -> Response:
        """Prometheus text, or OpenMetrics with the exemplars of traced requests if the Accept header names it."""
        body, kind = gateways.first.metrics.render(request.headers.get("accept", ""))
        return Response(body, media_type=kind)

    @router.get("/version", tags=["operations"])
    async def version() -> Response:
        """The server's version."""
        return JSONResponse({"version": __version__})

    @router.get("/", tags=["operations"])
    async def root() -> Response:
        """The name of the server and of its first model."""
        name = gateways.first.model.name
        return JSONResponse({"name": "gLLM", "version": __version__, "model": name, "api": "/openapi.json"})

    @router.get("/ping", tags=["operations"])
    @router.post("/ping", tags=["operations"])
    async def ping() -> Response:
        """`/health` as SageMaker asks for it; needs the API key."""
        return _state_response(gateways.unhealthy())

    @router.get("/load", tags=["operations"])
    async def load() -> Response:
        """The number of running and waiting choices, as in vLLM."""
        return JSONResponse({"server_load": gateways.live})

    return router


def _state_response(problem: str | None, figures: Mapping[str, object] | None = None) -> Response:
    """Return 200, or 503 with the reason."""
    if problem is None:
        return JSONResponse({"status": "ok", **(figures or {})})
    return JSONResponse({"status": "unavailable", "reason": problem, **(figures or {})}, 503)


def _model_card(gateway: Gateway, name: str) -> dict[str, Any]:
    """Return the model under one of its names. `max_model_len` is None until the first engine serves."""
    created = gateway.model.created
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "gllm",
        # vLLM
        "root": gateway.model.name,
        "parent": None,
        "max_model_len": gateway.max_model_len,
        "permission": [_permission(name, created)],
        # Anthropic
        "type": "model",
        "display_name": name,
        "lifecycle": "active",
        "created_at": datetime.fromtimestamp(created, UTC).isoformat().replace("+00:00", "Z"),
    }


def _model_list(gateways: Gateways) -> dict[str, Any]:
    cards = [_model_card(gateway, name) for gateway in gateways for name in gateway.model.names]
    ids = [card["id"] for card in cards]
    return {"object": "list", "data": cards, "has_more": False, "first_id": ids[0], "last_id": ids[-1]}


def _permission(name: str, created: int) -> dict[str, Any]:
    """Return OpenAI's older permission object: it allows all that this server can do."""
    return {
        "id": f"modelperm-{name}",
        "object": "model_permission",
        "created": created,
        "allow_create_engine": False,
        "allow_sampling": True,
        "allow_logprobs": True,
        "allow_search_indices": False,
        "allow_view": True,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
