"""POST /v1/responses/compact: a conversation becomes its user messages and a summary that the model writes."""

from __future__ import annotations

import asyncio

import msgspec
from starlette.responses import Response

from gllm.gateway.api.responses.answer import Conversation, open_response_turn
from gllm.gateway.api.responses.convert import chat_messages, checked_chat, write_summary
from gllm.gateway.api.responses.resource import shown_usage
from gllm.gateway.api.responses.store import ResponseStore
from gllm.gateway.http.sse import Disconnect
from gllm.gateway.protocol.item_schema import MessageItem, new_id
from gllm.gateway.protocol.responses_schema import CompactRequest
from gllm.gateway.request.generation import Generator

MAX_SUMMARY_TOKENS = 1024
_TASK = (
    "Summarize the conversation so far for somebody who continues it without having read it: what was asked, "
    "what was decided and found out, and what is still to do. Write only the summary."
)


async def compact(
    request: CompactRequest, generator: Generator, store: ResponseStore, disconnect: Disconnect
) -> Response:
    """Raises ApiError. Where the conversation does not fit the context the oldest messages are left out."""
    items = await asyncio.to_thread(Conversation(request, store).items)
    task = MessageItem(role="user", content=_TASK).shown()
    # Half the context at most, so that the other half can hold what is summarized.
    limit = min(MAX_SUMMARY_TOKENS, generator.max_model_len() // 2)
    chat = checked_chat(
        {
            "model": request.model,
            "messages": chat_messages(request.instructions, [*items, task]),
            "max_completion_tokens": limit,
        }
    )
    turn = await disconnect.run(open_response_turn(chat, generator, new_id("cmp"), truncate=True))
    try:
        await disconnect.run(turn.drain())
    finally:
        await turn.close()
    summary = {
        "id": new_id("cmp"),
        "type": "compaction",
        "encrypted_content": write_summary(turn.choices[0].content or turn.choices[0].reasoning),
    }
    body = {
        "id": new_id("resp"),
        "object": "response.compaction",
        "created_at": turn.created,
        "output": [*(item for item in items if item["type"] == "message" and item["role"] == "user"), summary],
        "usage": shown_usage(turn.counts()),
    }
    return Response(msgspec.json.encode(body), media_type="application/json")
