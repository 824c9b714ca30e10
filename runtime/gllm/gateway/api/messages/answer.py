"""From a chat turn to Anthropic's message, in one piece or as events."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
from starlette.responses import Response

from gllm.gateway.api.messages.blocks import Blocks, Event
from gllm.gateway.api.messages.convert import MessagesChat
from gllm.gateway.http.sse import Disconnect, respond
from gllm.gateway.protocol.anthropic_errors import error_object
from gllm.gateway.protocol.errors import ApiError
from gllm.gateway.request.chat_turn import ChatTurn, open_turn
from gllm.gateway.request.generation import Generator

_json = msgspec.json.Encoder().encode


async def answer_messages(chat: MessagesChat, generator: Generator, disconnect: Disconnect) -> Response:
    """Raises ApiError or ParameterError for everything known before the first token."""
    turn = await disconnect.run(open_turn(chat, generator, f"msg_{uuid.uuid4().hex}"))
    return await respond(_Answer(turn), turn.close, disconnect, stream=bool(chat.stream))


class _Answer:
    def __init__(self, turn: ChatTurn) -> None:
        self._turn = turn
        self._blocks = Blocks()

    async def frames(self) -> AsyncGenerator[bytes, None]:
        message = self._message([], None, None)
        yield _frame({"type": "message_start", "message": message})
        pinged = False
        try:
            async for event in self._block_events():
                yield _frame(event)
                if not pinged:
                    pinged = True
                    yield _frame({"type": "ping"})
        except ApiError as error:
            yield _frame(error_object(error))
            return
        reason, sequence = self._stop()
        yield _frame(
            {
                "type": "message_delta",
                "delta": {"stop_reason": reason, "stop_sequence": sequence},
                "usage": self._usage(),
            }
        )
        yield _frame({"type": "message_stop"})

    async def whole(self) -> bytes:
        async for _ in self._block_events():
            pass
        return _json(self._message(self._blocks.content(), *self._stop()))

    async def _block_events(self) -> AsyncGenerator[Event, None]:
        async for delta in self._turn.deltas():
            for event in self._blocks.add(delta):
                yield event
        for event in self._blocks.end():
            yield event

    def _message(self, content: list[dict[str, Any]], reason: str | None, sequence: str | None) -> dict[str, Any]:
        return {
            "id": self._turn.id,
            "type": "message",
            "role": "assistant",
            "model": self._turn.model.name,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": sequence,
            "usage": self._usage(),
        }

    def _stop(self) -> tuple[str, str | None]:
        """(stop_reason, stop_sequence)"""
        finish = self._turn.choices[0].finish_reason
        if finish == "tool_calls":
            return "tool_use", None
        choice = self._turn.generation.choices[0]
        if finish == "length":
            asked = self._turn.request.max_tokens
            is_cut = asked is None or choice.completion_tokens >= asked
            return "max_tokens" if is_cut else "model_context_window_exceeded", None
        if isinstance(choice.stop_reason, str):
            return "stop_sequence", choice.stop_reason
        return "end_turn", None

    def _usage(self) -> dict[str, Any]:
        counts = self._turn.counts()
        shown: dict[str, Any] = {
            "input_tokens": counts.prompt - counts.cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": counts.cached,
            "output_tokens": counts.completion,
        }
        if counts.reasoning is not None:
            shown["output_tokens_details"] = {"thinking_tokens": counts.reasoning}
        return shown


def _frame(event: Event) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), _json(event))
