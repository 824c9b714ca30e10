"""The HTTP routes."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import JSONResponse, PlainTextResponse, Response

from gllm import __version__
from gllm.gateway.api.chat import chat
from gllm.gateway.api.completions import complete
from gllm.gateway.http.body import read_body
from gllm.gateway.http.routes.model_card import model_card, model_list
from gllm.gateway.http.sse import while_connected
from gllm.gateway.protocol.chat_schema import ChatRequest
from gllm.gateway.protocol.completion_schema import CompletionRequest, DetokenizeRequest, TokenizeRequest
from gllm.gateway.request.prompt_encoding import encode, render_chat
from gllm.gateway.shared.gateway import Gateway
from gllm.gateway.shared.interfaces import Tokenizer


def generation_routes(gateway: Gateway) -> APIRouter:
    router = APIRouter()
    limit = gateway.config.gateway.max_body_bytes

    @router.post("/v1/chat/completions", tags=["chat"])
    async def chat_completions(request: Request) -> Response:
        """Answer a conversation."""
        body = await read_body(request, ChatRequest, limit)
        return await while_connected(request.receive, partial(chat, body, gateway.generator))

    @router.post("/v1/completions", tags=["completions"])
    async def completions(request: Request) -> Response:
        """Continue one or more texts."""
        body = await read_body(request, CompletionRequest, limit)
        return await while_connected(request.receive, partial(complete, body, gateway.generator))

    return router


def text_routes(gateway: Gateway) -> APIRouter:
    router = APIRouter()
    limit = gateway.config.gateway.max_body_bytes
    model = gateway.model

    @router.post("/tokenize", tags=["text"])
    async def tokenize(request: Request) -> Response:
        """Token ids of a text or of a rendered conversation."""
        body = await read_body(request, TokenizeRequest, limit)
        model.check_name(body.model)

        def work() -> bytes:
            most = model.config.max_position
            if body.messages is not None:
                text = render_chat(
                    model,
                    body.messages,
                    tools=body.tools,
                    add_generation_prompt=body.add_generation_prompt,
                    continue_final_message=bool(body.continue_final_message),
                    template_kwargs=body.chat_template_kwargs,
                    reasoning_effort=body.reasoning_effort,
                )
            else:
                text = body.prompt or body.content or ""
            special = body.adds_special_tokens
            if text:
                ids = encode(model, text, special, most, "prompt" if body.messages is None else "messages")
            else:
                ids = model.tokenizer.encode("", add_special_tokens=special)
            strings = [model.tokenizer.spelling(token) for token in ids] if body.return_token_strs else None
            tokens = [_piece(model.tokenizer, token) for token in ids] if body.with_pieces else ids
            return msgspec.json.encode(
                {"tokens": tokens, "count": len(ids), "max_model_len": gateway.max_model_len, "token_strs": strings}
            )

        return Response(await model.threads.run(body.num_chars, work), media_type="application/json")

    @router.post("/detokenize", tags=["text"])
    async def detokenize(request: Request) -> Response:
        """Text of token ids."""
        body = await read_body(request, DetokenizeRequest, limit)
        model.check_name(body.model)
        model.check_token_ids(body.tokens, "tokens")
        # Decoding a token is about the work of encoding a character.
        text = await model.threads.run(len(body.tokens), lambda: model.tokenizer.decode(body.tokens, False))
        return JSONResponse({"prompt": text})

    return router


def _piece(tokenizer: Tokenizer, token: int) -> dict[str, Any]:
    """llama.cpp's view of a token: its text, or its bytes if they are part of a character."""
    data = tokenizer.token_bytes(token)
    try:
        return {"id": token, "piece": data.decode()}
    except UnicodeDecodeError:
        return {"id": token, "piece": list(data)}


def info_routes(gateway: Gateway) -> APIRouter:
    router = APIRouter()

    @router.get("/v1/models", tags=["models"])
    async def models() -> Response:
        """The one model that is served, under each of its names."""
        return JSONResponse(model_list(gateway))

    @router.get("/v1/models/{model_id:path}", tags=["models"])
    async def model(model_id: str) -> Response:
        """The model, by name."""
        gateway.model.check_name(model_id)
        return JSONResponse(model_card(gateway, model_id))

    @router.get("/health", tags=["operations"])
    async def health() -> Response:
        """200 while the engine is connected and makes progress; needs no API key."""
        return state_response(gateway.unhealthy())

    @router.get("/ready", tags=["operations"])
    async def ready(recovering: bool = False) -> Response:
        """200 while an engine serves; with `recovering=true` also while one is being replaced and new requests wait for
        it. Until then `loaded` tells the share of the weights that is loaded, 0 to 1. Needs no API key."""
        return state_response(gateway.not_ready(recovering), gateway.loaded if gateway.engine.hello is None else None)

    @router.get("/metrics", tags=["operations"], response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Prometheus text."""
        return Response(gateway.metrics.render(), media_type=CONTENT_TYPE_LATEST)

    @router.get("/version", tags=["operations"])
    async def version() -> Response:
        """The server's version."""
        return JSONResponse({"version": __version__})

    return router


def state_response(problem: str | None, loaded: float | None = None) -> Response:
    """200, or 503 with the reason."""
    more = {} if loaded is None else {"loaded": round(loaded, 3)}
    if problem is None:
        return JSONResponse({"status": "ok"} | more)
    return JSONResponse({"status": "unavailable", "reason": problem} | more, 503)
