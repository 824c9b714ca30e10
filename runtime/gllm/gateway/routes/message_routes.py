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
from gllm.gateway.shared.gateway import Gateway


def message_routes(gateway: Gateway) -> APIRouter:
    router = APIRouter(tags=["messages"])
    limit = gateway.config.gateway.max_body_bytes
    model = gateway.model

    @router.post("/v1/messages")
    async def messages(request: Request) -> Response:
        """Answer a conversation, in Anthropic's protocol."""
        body = await read_body(request, MessagesRequest, limit)
        return AnswerResponse(partial(open_message, body, gateway), stream=bool(body.stream))

    @router.post("/v1/messages/count_tokens")
    async def count_tokens(request: Request) -> Response:
        """The number of prompt tokens that a message would have."""
        body = await read_body(request, CountTokensRequest, limit)
        chat = await asyncio.to_thread(chat_of, body)
        model.check_name(chat.model)
        most = model.config.max_position
        (prompt,) = await model.threads.run(chat.num_chars, lambda: prompts_of(model, chat, most))
        return JSONResponse({"input_tokens": len(prompt.token_ids)})

    return router
