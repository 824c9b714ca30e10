"""Converts a chat turn to Anthropic's message, in one piece or as events."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from gllm.gateway.api.messages.blocks import Blocks
from gllm.gateway.api.messages.message_chat import chat_of
from gllm.gateway.protocol.anthropic_schema import MessagesRequest
from gllm.gateway.protocol.chunks import Event, event_frame
from gllm.gateway.protocol.errors import ApiError
from gllm.gateway.protocol.usage import messages_usage
from gllm.gateway.request.answer import Answer
from gllm.gateway.request.chat_turn import ChatTurn
from gllm.gateway.shared.gateway import Gateway


async def open_message(request: MessagesRequest, gateway: Gateway) -> Answer:
    """Open the answer. Raises ApiError or ParameterError for any error before the first token."""
    chat = await asyncio.to_thread(chat_of, request)
    return MessageAnswer(await ChatTurn.open(chat, gateway, f"msg_{uuid.uuid4().hex}"))


class MessageAnswer(Answer):
    """One message, streamed or whole."""

    def __init__(self, turn: ChatTurn) -> None:
        super().__init__(turn.generation)
        self._turn = turn
        self._blocks = Blocks()

    async def frames(self) -> AsyncGenerator[bytes, None]:
        message = self._message([], None, None)
        yield event_frame({"type": "message_start", "message": message})
        pinged = False
        try:
            async for event in self._block_events():
                yield event_frame(event)
                if not pinged:
                    pinged = True
                    yield event_frame({"type": "ping"})
        except ApiError as error:
            yield event_frame(error.anthropic_object())
            return
        reason, sequence = self._stop()
        yield event_frame(
            {
                "type": "message_delta",
                "delta": {"stop_reason": reason, "stop_sequence": sequence},
                "usage": messages_usage(self._turn.counts()),
            }
        )
        yield event_frame({"type": "message_stop"})

    async def whole(self) -> bytes:
        async for _ in self._block_events():
            pass
        return msgspec.json.encode(self._message(self._blocks.content(), *self._stop()))

    async def _block_events(self) -> AsyncGenerator[Event, None]:
        async for delta in self._turn.deltas():
            for event in self._blocks.add(delta):
                yield event
        for event in self._blocks.end():
            yield event

    def _message(self, content: list[dict[str, Any]], reason: str | None, sequence: str | None) -> dict[str, Any]:
        return {
            "id": self._generation.id,
            "type": "message",
            "role": "assistant",
            "model": self._turn.model.name,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": sequence,
            "usage": messages_usage(self._turn.counts()),
        }

    def _stop(self) -> tuple[str, str | None]:
        """Return (stop_reason, stop_sequence)."""
        finish = self._turn.choices[0].finish_reason
        if finish == "tool_calls":
            return "tool_use", None
        choice = self._generation.choices[0]
        if finish == "length":
            asked = self._turn.request.max_tokens
            is_cut = asked is None or choice.completion_tokens >= asked
            return "max_tokens" if is_cut else "model_context_window_exceeded", None
        if isinstance(choice.stop_reason, str):
            return "stop_sequence", choice.stop_reason
        return "end_turn", None
