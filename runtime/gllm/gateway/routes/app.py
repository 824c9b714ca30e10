"""The ASGI application."""

from __future__ import annotations

import re

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp

from gllm import __version__
from gllm.gateway.http.answering import ClientGoneError
from gllm.gateway.http.cors import Cors
from gllm.gateway.http.error_responses import error_response, from_http_status, not_offered
from gllm.gateway.http.middleware import ApiKey, CanonicalPaths, RefuseLate, RequestTracking
from gllm.gateway.http.paths import canonical, why_not_offered
from gllm.gateway.protocol.errors import ApiError, from_parameter_error, internal_error
from gllm.gateway.routes.completion_routes import completion_routes
from gllm.gateway.routes.message_routes import message_routes
from gllm.gateway.routes.openapi import build_openapi
from gllm.gateway.routes.operation_routes import operation_routes
from gllm.gateway.routes.pipeline_routes import pipeline_routes
from gllm.gateway.routes.response_routes import response_routes
from gllm.gateway.routes.sglang_routes import sglang_routes
from gllm.gateway.routes.text_routes import text_routes
from gllm.gateway.shared.gateways import Gateways
from gllm.sampling_params import ParameterError
from gllm.ui.page import Page


def create_app(gateways: Gateways) -> ASGIApp:
    app = FastAPI(title="gLLM", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    openai = (completion_routes, response_routes)
    for routes in (*openai, message_routes, sglang_routes, text_routes, operation_routes, pipeline_routes):
        app.include_router(routes(gateways))
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(ParameterError, _parameter_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientGoneError, _client_gone)
    app.add_exception_handler(Exception, _unexpected_error)
    document = build_openapi(app)
    app.openapi = lambda: document  # type: ignore[method-assign]  # FastAPI's documented way to replace it
    known = frozenset(document["paths"]) | {"/openapi.json"}
    # Longest first, because /v1/responses/{id} also matches /v1/responses/{id}/input_items.
    templates = [
        (path, re.compile(re.sub(r"{\w+}", ".+", path))) for path in sorted(known, key=len, reverse=True) if "{" in path
    ]

    settings, metrics = gateways.first.config.gateway, gateways.first.metrics
    on_time = RefuseLate(CanonicalPaths(app), lambda: metrics.rejected("draining"))
    guarded = Cors(ApiKey(on_time, settings.api_key), settings.allowed_origins)
    page = Page(guarded) if settings.ui else None

    def route_of(path: str) -> str:
        if page is not None and path in page.paths and path != "/":
            return "/ui"
        path = canonical(path)
        if path in known:
            return path
        return next((template for template, pattern in templates if pattern.fullmatch(path)), "unknown")

    return RequestTracking(
        page or guarded,
        count=metrics.http,
        route_of=route_of,
        log_requests=settings.log_requests,
        tracer=gateways.first.tracer,
    )


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_response(error, request.scope)


async def _parameter_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ParameterError)
    return error_response(from_parameter_error(error), request.scope)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.scope["path"]
    if error.status_code == 404 and (lack := why_not_offered(path)):
        return error_response(not_offered(lack), request.scope)
    api_error = from_http_status(error.status_code, path, request.method, error.headers)
    return error_response(api_error, request.scope)


async def _unexpected_error(request: Request, error: Exception) -> Response:
    return error_response(internal_error(), request.scope)


class _EmptyResponse(Response):
    """The response to a client that has disconnected: it sends nothing."""

    async def __call__(self, *_: object) -> None:
        return


async def _client_gone(request: Request, error: Exception) -> Response:
    return _EmptyResponse()
