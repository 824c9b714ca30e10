"""Turns the deltas of a chat turn into output items and their events. The events get their sequence numbers later."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from gllm.gateway.protocol.chunks import Event
from gllm.gateway.protocol.item_schema import Item, new_id
from gllm.gateway.protocol.logprobs import TokenNames, chat_logprobs
from gllm.gateway.request.chat_turn import ChatDelta
from gllm.text.tokenizer import Tokenizer
from gllm.text.tool_parsers import ToolCallDelta
from gllm.wire.messages import TokenLogprob

ResponseStatus = Literal["completed", "incomplete"]


class OutputItems:
    """Collects the items in the order of the answer. The last one may still grow; the others are complete."""

    def __init__(self, tokenizer: Tokenizer, wants_logprobs: bool) -> None:
        self._tokenizer = tokenizer
        self._names = TokenNames(tokenizer, as_ids=False)
        self._wants_logprobs = wants_logprobs
        self._unsaid: list[TokenLogprob] = []
        """Logprobs of tokens whose text is still held back."""
        self._growing = False
        self._call_index = -1
        self.items: list[Item] = []

    def apply(self, delta: ChatDelta) -> Iterator[Event]:
        if self._wants_logprobs and delta.logprobs:
            self._unsaid += delta.logprobs
        if delta.reasoning:
            self._unsaid.clear()
            yield from self._begin("reasoning")
            part = self.items[-1]["content"][0]
            part["text"] += delta.reasoning
            yield self._part_event("response.reasoning_text.delta", delta=delta.reasoning)
        if delta.content:
            yield from self._begin("message")
            yield self._more_text(delta.content)
        for call in delta.tool_calls:
            self._unsaid.clear()
            if call.index > self._call_index:
                self._call_index = call.index
                yield from self._begin_call(call)
            if call.arguments:
                self.items[-1]["arguments"] += call.arguments
                yield self._item_event("response.function_call_arguments.delta", delta=call.arguments)

    def finish(self, status: ResponseStatus) -> Iterator[Event]:
        """End the last item with this status. An answer without items becomes an empty message."""
        if not self.items:
            yield from self._begin("message")
        if self._unsaid and self.items[-1]["type"] == "message":
            yield self._more_text("")
        yield from self._end(status)

    def _begin(self, kind: Literal["reasoning", "message"]) -> Iterator[Event]:
        """Begin an item with one empty part, unless the last item is of that kind and still grows."""
        if self._growing and self.items[-1]["type"] == kind:
            return
        yield from self._end("completed")
        if kind == "reasoning":
            item: Item = {"id": new_id("rs"), "type": kind, "summary": [], "content": [], "status": "in_progress"}
            part: Item = {"type": "reasoning_text", "text": ""}
        else:
            item = {"id": new_id("msg"), "type": kind, "role": "assistant", "content": [], "status": "in_progress"}
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        yield self._added(item)
        item["content"].append(part)
        yield self._part_event("response.content_part.added", part=dict(part))

    def _begin_call(self, call: ToolCallDelta) -> Iterator[Event]:
        yield from self._end("completed")
        yield self._added(
            {
                "id": new_id("fc"),
                "type": "function_call",
                "call_id": call.id or new_id("call"),
                "name": call.name or "",
                "arguments": "",
                "status": "in_progress",
            }
        )

    def _added(self, item: Item) -> Event:
        self.items.append(item)
        self._growing = True
        # The event gets a copy, because the item itself grows.
        copy = {key: list(value) if isinstance(value, list) else value for key, value in item.items()}
        return {"type": "response.output_item.added", "output_index": len(self.items) - 1, "item": copy}

    def _more_text(self, text: str) -> Event:
        part = self.items[-1]["content"][0]
        part["text"] += text
        logprobs = chat_logprobs(self._unsaid, self._tokenizer, self._names)
        self._unsaid.clear()
        part["logprobs"] += logprobs
        return self._part_event("response.output_text.delta", delta=text, logprobs=logprobs)

    def _end(self, status: ResponseStatus) -> Iterator[Event]:
        if not self._growing:
            return
        self._growing = False
        item = self.items[-1]
        item["status"] = status
        if item["type"] == "function_call":
            yield self._item_event(
                "response.function_call_arguments.done", name=item["name"], arguments=item["arguments"]
            )
        else:
            part = item["content"][0]
            if item["type"] == "reasoning":
                yield self._part_event("response.reasoning_text.done", text=part["text"])
            else:
                yield self._part_event("response.output_text.done", text=part["text"], logprobs=part["logprobs"])
            yield self._part_event("response.content_part.done", part=part)
        yield {"type": "response.output_item.done", "output_index": len(self.items) - 1, "item": item}

    def _item_event(self, kind: str, **fields: Any) -> Event:
        """Return an event of the last item."""
        return {"type": kind, "item_id": self.items[-1]["id"], "output_index": len(self.items) - 1, **fields}

    def _part_event(self, kind: str, **fields: Any) -> Event:
        """Return an event of the last item's only part."""
        return self._item_event(kind, content_index=0, **fields)
