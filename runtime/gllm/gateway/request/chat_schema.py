"""The body of POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from gllm.gateway.request.schema import MAX_INT, GenerationRequest, Label, Schema, check_json
from gllm.sampling_params import MAX_LOGPROBS, ParameterError

MAX_MESSAGES = 4096
MAX_CONTENT_PARTS = 256
MAX_TOOLS = 128
MAX_TOOL_CALLS = 128
MAX_TEMPLATE_KWARGS = 32

FunctionName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]


class TextPart(Schema):
    """The only kind of content part there is here: images, audio and files are refused by their type's name."""

    type: Literal["text"]
    text: str


class CalledFunction(Schema):
    name: FunctionName
    arguments: str
    """JSON text, as the model wrote it."""


class ToolCall(Schema):
    id: Label
    type: Literal["function"] = "function"
    function: CalledFunction
    index: Annotated[int, Field(ge=0, le=MAX_TOOL_CALLS)] | None = None
    """Left by clients that replay streamed deltas."""


class ChatMessage(Schema):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[TextPart], Field(max_length=MAX_CONTENT_PARTS, fail_fast=True)] | None = None
    name: Label | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=MAX_TOOL_CALLS, fail_fast=True)] | None = None
    tool_call_id: Label | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None

    # An assistant message of ours or of OpenAI's, sent back as it came, has these and they are empty.
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: Annotated[list[Any], Field(max_length=0, fail_fast=True)] | None = None

    @model_validator(mode="after")
    def _fits_role(self) -> ChatMessage:
        if self.role == "assistant":
            if self.content is None and not self.tool_calls:
                raise ValueError("an assistant message needs content or tool_calls")
            return self
        if self.content is None:
            raise ValueError(f"a message of role '{self.role}' needs content")
        for field in ("tool_calls", "reasoning_content", "reasoning"):
            if getattr(self, field) is not None:
                raise ValueError(f"'{field}' belongs to assistant messages only")
        if (self.tool_call_id is not None) != (self.role == "tool"):
            raise ValueError("'tool_call_id' goes with role 'tool', and only with it")
        return self

    def for_template(self) -> dict[str, Any]:
        """As chat templates expect it: text joined, `developer` as `system`, nothing that is unset."""
        content = self.content
        if isinstance(content, list):
            content = "".join(part.text for part in content)
        message: dict[str, Any] = {
            "role": "system" if self.role == "developer" else self.role,
            "content": content if content is not None else "",
        }
        if self.name is not None:
            message["name"] = self.name
        if self.tool_call_id is not None:
            message["tool_call_id"] = self.tool_call_id
        if self.tool_calls:
            message["tool_calls"] = [
                {"id": c.id, "type": c.type, "function": {"name": c.function.name, "arguments": c.function.arguments}}
                for c in self.tool_calls
            ]
        reasoning = self.reasoning_content if self.reasoning_content is not None else self.reasoning
        if reasoning is not None:
            message["reasoning_content"] = reasoning
        return message


def num_chars(messages: Iterable[ChatMessage]) -> int:
    """Characters of the messages' contents."""
    return sum(
        len(content) if isinstance(content, str) else sum(len(part.text) for part in content or ())
        for content in (message.content for message in messages)
    )


class FunctionSpec(Schema):
    name: FunctionName
    description: Annotated[str, StringConstraints(max_length=16384)] | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    """true: a call matches `parameters` even with tool_choice auto; forced calls always do."""

    @field_validator("parameters")
    @classmethod
    def _bounded(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        check_json(value, "parameters")
        return value


class Tool(Schema):
    type: Literal["function"]
    function: FunctionSpec


class NamedFunction(Schema):
    name: FunctionName


class NamedTool(Schema):
    type: Literal["function"]
    function: NamedFunction


class ChatRequest(GenerationRequest):
    prompt_field: ClassVar[str] = "messages"

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    max_tokens: Annotated[int, Field(ge=1, le=MAX_INT)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=MAX_INT)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None

    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None

    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: Annotated[dict[str, Any], Field(max_length=MAX_TEMPLATE_KWARGS)] | None = None

    store: Literal[False] | None = None
    metadata: Annotated[dict[str, Annotated[str, StringConstraints(max_length=512)]], Field(max_length=16)] | None = (
        None
    )
    service_tier: Literal["auto", "default"] | None = None
    modalities: Annotated[list[Literal["text"]], Field(min_length=1, max_length=1, fail_fast=True)] | None = None
    verbosity: Literal["medium"] | None = None
    prompt_cache_key: Label | None = None
    prompt_cache_retention: Literal["in_memory", "in-memory"] | None = None

    @field_validator("chat_template_kwargs")
    @classmethod
    def _bounded_template_kwargs(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        check_json(value, "chat_template_kwargs")
        return value

    @model_validator(mode="after")
    def _chat_consistent(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ParameterError("top_logprobs", "top_logprobs needs logprobs to be true")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise ParameterError("max_tokens", "max_tokens and max_completion_tokens differ; give only one of them")
        if self.continue_final_message:
            if self.add_generation_prompt:
                raise ParameterError("continue_final_message", "continue_final_message excludes add_generation_prompt")
            if self.messages[-1].role != "assistant":
                raise ParameterError("continue_final_message", "the final message must be of role 'assistant'")
        self._check_tools()
        return self

    def _check_tools(self) -> None:
        names = [tool.function.name for tool in self.tools or ()]
        if len(set(names)) != len(names):
            raise ParameterError("tools", "two tools have the same name")
        if self.tool_choice not in (None, "none") and not names:
            raise ParameterError("tool_choice", "tool_choice needs tools")
        if self.parallel_tool_calls is False and not names:
            raise ParameterError("parallel_tool_calls", "parallel_tool_calls needs tools")
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise ParameterError("tool_choice", f"there is no tool named '{self.tool_choice.function.name}'")
        if self.uses_tools and self.guides:
            raise ParameterError(
                self.guides[0], f"{self.guides[0]} leaves no room for tool calls; send tool_choice 'none' or no tools"
            )

    @property
    def num_chars(self) -> int:
        return num_chars(self.messages)

    @property
    def uses_tools(self) -> bool:
        """Whether tools are shown to the model and looked for in its output."""
        return bool(self.tools) and self.tool_choice != "none"

    @property
    def forces_tool(self) -> bool:
        return self.tool_choice == "required" or isinstance(self.tool_choice, NamedTool)

    @property
    def has_strict_tools(self) -> bool:
        return any(tool.function.strict for tool in self.tools or ())

    @property
    def continues_text(self) -> bool:
        return bool(self.continue_final_message)

    @property
    def num_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def output_limit(self) -> int | None:
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens
