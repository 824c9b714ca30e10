"""The content blocks of an answer, and the events that stream them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from pydantic_core import from_json

from gllm.gateway.protocol.chunks import Event
from gllm.gateway.request.chat_turn import ChatDelta
from gllm.text.tool_parsers import ToolCallDelta

SIGNATURE = "unsigned"
"""Anthropic signs the reasoning, and clients send it back with the signature. This server does not check it."""


class _Block(msgspec.Struct):
    head: dict[str, Any]
    """The block as `content_block_start` shows it."""
    parts: list[str]

    def content(self) -> dict[str, Any]:
        text = "".join(self.parts)
        if self.head["type"] == "tool_use":
            return {**self.head, "input": _parsed(text)}
        block = {**self.head, self.head["type"]: text}
        return {**block, "signature": SIGNATURE} if "signature" in block else block


class Blocks:
    """Collects the blocks; one is open at a time. An answer without content gets one empty text block."""

    def __init__(self) -> None:
        self._blocks: list[_Block] = []
        self._open = False
        self._held = ""
        """White space before a block of text. It is dropped when a tool call follows."""

    def content(self) -> list[dict[str, Any]]:
        return [block.content() for block in self._blocks]

    def add(self, delta: ChatDelta) -> Iterator[Event]:
        if delta.reasoning:
            yield from self._text("thinking", delta.reasoning)
        if delta.content:
            text, self._held = self._held + delta.content, ""
            if text.isspace() and not self._is_open("text"):
                self._held = text
            else:
                yield from self._text("text", text)
        for call in delta.tool_calls:
            yield from self._call(call)

    def end(self) -> Iterator[Event]:
        if not self._blocks:
            yield from self._text("text", self._held)
        yield from self._close()

    def _text(self, kind: str, text: str) -> Iterator[Event]:
        """kind: `text` or `thinking`, which is also the name of the block's field."""
        if not self._is_open(kind):
            yield from self._start({"type": kind, kind: ""} | ({"signature": ""} if kind == "thinking" else {}))
        if text:
            self._blocks[-1].parts.append(text)
            yield self._delta({"type": f"{kind}_delta", kind: text})

    def _call(self, call: ToolCallDelta) -> Iterator[Event]:
        if call.id is not None:
            self._held = ""
            name = call.name or ""
            yield from self._start({"type": "tool_use", "id": tool_use_id(call.id), "name": name, "input": {}})
        if call.arguments:
            self._blocks[-1].parts.append(call.arguments)
            yield self._delta({"type": "input_json_delta", "partial_json": call.arguments})

    def _is_open(self, kind: str) -> bool:
        return self._open and self._blocks[-1].head["type"] == kind

    def _start(self, head: dict[str, Any]) -> Iterator[Event]:
        yield from self._close()
        self._open = True
        self._blocks.append(_Block(head, []))
        yield {"type": "content_block_start", "index": len(self._blocks) - 1, "content_block": head}

    def _delta(self, delta: dict[str, Any]) -> Event:
        return {"type": "content_block_delta", "index": len(self._blocks) - 1, "delta": delta}

    def _close(self) -> Iterator[Event]:
        if not self._open:
            return
        if self._is_open("thinking"):
            yield self._delta({"type": "signature_delta", "signature": SIGNATURE})
        self._open = False
        yield {"type": "content_block_stop", "index": len(self._blocks) - 1}


def tool_use_id(call_id: str) -> str:
    return "toolu_" + call_id.removeprefix("call_")


def _parsed(arguments: str) -> dict[str, Any]:
    """Parse the arguments of a call; if max_tokens cut them off, as far as they go."""
    try:
        value = from_json(arguments or "{}", allow_partial="trailing-strings")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
