"""The HTTP routes under /v1/responses."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from gllm.gateway.api.responses.compact import compact
from gllm.gateway.api.responses.response_answer import Conversation, chat_of, open_response
from gllm.gateway.api.responses.store import ResponseStore, read_items
from gllm.gateway.http.answering import AnswerResponse, while_connected
from gllm.gateway.http.body import read_body
from gllm.gateway.protocol.errors import bad_request
from gllm.gateway.protocol.item_schema import Item
from gllm.gateway.protocol.responses_schema import CompactRequest, ResponsesRequest
from gllm.gateway.request.prompt_encoding import prompts_of
from gllm.gateway.shared.gateways import Gateways

MAX_PAGE = 100
DEFAULT_PAGE = 20


def response_routes(gateways: Gateways) -> APIRouter:
    router = APIRouter(tags=["responses"])
    limit = gateways.first.config.gateway.max_body_bytes
    store = ResponseStore()

    @router.post("/v1/responses")
    async def create(request: Request) -> Response:
        """Answer a conversation."""
        body = await read_body(request, ResponsesRequest, limit)
        gateway = gateways.of(body.model)
        return AnswerResponse(partial(open_response, body, gateway, store), stream=bool(body.stream))

    @router.post("/v1/responses/compact")
    async def compact_conversation(request: Request) -> Response:
        """Make a conversation shorter: its user messages, and a summary by the model."""
        body = await read_body(request, CompactRequest, limit)
        summary = await while_connected(request.receive, compact(body, gateways.of(body.model), store))
        return Response(summary, media_type="application/json")

    @router.post("/v1/responses/input_tokens")
    async def input_tokens(request: Request) -> Response:
        """The number of prompt tokens that a response would have."""
        body = await read_body(request, ResponsesRequest, limit)
        model = gateways.of(body.model).model
        chat = await chat_of(body, Conversation(body, store))
        most = model.config.max_position
        (prompt,) = await model.threads.run(chat.num_chars, lambda: prompts_of(model, chat, most))
        return JSONResponse({"object": "response.input_tokens", "input_tokens": len(prompt.token_ids)})

    @router.get("/v1/responses/{response_id}")
    async def retrieve(response_id: str, request: Request) -> Response:
        """A stored response."""
        if request.query_params.get("stream", "false").lower() in ("true", "1"):
            raise bad_request("stream", "A stream cannot be read again; get the response without 'stream'.")
        return Response(store.get(response_id).body, media_type="application/json")

    @router.delete("/v1/responses/{response_id}")
    async def delete(response_id: str) -> Response:
        """Delete a stored response."""
        store.delete(response_id)
        return JSONResponse({"id": response_id, "object": "response", "deleted": True})

    @router.get("/v1/responses/{response_id}/input_items")
    async def input_items(response_id: str, request: Request) -> Response:
        """The input items of a response."""
        items = read_items(store.get(response_id).input)
        return JSONResponse(_page(items, request.query_params))

    @router.post("/v1/responses/{response_id}/cancel")
    async def cancel(response_id: str) -> Response:
        """Always an error: only a response in the background can be cancelled, and there are none."""
        store.get(response_id)
        raise bad_request("response_id", "Cannot cancel a synchronous response; to end a stream, close its connection.")

    return router


def _page(items: list[Item], query: Mapping[str, str]) -> dict[str, Any]:
    """Return one page: `order` is desc (default) or asc; at most `limit` items that follow the item `after`."""
    order, size, after = query.get("order", "desc"), query.get("limit", str(DEFAULT_PAGE)), query.get("after")
    if order not in ("asc", "desc"):
        raise bad_request("order", "'order' is 'asc' or 'desc'.", "invalid_value")
    if not (size.isdecimal() and 1 <= int(size[:9]) <= MAX_PAGE):
        raise bad_request("limit", f"'limit' is a number from 1 to {MAX_PAGE}.", "invalid_value")
    if order == "desc":
        items = items[::-1]
    start = 0
    if after is not None:
        start = next((i for i, item in enumerate(items, 1) if item["id"] == after), 0)
        if not start:
            raise bad_request("after", f"There is no item '{after[:64]}' in this response.", "invalid_value")
    page = items[start : start + int(size)]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": start + len(page) < len(items),
    }
