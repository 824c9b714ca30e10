"""Messages and tools of a chat, in all the forms that clients send.

Unknown keys are ignored, because clients send back the answers of other servers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints, Tag, model_validator

from gllm.gateway.protocol.constraints import JsonSchema
from gllm.gateway.protocol.schema import CallId, Label, Tolerant, by_type, check_json

MAX_CONTENT_PARTS = 4096
MAX_TOOLS = 128
MAX_TOOL_CALLS = 128
MAX_TEMPLATE_KWARGS = 32

FunctionName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")]
"""OpenAI's names have 64 characters at most, Anthropic's 128."""

TemplateKwargs = Annotated[
    dict[str, Any],
    Field(max_length=MAX_TEMPLATE_KWARGS),
    AfterValidator(lambda value: check_json(value, "chat_template_kwargs")),
]

TEXT_PARTS = frozenset({"text", "input_text", "output_text"})


class TextPart(Tolerant):
    """The only supported kind of content part."""

    text: str

    @model_validator(mode="before")
    @classmethod
    def _text_only(cls, part: Any) -> Any:
        if isinstance(part, str):
            return {"text": part}
        if not isinstance(part, dict):
            return part
        kind = part.get("type", "text")
        if kind == "refusal":
            return {"text": part.get("refusal")}
        if kind not in TEXT_PARTS:
            raise ValueError(f"this server reads text only, it cannot read a part of type '{str(kind)[:64]}'")
        return part


Content = Annotated[
    Annotated[str, Tag("(text)")]
    | Annotated[list[TextPart], Field(max_length=MAX_CONTENT_PARTS, fail_fast=True), Tag("list[part]")],
    by_type("a string or a list of parts", {str: "(text)", list: "list[part]"}),
]


class CalledFunction(Tolerant):
    name: Label
    arguments: Any = ""
    """JSON text as the model wrote it, complete or not, or a decoded object."""


class ToolCall(Tolerant):
    id: CallId | None = None
    function: CalledFunction

    @model_validator(mode="before")
    @classmethod
    def _custom(cls, call: Any) -> Any:
        """Convert a call of one of OpenAI's custom tools, which take any text."""
        custom = call.get("custom") if isinstance(call, dict) else None
        if not isinstance(custom, dict):
            return call
        return {**call, "function": {"name": custom.get("name"), "arguments": {"input": custom.get("input")}}}


def _thought(part: Any) -> str | None:
    """Return the text of a part that is reasoning, None for other parts."""
    if not isinstance(part, dict) or part.get("type") not in ("thinking", "reasoning"):
        return None
    inside = part.get("thinking") or part.get("text") or part.get("reasoning") or ""
    pieces = inside if isinstance(inside, list) else [inside]
    texts = [piece.get("text") if isinstance(piece, dict) else piece for piece in pieces]
    return "".join(text for text in texts if isinstance(text, str))


class ChatMessage(Tolerant):
    role: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    """Any role that the model's template accepts."""
    content: Content | None = None
    name: Label | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=MAX_TOOL_CALLS, fail_fast=True)] | None = None
    tool_call_id: CallId | None = None
    function_call: CalledFunction | None = None
    """OpenAI's older form of a tool call; its result has the role `function`."""
    reasoning_content: Any = None
    reasoning: Any = None
    refusal: Any = None

    @model_validator(mode="before")
    @classmethod
    def _no_empty_calls(cls, message: Any) -> Any:
        """Remove empty calls: clients send both forms, and leave one empty."""
        if not isinstance(message, dict):
            return message
        calls = ("function_call", "tool_calls")
        return {key: value for key, value in message.items() if key not in calls or value not in ({}, "", [])}

    @model_validator(mode="before")
    @classmethod
    def _thoughts_apart(cls, message: Any) -> Any:
        """Move parts of an assistant's content that are reasoning, as in Mistral's and Anthropic's APIs, to
        `reasoning_content`."""
        if not isinstance(message, dict) or message.get("role") != "assistant":
            return message
        content = message.get("content")
        if not isinstance(content, list):
            return message
        thoughts = [_thought(part) for part in content]
        if all(thought is None for thought in thoughts):
            return message
        parts = [part if thought is None else "" for part, thought in zip(content, thoughts, strict=True)]
        reasoning = "\n".join(thought for thought in thoughts if thought is not None)
        return {"reasoning_content": reasoning, **message, "content": parts}

    @model_validator(mode="after")
    def _asks_something(self) -> ChatMessage:
        if self.content is None and self.role in ("system", "developer", "user"):
            raise ValueError(f"a message of role '{self.role}' needs content")
        return self

    def for_template(self) -> dict[str, Any]:
        """Return the message as chat templates expect it: text joined, and of the unset keys only `content`."""
        message: dict[str, Any] = {"role": self.role, "content": self._text()}
        if self.name is not None:
            message["name"] = self.name
        if self.tool_call_id is not None:
            message["tool_call_id"] = self.tool_call_id
        if self.tool_calls:
            message["tool_calls"] = [_call_dict(call.id, call.function) for call in self.tool_calls]
        for reasoning in (self.reasoning_content, self.reasoning):
            if isinstance(reasoning, str):
                message["reasoning_content"] = reasoning
                break
        return message

    def _text(self) -> str | None:
        text = "".join(part.text for part in self.content) if isinstance(self.content, list) else self.content
        return self.refusal if not text and isinstance(self.refusal, str) else text


def num_chars(messages: Iterable[ChatMessage]) -> int:
    """Count the characters of the messages' contents and of the arguments of their tool calls."""

    def texts(message: ChatMessage) -> Iterator[str]:
        if isinstance(message.content, str):
            yield message.content
        else:
            yield from (part.text for part in message.content or ())
        yield from (str(call.function.arguments) for call in message.tool_calls or ())

    return sum(len(text) for message in messages for text in texts(message))


def template_messages(messages: list[ChatMessage]) -> list[dict[str, Any]]:
    """Return the messages for the template.

    Calls and results in OpenAI's older form become tool calls and tool messages.
    """
    converted = []
    call_id = None
    for position, message in enumerate(messages):
        one = message.for_template()
        if message.function_call is not None and not message.tool_calls:
            call_id = f"call{position:05}"  # nine letters and digits, as Mistral's templates require
            one["tool_calls"] = [_call_dict(call_id, message.function_call)]
        elif message.role == "function":
            one["role"] = "tool"
            if call_id is not None:
                one["tool_call_id"] = call_id
        converted.append(one)
    return converted


def _call_dict(call_id: str | None, function: CalledFunction) -> dict[str, Any]:
    call = {"type": "function", "function": {"name": function.name, "arguments": function.arguments}}
    return call if call_id is None else {"id": call_id, **call}


class FunctionSpec(Tolerant):
    name: FunctionName
    description: str | None = None
    parameters: JsonSchema | None = None
    strict: bool | None = None
    """true: a call matches `parameters` even with tool_choice auto; forced calls always do."""


class Tool(Tolerant):
    type: Literal["function"] = "function"
    function: FunctionSpec


class NamedFunction(Tolerant):
    name: FunctionName


class NamedTool(Tolerant):
    type: Literal["function"] = "function"
    function: NamedFunction

    @model_validator(mode="before")
    @classmethod
    def _nested(cls, choice: Any) -> Any:
        """In the Responses API the name is beside the type."""
        if isinstance(choice, dict) and "function" not in choice and isinstance(choice.get("name"), str):
            return {**choice, "function": {"name": choice["name"]}}
        return choice


class AllowedTools(Tolerant):
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1, max_length=MAX_TOOLS, fail_fast=True)]


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("(word)")] | Annotated[NamedTool, Tag("(tool)")],
    by_type("'none', 'auto', 'required' or a function's name", {str: "(word)", dict: "(tool)", NamedTool: "(tool)"}),
]
