"""The items of a conversation: as a client sends them, and in the one form that is stored and rendered."""

from __future__ import annotations

import uuid
from typing import Annotated, Any, Literal

import msgspec
from pydantic import BeforeValidator, Discriminator, Field, Tag

from gllm.gateway.protocol.message_schema import MAX_CONTENT_PARTS, Content, TextPart
from gllm.gateway.protocol.schema import CallId, Label, Tolerant

Item = dict[str, Any]
"""An item with all its keys, as OpenAI's API shows it."""


def new_id(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex}"


def _content_parts(content: str | list[TextPart], text_type: str) -> list[Item]:
    texts = [content] if isinstance(content, str) else [part.text for part in content]
    more: Item = {"annotations": [], "logprobs": []} if text_type == "output_text" else {}
    return [{"type": text_type, "text": text, **more} for text in texts]


def _json_text(value: Any) -> Any:
    """Encode arguments that a client sends as an object."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


class MessageItem(Tolerant):
    type: Literal["message"] | None = None
    role: Literal["user", "assistant", "system", "developer"]
    content: Content
    phase: Label | None = None

    def to_item(self) -> Item:
        item = {
            "id": new_id("msg"),
            "type": "message",
            "role": self.role,
            "status": "completed",
            "content": _content_parts(self.content, "output_text" if self.role == "assistant" else "input_text"),
        }
        return item if self.phase is None else {**item, "phase": self.phase}


class FunctionCallItem(Tolerant):
    type: Literal["function_call"]
    call_id: CallId
    name: Label
    arguments: Annotated[str, BeforeValidator(_json_text)] = ""

    def to_item(self) -> Item:
        return {
            "id": new_id("fc"),
            "type": "function_call",
            "call_id": self.call_id,
            "name": self.name,
            "arguments": self.arguments,
            "status": "completed",
        }


class FunctionCallOutputItem(Tolerant):
    type: Literal["function_call_output"]
    call_id: CallId
    output: Content = ""

    def to_item(self) -> Item:
        output = self.output
        return {
            "id": new_id("fco"),
            "type": "function_call_output",
            "call_id": self.call_id,
            "output": output if isinstance(output, str) else _content_parts(output, "input_text"),
            "status": "completed",
        }


class ReasoningText(Tolerant):
    text: str


class ReasoningItem(Tolerant):
    type: Literal["reasoning"]
    summary: Annotated[list[ReasoningText], Field(max_length=MAX_CONTENT_PARTS, fail_fast=True)] | None = None
    content: Annotated[list[ReasoningText], Field(max_length=MAX_CONTENT_PARTS, fail_fast=True)] | None = None

    def to_item(self) -> Item:
        return {
            "id": new_id("rs"),
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": part.text} for part in self.summary or ()],
            "content": [{"type": "reasoning_text", "text": part.text} for part in self.content or ()],
            "status": "completed",
        }


class CompactionItem(Tolerant):
    type: Literal["compaction"]
    encrypted_content: str

    def to_item(self) -> Item:
        return {"id": new_id("cmp"), "type": "compaction", "encrypted_content": self.encrypted_content}


class ItemReference(Tolerant):
    """An item of a stored response, by its id."""

    type: Literal["item_reference"] | None = None
    id: Label


_TAGS = {
    "message": "MessageItem",
    "function_call": "FunctionCallItem",
    "function_call_output": "FunctionCallOutputItem",
    "reasoning": "ReasoningItem",
    "compaction": "CompactionItem",
    "item_reference": "ItemReference",
}


def _known_type(item: Any) -> Any:
    kind = item.get("type") if isinstance(item, dict) else None
    if isinstance(kind, str) and kind not in _TAGS:
        raise ValueError(f"an item of type '{kind[:64]}' is not supported; there are no built-in tools here")
    return item


def _tag(item: Any) -> str:
    """Return the tag of an item. Messages and references may lack a type."""
    if not isinstance(item, dict):
        return "MessageItem"
    kind = item.get("type")
    if isinstance(kind, str):
        return _TAGS[kind]
    return "ItemReference" if "id" in item and "role" not in item else "MessageItem"


InputItem = Annotated[
    Annotated[MessageItem, Tag("MessageItem")]
    | Annotated[FunctionCallItem, Tag("FunctionCallItem")]
    | Annotated[FunctionCallOutputItem, Tag("FunctionCallOutputItem")]
    | Annotated[ReasoningItem, Tag("ReasoningItem")]
    | Annotated[CompactionItem, Tag("CompactionItem")]
    | Annotated[ItemReference, Tag("ItemReference")],
    Discriminator(_tag),
    BeforeValidator(_known_type),
]
