"""POST /v1/responses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import msgspec

from gllm.gateway.api.responses.output import OutputItems, ResponseStatus
from gllm.gateway.api.responses.resource import ResponseObject
from gllm.gateway.api.responses.response_chat import chat_request, in_responses_terms
from gllm.gateway.api.responses.store import ResponseStore, StoredResponse, read_items
from gllm.gateway.api.responses.truncation import truncated
from gllm.gateway.protocol.chat_schema import ChatRequest
from gllm.gateway.protocol.chunks import DONE, Event, event_frame
from gllm.gateway.protocol.errors import ApiError, from_parameter_error
from gllm.gateway.protocol.item_schema import Item, ItemReference, new_id
from gllm.gateway.protocol.responses_schema import ConversationRequest, ResponsesRequest
from gllm.gateway.request.answer import Answer
from gllm.gateway.request.chat_turn import ChatTurn
from gllm.gateway.shared.gateway import Gateway
from gllm.sampling_params import ParameterError

_json = msgspec.json.Encoder().encode


class Conversation:
    """The items that the model reads: items of earlier responses, as stored JSON, and new items."""

    def __init__(self, request: ConversationRequest, store: ResponseStore) -> None:
        """Raises ApiError 404 for a response or an item that is not stored."""
        self.history = store.history(request.previous_response_id)
        self.new = [
            store.item(item.id) if isinstance(item, ItemReference) else item.to_item() for item in request.input_items
        ]

    def items(self) -> list[Item]:
        return [*read_items(self.history), *self.new]


async def open_response(request: ResponsesRequest, gateway: Gateway, store: ResponseStore) -> Answer:
    """Open the answer. Raises ApiError for any error before the first token."""
    conversation = Conversation(request, store)
    chat = await chat_of(request, conversation)
    turn = await open_response_turn(chat, gateway, new_id("resp"), truncate=request.truncation == "auto")

    def keep(response: dict[str, Any]) -> None:
        if request.stored:
            body = _json(response)
            stored = StoredResponse(body, conversation.history, conversation.new, response["output"])
            store.add(turn.generation.id, stored)

    return ResponseAnswer(request, turn, keep)


async def chat_of(request: ResponsesRequest, conversation: Conversation) -> ChatRequest:
    """Return the chat request. It is built in a thread, because a conversation may have megabytes."""
    return await asyncio.to_thread(lambda: chat_request(request, conversation.items()))


async def open_response_turn(chat: ChatRequest, gateway: Gateway, response_id: str, *, truncate: bool) -> ChatTurn:
    """Open the turn. Errors name the fields of a Responses request. Raises ApiError."""
    try:
        if truncate:
            chat = await truncated(chat, gateway)
        return await ChatTurn.open(chat, gateway, response_id)
    except ParameterError as error:
        raise in_responses_terms(from_parameter_error(error)) from None
    except ApiError as error:
        raise in_responses_terms(error) from None


class ResponseAnswer(Answer):
    """One response, streamed or whole."""

    def __init__(self, request: ResponsesRequest, turn: ChatTurn, keep: Callable[[dict[str, Any]], None]) -> None:
        super().__init__(turn.generation)
        self._turn = turn
        self._keep = keep
        self._response = ResponseObject(request, turn)
        self._output = OutputItems(turn.model.tokenizer, request.wants_logprobs)

    async def frames(self) -> AsyncGenerator[bytes, None]:
        number = 0

        def frame(event: Event) -> bytes:
            nonlocal number
            event["sequence_number"] = number
            number += 1
            return event_frame(event)

        output = self._output
        yield frame({"type": "response.created", "response": self._response.in_progress()})
        yield frame({"type": "response.in_progress", "response": self._response.in_progress()})
        try:
            async for delta in self._turn.deltas():
                for event in output.apply(delta):
                    yield frame(event)
        except ApiError as error:
            response = self._response.failed(output.items, in_responses_terms(error))
            yield frame({"type": "response.failed", "response": response})
            return
        status = self._status()
        for event in output.finish(status):
            yield frame(event)
        response = self._response.finished(status, output.items)
        self._keep(response)
        yield frame({"type": f"response.{status}", "response": response})
        yield DONE

    async def whole(self) -> bytes:
        output = self._output
        try:
            async for delta in self._turn.deltas():
                for _ in output.apply(delta):
                    pass
        except ApiError as error:
            raise in_responses_terms(error) from None
        status = self._status()
        for _ in output.finish(status):
            pass
        response = self._response.finished(status, output.items)
        self._keep(response)
        return _json(response)

    def _status(self) -> ResponseStatus:
        """Incomplete means that the answer ended at its limit."""
        return "incomplete" if self._turn.choices[0].finish_reason == "length" else "completed"
