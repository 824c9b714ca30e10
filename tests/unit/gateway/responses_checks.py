"""Helpers of the tests of /v1/responses: they check answers against the types of OpenAI's client."""

from __future__ import annotations

import json
from typing import Any

import httpx
from gateway_fakes import EOS, RunningServer, make_server, served_model
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from gllm.text.output.reasoning import reasoning_parser_for
from gllm.text.tool_parsers import HERMES, ToolParser

TOOLS: list[Any] = [
    {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}, "strict": False},
    {"type": "function", "name": "time", "description": "What time it is"},
]
EVENT = TypeAdapter(ResponseStreamEvent)


def able_server() -> RunningServer:
    """A model with tools and reasoning."""
    return make_server(
        model=served_model(
            tool_parser=lambda: ToolParser(HERMES),
            reasoning_parser=lambda prompt: reasoning_parser_for("qwen3", "", prompt),
            sampling_defaults={"temperature": 0.6},
        )
    )


def says(server: RunningServer, text: str) -> None:
    server.engine.reply = lambda *_: [*text.encode(), EOS]


def prompt_of(server: RunningServer) -> str:
    return bytes(server.engine.submitted[-1].prompt).decode()


def create(http: httpx.Client, **body: Any) -> dict[str, Any]:
    answer = http.post("/v1/responses", json={"model": "tiny", "input": "Hi", **body})
    assert answer.status_code == 200, answer.text
    response: dict[str, Any] = answer.json()
    Response.model_validate(response, strict=True)
    return response


def stream(http: httpx.Client, **body: Any) -> list[dict[str, Any]]:
    answer = http.post("/v1/responses", json={"model": "tiny", "input": "Hi", "stream": True, **body})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = []
    for frame in answer.text.removesuffix("data: [DONE]\n\n").removesuffix("\n\n").split("\n\n"):
        name, data = frame.split("\n")
        event = json.loads(data.removeprefix("data: "))
        EVENT.validate_python(event, strict=True)
        assert name == f"event: {event['type']}"
        assert event["sequence_number"] == len(events)
        events.append(event)
    return events


def refused(http: httpx.Client, path: str = "/v1/responses", **body: Any) -> dict[str, Any]:
    answer = http.post(path, json={"model": "tiny", "input": "Hi", **body})
    assert answer.status_code in (400, 404), answer.text
    error: dict[str, Any] = answer.json()["error"]
    return {"status": answer.status_code, **error}


def comparable(value: Any) -> Any:
    """Return the value without ids and times."""
    if isinstance(value, list):
        return [comparable(item) for item in value]
    if isinstance(value, dict):
        changing = ("id", "call_id", "created_at", "completed_at")
        return {key: comparable(item) for key, item in value.items() if key not in changing}
    return value
