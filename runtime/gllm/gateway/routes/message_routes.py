"""The HTTP routes under /v1/messages."""

from __future__ import annotations

import asyncio
from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from gllm.gateway.api.messages.message_answer import open_message
from gllm.gateway.api.messages.message_chat import chat_of
from gllm.gateway.http.answering import AnswerResponse
from gllm.gateway.http.body import read_body
from gllm.gateway.protocol.anthropic_schema import CountTokensRequest, MessagesRequest
from gllm.gateway.request.prompt_encoding import prompts_of
from gllm.gateway.shared.gateways import Gateways


def message_routes(gateways: Gateways) -> APIRouter:
    router = APIRouter(tags=["messages"])
    limit = gateways.first.config.gateway.max_body_bytes

    @router.post("/v1/messages")
    async def messages(request: Request) -> Response:
        """Answer a conversation, in Anthropic's protocol."""
        body = await read_body(request, MessagesRequest, limit)
        return AnswerResponse(partial(open_message, body, gateways.of(body.model)), stream=bool(body.stream))

    @router.post("/v1/messages/count_tokens")
    async def count_tokens(request: Request) -> Response:
        """The number of prompt tokens that a message would have."""
        body = await read_body(request, CountTokensRequest, limit)
        model = gateways.of(body.model).model
        chat = await asyncio.to_thread(chat_of, body)
        most = model.config.max_position
        (prompt,) = await model.threads.run(chat.num_chars, lambda: prompts_of(model, chat, most))
        return JSONResponse({"input_tokens": len(prompt.token_ids)})

    return router
