"""The bodies of Anthropic's POST /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, Tag, field_validator, model_validator

from gllm.gateway.protocol.chat_schema import MAX_MESSAGES
from gllm.gateway.protocol.constraints import JsonSchema
from gllm.gateway.protocol.generation_schema import StopString
from gllm.gateway.protocol.message_schema import MAX_TOOLS, FunctionName
from gllm.gateway.protocol.schema import MAX_INT, Body, CallId, Label, Tolerant, by_type, check_json

MAX_BLOCKS = 1024

HINTS = frozenset(
    {
        "betas",
        "cache_control",
        "context_management",
        "diagnostics",
        "inference_geo",
        "speed",
        "user_profile_id",
        "workspace_id",
    }
)
"""Ignored fields, in addition to the hints of `gllm.gateway.protocol.fields`: they do not change an answer."""

REFUSED_LISTS = frozenset({"mcp_servers"})
"""Fields that are refused unless they are empty lists."""

_NEEDS: dict[str, tuple[str, ...]] = {
    "text": ("text",),
    "tool_use": ("id", "name", "input"),
    "tool_result": ("tool_use_id",),
    "thinking": ("thinking",),
    "redacted_thinking": (),
}
"""Types of content blocks, and the fields that each must have."""


def _check_kind(block: Any, kinds: tuple[str, ...]) -> Any:
    kind = block.get("type") if isinstance(block, dict) else kinds[0]
    if kind not in kinds:
        raise ValueError(f"this server reads text only, it cannot read a block of type '{str(kind)[:64]}'")
    return block


class TextBlock(Tolerant):
    text: str

    @model_validator(mode="before")
    @classmethod
    def _text_only(cls, block: Any) -> Any:
        return _check_kind(block, ("text",))


Texts = Annotated[
    Annotated[str, Tag("(text)")]
    | Annotated[list[TextBlock], Field(max_length=MAX_BLOCKS, fail_fast=True), Tag("list[block]")],
    by_type("a string or a list of text blocks", {str: "(text)", list: "list[block]"}),
]


class ContentBlock(Tolerant):
    """Any content block of a message; `type` decides which fields it has."""

    type: Label
    text: str | None = None
    id: CallId | None = None
    name: Label | None = None
    input: dict[str, Any] | None = None
    tool_use_id: CallId | None = None
    content: Texts | None = None
    is_error: bool | None = None
    thinking: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, block: Any) -> Any:
        _check_kind(block, tuple(_NEEDS))
        if isinstance(block, dict):
            if block["type"] == "tool_result" and block.get("tool_use_id") is None:
                block = {**block, "tool_use_id": block.get("id")}  # the name in clients made for SGLang
            missing = [name for name in _NEEDS[block["type"]] if block.get(name) is None]
            if missing:
                raise ValueError(f"a block of type '{block['type']}' needs '{missing[0]}'")
        return block

    @field_validator("input")
    @classmethod
    def _bounded(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        check_json(value, "input")
        return value


class MessageParam(Tolerant):
    role: Literal["user", "assistant", "system"]
    content: Annotated[
        Annotated[str, Tag("(text)")]
        | Annotated[list[ContentBlock], Field(max_length=MAX_BLOCKS, fail_fast=True), Tag("list[block]")],
        by_type("a string or a list of blocks", {str: "(text)", list: "list[block]"}),
    ]

    @property
    def blocks(self) -> list[ContentBlock]:
        return [ContentBlock(type="text", text=self.content)] if isinstance(self.content, str) else self.content


class ToolSpec(Tolerant):
    name: FunctionName
    description: str | None = None
    input_schema: JsonSchema
    strict: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _custom_only(cls, tool: Any) -> Any:
        kind = tool.get("type") if isinstance(tool, dict) else None
        if kind not in (None, "custom"):
            raise ValueError(
                f"'{str(kind)[:64]}' is a tool of Anthropic's; this server takes tools with 'name' and 'input_schema'"
            )
        return tool


class ToolChoiceParam(Tolerant):
    type: Literal["auto", "any", "tool", "none"]
    name: FunctionName | None = None
    disable_parallel_tool_use: bool | None = None

    @model_validator(mode="after")
    def _named(self) -> ToolChoiceParam:
        if self.type == "tool" and self.name is None:
            raise ValueError("a choice of type 'tool' needs 'name'")
        return self


class Thinking(Tolerant):
    type: Literal["enabled", "disabled", "adaptive", "between_tools"]


class OutputFormat(Tolerant):
    type: Literal["json_schema"]
    json_schema: JsonSchema = Field(alias="schema")


class OutputConfig(Tolerant):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class CountTokensRequest(Body):
    """The fields that make the prompt."""

    model: Label | None = None
    """None: the served model."""
    messages: Annotated[list[MessageParam], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    system: Texts | None = None
    tools: Annotated[list[ToolSpec], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: ToolChoiceParam | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    """An older place of `output_config.format`."""
    chat_template_kwargs: dict[str, Any] | None = None
    """An extension: the same as in chat completions."""
    thread: Any = None
    """A conversation stored by the server. It is refused with an error code; the SDK then sends all messages."""

    @model_validator(mode="before")
    @classmethod
    def _without_hints(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        return {
            name: value
            for name, value in body.items()
            if name not in HINTS and not (name in REFUSED_LISTS and value == [])
        }


class MessagesRequest(CountTokensRequest):
    max_tokens: Annotated[int, Field(ge=1, le=MAX_INT)]
    stop_sequences: Annotated[list[StopString], Field(fail_fast=True)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stream: bool | None = None
