"""Routes for tokenization."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from gllm.gateway.http.body import read_body
from gllm.gateway.protocol.completion_schema import DetokenizeRequest, TokenizeRequest
from gllm.gateway.request.prompt_encoding import encode, render_chat
from gllm.gateway.shared.gateways import Gateways
from gllm.text.tokenizer import Tokenizer


def text_routes(gateways: Gateways) -> APIRouter:
    router = APIRouter()
    limit = gateways.first.config.gateway.max_body_bytes

    @router.post("/tokenize", tags=["text"])
    async def tokenize(request: Request) -> Response:
        """The token ids of a text or of a rendered conversation."""
        body = await read_body(request, TokenizeRequest, limit)
        gateway = gateways.of(body.model)
        model = gateway.model

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
        """The text of token ids."""
        body = await read_body(request, DetokenizeRequest, limit)
        model = gateways.of(body.model).model
        model.check_token_ids(body.tokens, "tokens")
        # Decoding a token costs about as much as encoding a character.
        text = await model.threads.run(len(body.tokens), lambda: model.tokenizer.decode(body.tokens, False))
        return JSONResponse({"prompt": text})

    @router.get("/tokenizer_info", tags=["text"])
    async def tokenizer_info(model: str | None = None) -> Response:
        """The facts that a client needs to render and count as the server does, such as lm-eval's remote tokenizer. Of
        several models, those of `model`, by default of the first."""
        gateway = gateways.shown(model)
        served = gateway.model
        tokenizer = served.tokenizer
        return JSONResponse(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": tokenizer.bos_token,
                "eos_token": tokenizer.eos_token,
                "pad_token": None,
                "vocab_size": served.config.vocab_size,
                "model_max_length": gateway.max_model_len,
                "chat_template": served.template.source if served.template else None,
            }
        )

    return router


def _piece(tokenizer: Tokenizer, token: int) -> dict[str, Any]:
    """Return a token in llama.cpp's format: its text, or its bytes if they are part of a character."""
    data = tokenizer.token_bytes(token)
    try:
        return {"id": token, "piece": data.decode()}
    except UnicodeDecodeError:
        return {"id": token, "piece": list(data)}
