"""POST /v1/responses/compact: a conversation becomes its user messages and a summary that the model writes."""

from __future__ import annotations

import asyncio

import msgspec

from gllm.gateway.api.responses.response_answer import Conversation, open_response_turn
from gllm.gateway.api.responses.response_chat import chat_messages, checked_chat, write_summary
from gllm.gateway.api.responses.store import ResponseStore
from gllm.gateway.protocol.item_schema import MessageItem, new_id
from gllm.gateway.protocol.responses_schema import CompactRequest
from gllm.gateway.protocol.usage import responses_usage
from gllm.gateway.shared.gateway import Gateway

MAX_SUMMARY_TOKENS = 1024
_TASK = (
    "Summarize the conversation so far for somebody who continues it without having read it: what was asked, "
    "what was decided and found out, and what is still to do. Write only the summary."
)


async def compact(request: CompactRequest, gateway: Gateway, store: ResponseStore) -> bytes:
    """Return the JSON body of the compacted conversation. Raises ApiError.

    If the conversation does not fit the context, the oldest messages are left out.
    """
    items = await asyncio.to_thread(Conversation(request, store).items)
    task = MessageItem(role="user", content=_TASK).to_item()
    # The summary gets at most half of the context, so that the other half can hold the conversation.
    limit = min(MAX_SUMMARY_TOKENS, gateway.limits().max_model_len // 2)
    chat = checked_chat(
        {
            "model": request.model,
            "messages": chat_messages(request.instructions, [*items, task]),
            "max_completion_tokens": limit,
        }
    )
    turn = await open_response_turn(chat, gateway, new_id("cmp"), truncate=True)
    try:
        async for _ in turn.deltas():
            pass
    finally:
        await turn.generation.close()
    summary = {
        "id": new_id("cmp"),
        "type": "compaction",
        "encrypted_content": write_summary(turn.choices[0].content or turn.choices[0].reasoning),
    }
    body = {
        "id": new_id("resp"),
        "object": "response.compaction",
        "created_at": turn.generation.created,
        "output": [*(item for item in items if item["type"] == "message" and item["role"] == "user"), summary],
        "usage": responses_usage(turn.counts()),
    }
    return msgspec.json.encode(body)
