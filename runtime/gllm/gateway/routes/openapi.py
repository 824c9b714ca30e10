"""The OpenAPI document: FastAPI's paths, the bodies that `read_body` checks and the errors of all routes."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from gllm.gateway.http.paths import speaks_anthropic
from gllm.gateway.protocol.anthropic_schema import CountTokensRequest, MessagesRequest
from gllm.gateway.protocol.chat_schema import ChatRequest
from gllm.gateway.protocol.completion_schema import CompletionRequest, DetokenizeRequest, TokenizeRequest
from gllm.gateway.protocol.fields import HINTS
from gllm.gateway.protocol.responses_schema import CompactRequest, ResponsesRequest
from gllm.gateway.protocol.schema import Schema
from gllm.gateway.protocol.sglang_schema import GenerateRequest, ScoreRequest

BODIES: dict[str, type[Schema]] = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
    "/v1/responses": ResponsesRequest,
    "/v1/responses/input_tokens": ResponsesRequest,
    "/v1/responses/compact": CompactRequest,
    "/v1/messages": MessagesRequest,
    "/v1/messages/count_tokens": CountTokensRequest,
    "/generate": GenerateRequest,
    "/v1/score": ScoreRequest,
    "/tokenize": TokenizeRequest,
    "/detokenize": DetokenizeRequest,
}

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


_ANTHROPIC_ERROR = {
    "type": "object",
    "required": ["type", "error", "request_id"],
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "required": ["type", "message"],
            "properties": {
                "type": {"type": "string"},
                "message": {"type": "string"},
                "details": {"type": "object", "properties": {"error_code": {"type": "string"}}},
            },
        },
        "request_id": {"type": ["string", "null"]},
    },
}


def build_openapi(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, routes=app.routes)
    refs, definitions = models_json_schema(
        [(schema, "validation") for schema in BODIES.values()], ref_template="#/components/schemas/{model}"
    )
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas.clear()
    schemas.update(definitions["$defs"])
    for schema in BODIES.values():
        hints = {name: {"description": f"A hint: {why}."} for name, why in HINTS.items()}
        schemas[schema.__name__]["properties"] = {**hints, **schemas[schema.__name__]["properties"]}
    schemas["Error"] = _ERROR
    schemas["AnthropicError"] = _ANTHROPIC_ERROR
    for path, operations in document["paths"].items():
        for operation in operations.values():
            responses = operation["responses"]
            responses.pop("422", None)
            if path in ("/health", "/ready", "/ping"):
                responses["503"] = {"description": "Not now", "content": {"application/json": {}}}
                continue
            schema_name = "AnthropicError" if speaks_anthropic(path) else "Error"
            responses["4XX"] = _error_response("The request cannot be served; the message says why.", schema_name)
            responses["503"] = _error_response("Not ready, draining, or the engine died.", schema_name)
            if path in BODIES:
                operation["requestBody"] = {
                    "required": True,
                    "content": {"application/json": {"schema": refs[(BODIES[path], "validation")]}},
                }
    return document


def _error_response(description: str, schema_name: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema_name}"}}},
    }
