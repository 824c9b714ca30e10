"""POST /v1/chat/completions and /v1/completions."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import Response

from gllm.gateway.api.chat import open_chat
from gllm.gateway.api.completions import open_completion
from gllm.gateway.http.answering import AnswerResponse
from gllm.gateway.http.body import read_body
from gllm.gateway.protocol.chat_schema import ChatRequest
from gllm.gateway.protocol.completion_schema import CompletionRequest
from gllm.gateway.shared.gateways import Gateways


def completion_routes(gateways: Gateways) -> APIRouter:
    router = APIRouter()
    limit = gateways.first.config.gateway.max_body_bytes

    @router.post("/v1/chat/completions", tags=["chat"])
    async def chat_completions(request: Request) -> Response:
        """Answer a conversation."""
        body = await read_body(request, ChatRequest, limit)
        return AnswerResponse(partial(open_chat, body, gateways.of(body.model)), stream=bool(body.stream))

    @router.post("/v1/completions", tags=["completions"])
    async def completions(request: Request) -> Response:
        """Continue one or more texts."""
        body = await read_body(request, CompletionRequest, limit)
        return AnswerResponse(partial(open_completion, body, gateways.of(body.model)), stream=bool(body.stream))

    return router
