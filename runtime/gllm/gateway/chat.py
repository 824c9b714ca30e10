"""POST /v1/chat/completions."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
from starlette.responses import Response

from gllm.gateway.answer.chat_choice import ChatChoice, ChatDelta
from gllm.gateway.answer.chunks import Chunks, error_frame
from gllm.gateway.answer.logprobs import chat_logprobs, prompt_logprobs
from gllm.gateway.answer.usage import usage
from gllm.gateway.chat_turn import ChatTurn, open_turn
from gllm.gateway.errors import ApiError
from gllm.gateway.http.sse import DONE, Disconnect, respond
from gllm.gateway.interfaces import ToolCallDelta
from gllm.gateway.request.chat_schema import ChatRequest
from gllm.gateway.service import Generator


async def chat(request: ChatRequest, generator: Generator, disconnect: Disconnect) -> Response:
    """Raises ApiError or ParameterError for everything known before the first token."""
    turn = await disconnect.run(open_turn(request, generator, f"chatcmpl-{uuid.uuid4().hex}"))
    return await respond(_Answer(turn), turn.close, disconnect, stream=bool(request.stream))


class _Answer:
    """One chat answer, streamed or whole."""

    def __init__(self, turn: ChatTurn) -> None:
        self._turn = turn

    async def frames(self) -> AsyncGenerator[bytes, None]:
        turn = self._turn
        wants_usage = turn.request.wants_usage_chunk
        chunks = Chunks("chat.completion.chunk", turn.id, turn.created, turn.model.name, wants_usage)
        begun = [False] * len(turn.choices)
        try:
            async for delta in turn.deltas():
                index = delta.index
                if not begun[index]:
                    begun[index] = True
                    yield chunks.delta(index, {"role": "assistant", "content": ""})
                if turn.choices[index].plain and delta.logprobs is None:
                    if delta.content:
                        yield chunks.content(index, delta.content)
                elif (frame := self._rich(chunks, delta)) is not None:
                    yield frame
                if delta.finish_reason is not None:
                    yield chunks.delta(index, {}, finish=delta.finish_reason)
        except ApiError as error:
            yield error_frame(error.body())
            return
        if wants_usage:
            yield chunks.usage(usage(turn.counts()))
        yield DONE

    def _rich(self, chunks: Chunks, delta: ChatDelta) -> bytes | None:
        """A chunk with logprobs, reasoning or tool calls in it; None if there is nothing to say."""
        fields: dict[str, Any] = {}
        if delta.reasoning:
            fields["reasoning_content"] = fields["reasoning"] = delta.reasoning
        if delta.content:
            fields["content"] = delta.content
        if delta.tool_calls:
            fields["tool_calls"] = [_call_chunk(call) for call in delta.tool_calls]
        logprobs = None
        if delta.logprobs:
            logprobs = {"content": chat_logprobs(delta.logprobs, self._turn.model.tokenizer), "refusal": None}
            fields.setdefault("content", "")
        return chunks.delta(delta.index, fields, logprobs) if fields else None

    async def whole(self) -> bytes:
        turn = self._turn
        request, tokenizer = turn.request, turn.model.tokenizer
        logprobs: list[list[dict[str, Any]]] = [[] for _ in turn.choices]
        async for delta in turn.deltas():
            if delta.logprobs:
                logprobs[delta.index] += chat_logprobs(delta.logprobs, tokenizer)
        body: dict[str, Any] = {
            "id": turn.id,
            "object": "chat.completion",
            "created": turn.created,
            "model": turn.model.name,
            "choices": [
                {
                    "index": index,
                    "message": _message(choice),
                    "logprobs": {"content": logprobs[index], "refusal": None} if request.logprobs else None,
                    "finish_reason": choice.finish_reason,
                }
                for index, choice in enumerate(turn.choices)
            ],
            "usage": usage(turn.counts()),
        }
        scored = turn.generation.choices[0].prompt_logprobs
        if request.prompt_logprobs is not None and scored is not None:
            body["prompt_logprobs"] = prompt_logprobs(scored, tokenizer)
        return msgspec.json.encode(body)


def _message(choice: ChatChoice) -> dict[str, Any]:
    """The `message` of a non-streamed answer."""
    content = choice.content
    message: dict[str, Any] = {
        "role": "assistant",
        "content": content if content or not choice.calls else None,
        "refusal": None,
    }
    if choice.reasons:
        message["reasoning_content"] = message["reasoning"] = choice.reasoning or None
    if choice.calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in choice.calls
        ]
    return message


def _call_chunk(call: ToolCallDelta) -> dict[str, Any]:
    chunk: dict[str, Any] = {"index": call.index}
    function: dict[str, Any] = {}
    if call.id is not None:
        chunk["id"] = call.id
        chunk["type"] = "function"
    if call.name is not None:
        function["name"] = call.name
    function["arguments"] = call.arguments
    chunk["function"] = function
    return chunk
