"""What the server is and how it fares, in the words of other servers' clients."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from gllm import __version__
from gllm.gateway.http.routes.openai import state_response
from gllm.gateway.shared.gateway import Gateway


def server_routes(gateway: Gateway) -> APIRouter:
    router = APIRouter()
    model = gateway.model

    @router.get("/", tags=["operations"])
    async def root() -> Response:
        """What answers here."""
        return JSONResponse({"name": "gLLM", "version": __version__, "model": model.name, "api": "/openapi.json"})

    @router.get("/ping", tags=["operations"])
    @router.post("/ping", tags=["operations"])
    async def ping() -> Response:
        """`/health` as SageMaker asks for it; needs the API key."""
        return state_response(gateway.unhealthy())

    @router.get("/load", tags=["operations"])
    async def load() -> Response:
        """How many choices are being generated or wait for it, as in vLLM."""
        return JSONResponse({"server_load": gateway.admission.live})

    @router.get("/tokenizer_info", tags=["text"])
    async def tokenizer_info() -> Response:
        """What a client needs to render and count as the server does, such as lm-eval's remote tokenizer."""
        tokenizer = model.tokenizer
        return JSONResponse(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": tokenizer.bos_token,
                "eos_token": tokenizer.eos_token,
                "pad_token": None,
                "vocab_size": model.config.vocab_size,
                "model_max_length": gateway.max_model_len,
                "chat_template": model.template.source if model.template else None,
            }
        )

    return router
