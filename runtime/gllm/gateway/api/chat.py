"""POST /v1/chat/completions."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import msgspec

from gllm.gateway.protocol.chat_schema import ChatRequest
from gllm.gateway.protocol.chunks import DONE, SYSTEM_FINGERPRINT, Chunks, error_frame
from gllm.gateway.protocol.errors import ApiError
from gllm.gateway.protocol.logprobs import TokenNames, chat_logprobs, prompt_logprobs
from gllm.gateway.protocol.usage import usage
from gllm.gateway.request.answer import Answer
from gllm.gateway.request.chat_turn import ChatChoice, ChatDelta, ChatTurn
from gllm.gateway.shared.gateway import Gateway
from gllm.text.tool_parsers import ToolCallDelta


async def open_chat(request: ChatRequest, gateway: Gateway) -> Answer:
    """Open the answer. Raises ApiError or ParameterError for any error before the first token."""
    return ChatAnswer(await ChatTurn.open(request, gateway, f"chatcmpl-{uuid.uuid4().hex}"))


class ChatAnswer(Answer):
    """One chat answer, streamed or whole."""

    def __init__(self, turn: ChatTurn) -> None:
        super().__init__(turn.generation)
        self._turn = turn
        # As in OpenAI's API, an answer that consists of tool calls only has no content, not even an empty one.
        self._no_text: dict[str, Any] = {} if turn.request.forces_tool else {"content": ""}
        self._names = TokenNames(turn.model.tokenizer, as_ids=bool(turn.request.return_tokens_as_token_ids))

    async def frames(self) -> AsyncGenerator[bytes, None]:
        turn, generation = self._turn, self._generation
        request = turn.request
        wants_usage, continuous_usage = request.wants_usage_chunk, request.wants_continuous_usage
        chunks = Chunks("chat.completion.chunk", generation.id, generation.created, turn.model.name, wants_usage)
        begun = [False] * len(turn.choices)
        first = {"role": "assistant", "content": None} | self._no_text
        top = self._prompt_ids()
        if continuous_usage:
            # The first chunk of an answer contains no token.
            chunks.counts = usage(msgspec.structs.replace(turn.counts(), completion=0))
        try:
            async for delta in turn.deltas():
                index = delta.index
                if not begun[index]:
                    begun[index] = True
                    yield chunks.delta(index, first, top=top)
                    top = {}
                    if request.echoed_text:
                        yield chunks.content(index, request.echoed_text)
                if continuous_usage:
                    chunks.counts = usage(turn.counts())
                plain = turn.choices[index].plain and delta.logprobs is None and not request.return_token_ids
                if plain and delta.finish_reason is None:
                    if delta.content:
                        yield chunks.content(index, delta.content)
                else:
                    for frame in self._rich(chunks, delta):
                        yield frame
        except ApiError as error:
            yield error_frame(error.body())
            return
        if wants_usage:
            yield chunks.usage(usage(turn.counts()))
        yield DONE

    def _rich(self, chunks: Chunks, delta: ChatDelta) -> Iterator[bytes]:
        """Yield a chunk with the delta's text, calls, logprobs and token ids, then one with its finish reason.

        Without text, logprobs and token ids go into the last chunk. When each chunk carries the usage so far, the last
        text and the finish reason share one chunk, so that no chunk repeats the counts of another.
        """
        fields: dict[str, Any] = {}
        if delta.reasoning:
            fields["reasoning_content"] = fields["reasoning"] = delta.reasoning
        if delta.content:
            fields["content"] = delta.content
        if delta.tool_calls:
            fields["tool_calls"] = [_call_chunk(call) for call in delta.tool_calls]
        logprobs: dict[str, Any] | None = None
        if delta.logprobs:
            entries = chat_logprobs(delta.logprobs, self._turn.model.tokenizer, self._names)
            logprobs = {"content": entries, "refusal": None}
        ids: dict[str, Any] = {}
        if delta.token_ids and self._turn.request.return_token_ids:
            ids["token_ids"] = delta.token_ids
        ends = delta.finish_reason is not None
        shares = ends and chunks.counts is not None
        if (fields and not shares) or (not ends and (logprobs or ids)):
            if logprobs:
                fields.setdefault("content", "")
            yield chunks.delta(delta.index, fields, logprobs, more=ids)
            logprobs, ids = None, {}
        if ends:
            stopped_by = self._turn.choices[delta.index].stopped_by
            last = self._no_text | fields if shares else self._no_text
            yield chunks.delta(delta.index, last, logprobs, delta.finish_reason, stopped_by | ids)

    def _prompt_ids(self) -> dict[str, Any]:
        return {"prompt_token_ids": self._turn.prompt.token_ids} if self._turn.request.return_token_ids else {}

    async def whole(self) -> bytes:
        turn = self._turn
        request, tokenizer = turn.request, turn.model.tokenizer
        logprobs: list[list[dict[str, Any]]] = [[] for _ in turn.choices]
        token_ids: list[list[int]] = [[] for _ in turn.choices]
        async for delta in turn.deltas():
            token_ids[delta.index] += delta.token_ids
            if delta.logprobs:
                logprobs[delta.index] += chat_logprobs(delta.logprobs, tokenizer, self._names)
        body: dict[str, Any] = {
            "id": turn.generation.id,
            "object": "chat.completion",
            "created": turn.generation.created,
            "model": turn.model.name,
            "system_fingerprint": SYSTEM_FINGERPRINT,
            "choices": [
                {
                    "index": index,
                    "message": _message(choice, request.echoed_text),
                    "logprobs": {"content": logprobs[index], "refusal": None} if request.logprobs else None,
                    "finish_reason": choice.finish_reason,
                    **choice.stopped_by,
                    "token_ids": token_ids[index] if request.return_token_ids else None,
                }
                for index, choice in enumerate(turn.choices)
            ],
            "usage": usage(turn.counts()),
            "prompt_logprobs": None,
            "prompt_token_ids": None,
            **self._prompt_ids(),
        }
        scored = turn.generation.choices[0].prompt_logprobs
        if request.prompt_logprobs is not None and scored is not None:
            body["prompt_logprobs"] = prompt_logprobs(scored, tokenizer)
        return msgspec.json.encode(body)


def _message(choice: ChatChoice, echoed: str) -> dict[str, Any]:
    """Return the `message` of an answer that is not streamed."""
    content = echoed + choice.content
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
