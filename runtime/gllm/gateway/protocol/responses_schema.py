"""The bodies of POST /v1/responses (and /v1/responses/input_tokens) and of POST /v1/responses/compact."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, StringConstraints, Tag, model_validator

from gllm.gateway.protocol.chat_schema import MAX_MESSAGES, ChatRequest
from gllm.gateway.protocol.constraints import JsonSchemaFormat
from gllm.gateway.protocol.errors import bad_request
from gllm.gateway.protocol.fields import REFUSED as REFUSED_ANYWHERE
from gllm.gateway.protocol.item_schema import InputItem, MessageItem
from gllm.gateway.protocol.message_schema import MAX_TOOLS, FunctionName, FunctionSpec
from gllm.gateway.protocol.schema import MAX_INT, Body, Label, Tolerant
from gllm.sampling_params import MAX_LOGPROBS, ParameterError

LOGPROBS = "message.output_text.logprobs"
"""The value of `include` that asks for log-probabilities."""

CHAT_ONLY = frozenset(
    [
        "messages",
        "n",
        "max_tokens",
        "max_completion_tokens",
        "response_format",
        "reasoning_effort",
        "logprobs",
        "prompt_logprobs",
        "return_token_ids",
        "return_tokens_as_token_ids",
        "echo",
        "add_generation_prompt",
        "continue_final_message",
    ]
)
"""Fields of a chat that have another name or form here, or that add to an answer what a response cannot show."""

CHAT_EXTRAS = frozenset(ChatRequest.model_fields) - CHAT_ONLY
"""Fields that mean the same as in a chat; some of them are not in OpenAI's Responses API."""

REFUSED: dict[str, str] = {
    "access_programs": "there are no access programs here",
    "background": "responses are not made in the background; use 'stream'",
    "background_options": "responses are not made in the background",
    "context_management": "use POST /v1/responses/compact",
    "conversation": "conversations are not kept; use 'previous_response_id'",
    "image": "this server reads text only",
    "moderation": "there is no moderation here",
    "personality": "say it in 'instructions'",
    "prompt": "prompt templates are not kept; send 'instructions' and 'input'",
}
"""OpenAI's fields that are refused, and why."""


def _function_only(tool: Any) -> Any:
    kind = tool.get("type") if isinstance(tool, dict) else None
    if isinstance(kind, str) and kind != "function":
        raise ValueError(f"a tool of type '{kind[:64]}' is not supported; the tools here are of type 'function'")
    return tool


class FunctionTool(FunctionSpec):
    """A tool, with the keys of its function beside its type."""

    type: Literal["function"]


class ToolChoiceFunction(Tolerant):
    type: Literal["function"]
    name: FunctionName


class ToolChoiceAllowed(Tolerant):
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[
        list[Annotated[ToolChoiceFunction, BeforeValidator(_function_only)]],
        Field(min_length=1, max_length=MAX_TOOLS, fail_fast=True),
    ]


def _known_choice(choice: Any) -> Any:
    kind = choice.get("type") if isinstance(choice, dict) else None
    if isinstance(kind, str) and kind not in ("function", "allowed_tools"):
        raise ValueError(f"a choice of type '{kind[:64]}' is not supported; there are no built-in tools here")
    return choice


def _choice_tag(choice: Any) -> str:
    if not isinstance(choice, dict):
        return "(text)"
    return "ToolChoiceAllowed" if choice.get("type") == "allowed_tools" else "ToolChoiceFunction"


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("(text)")]
    | Annotated[ToolChoiceFunction, Tag("ToolChoiceFunction")]
    | Annotated[ToolChoiceAllowed, Tag("ToolChoiceAllowed")],
    Discriminator(_choice_tag),
    BeforeValidator(_known_choice),
]


class PlainFormat(Tolerant):
    type: Literal["text", "json_object"]


class SchemaFormat(JsonSchemaFormat):
    type: Literal["json_schema"]


class TextConfig(Tolerant):
    format: (
        Annotated[
            Annotated[PlainFormat, Tag("PlainFormat")] | Annotated[SchemaFormat, Tag("SchemaFormat")],
            Discriminator(
                lambda form: (
                    "SchemaFormat" if isinstance(form, dict) and form.get("type") == "json_schema" else "PlainFormat"
                )
            ),
        ]
        | None
    ) = None
    verbosity: Label | None = None
    """Ignored."""


class Reasoning(Tolerant):
    effort: Annotated[str, StringConstraints(min_length=1, max_length=32)] | None = None
    summary: Label | None = None
    """Ignored: the response shows the reasoning itself."""


class ConversationRequest(Body):
    """The fields that select the conversation; all bodies have them."""

    model: Label | None = None
    """None: the served model."""
    input: str | Annotated[list[InputItem], Field(max_length=MAX_MESSAGES, fail_fast=True)] | None = None
    instructions: str | None = None
    previous_response_id: Label | None = None

    @model_validator(mode="after")
    def _has_input(self) -> ConversationRequest:
        if self.input in (None, []) and self.previous_response_id is None:
            raise ParameterError("input", "give 'input', 'previous_response_id' or both")
        return self

    @property
    def input_items(self) -> list[InputItem]:
        if isinstance(self.input, str):
            return [MessageItem(role="user", content=self.input)]
        return self.input or []


class CompactRequest(ConversationRequest):
    model: Label
    """Required, as in OpenAI's API."""


class ResponsesRequest(ConversationRequest):
    """May also have the fields of `CHAT_EXTRAS`; the chat request made from this one checks them."""

    model_config = ConfigDict(extra="allow")

    tools: (
        Annotated[
            list[Annotated[FunctionTool, BeforeValidator(_function_only)]], Field(max_length=MAX_TOOLS, fail_fast=True)
        ]
        | None
    ) = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    reasoning: Reasoning | None = None
    truncation: Literal["auto", "disabled"] | None = None

    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=MAX_INT)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    include: Annotated[list[Label], Field(max_length=64, fail_fast=True)] | None = None
    stream: bool | None = None
    store: bool | None = None
    background: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    # The response repeats these; they have no other effect. `max_tool_calls` counts calls of built-in tools.
    metadata: dict[str, Any] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    max_tool_calls: Annotated[int, Field(ge=1, le=MAX_INT)] | None = None
    # Ignored: events are not padded.
    client_metadata: dict[str, Any] | None = None
    stream_options: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _known_fields(self) -> ResponsesRequest:
        unknown = [name for name in self.chat_extras if name not in CHAT_EXTRAS]
        if self.background:
            unknown.append("background")
        for name in unknown:
            why = REFUSED.get(name) or (REFUSED_ANYWHERE[name].instead if name in REFUSED_ANYWHERE else "")
            message = f"The parameter '{name[:64]}' is not supported" + (f": {why}." if why else ".")
            raise bad_request(name[:64], message, "unsupported_parameter")
        return self

    @property
    def chat_extras(self) -> dict[str, Any]:
        extras = self.model_extra or {}
        return {name: value for name, value in extras.items() if (name, value) != ("n", 1)}

    @property
    def wants_logprobs(self) -> bool:
        return bool(self.top_logprobs) or LOGPROBS in (self.include or ())

    @property
    def stored(self) -> bool:
        return self.store is not False
