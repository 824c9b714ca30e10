"""The HTTP routes that SGLang's own clients use."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from gllm.gateway.api.sglang.generate_answer import open_generate
from gllm.gateway.api.sglang.scores import score
from gllm.gateway.http.answering import AnswerResponse, while_connected
from gllm.gateway.http.body import read_body
from gllm.gateway.protocol.sglang_schema import GenerateRequest, ScoreRequest
from gllm.gateway.shared.gateways import Gateways


def sglang_routes(gateways: Gateways) -> APIRouter:
    router = APIRouter(tags=["sglang"])
    limit = gateways.first.config.gateway.max_body_bytes

    @router.post("/generate")
    async def generate(request: Request) -> Response:
        """Continue one or more texts, in SGLang's protocol."""
        body = await read_body(request, GenerateRequest, limit)
        return AnswerResponse(partial(open_generate, body, gateways.of(body.model)), stream=bool(body.stream))

    @router.post("/v1/score")
    async def score_items(request: Request) -> Response:
        """The probability of each label as the next token after each item."""
        body = await read_body(request, ScoreRequest, limit)
        return JSONResponse(await while_connected(request.receive, score(body, gateways.of(body.model))))

    @router.get("/get_model_info")
    @router.get("/model_info")
    async def model_info(model: str | None = None) -> Response:
        """A model, by default the first; SGLang's clients request this first."""
        path = gateways.shown(model).config.engine.model
        return JSONResponse({"model_path": path, "tokenizer_path": path, "is_generation": True})

    return router
