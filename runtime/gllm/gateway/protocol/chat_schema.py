"""The body of POST /v1/chat/completions."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field, ValidationError, model_validator

from gllm.gateway.protocol.generation_schema import GenerationRequest
from gllm.gateway.protocol.message_schema import (
    MAX_TOOLS,
    AllowedTools,
    ChatMessage,
    NamedTool,
    TemplateKwargs,
    Tool,
    ToolChoice,
    num_chars,
)
from gllm.gateway.protocol.schema import MAX_INT, Label
from gllm.sampling_params import MAX_LOGPROBS, ParameterError

MAX_MESSAGES = 4096


class ChatRequest(GenerationRequest):
    prompt_field: ClassVar[str] = "messages"

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    max_tokens: Annotated[int, Field(ge=1, le=MAX_INT)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=MAX_INT)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None

    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None

    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    echo: bool | None = None
    chat_template_kwargs: TemplateKwargs | None = None
    reasoning_effort: Label | None = None
    include_reasoning: bool | None = None
    """False: the answer leaves the reasoning out."""

    @model_validator(mode="before")
    @classmethod
    def _only_allowed_tools(cls, data: Any) -> Any:
        """Replace a tool choice of type `allowed_tools` by its mode, and drop the tools that it does not allow."""
        choice = data.get("tool_choice") if isinstance(data, dict) else None
        if not isinstance(choice, dict) or choice.get("type") != "allowed_tools":
            return data
        try:
            allowed = AllowedTools.model_validate(choice.get("allowed_tools", choice))
        except ValidationError:
            raise ParameterError(
                "tool_choice",
                "a choice of type 'allowed_tools' needs 'mode' ('auto' or 'required') and 'tools' (by name)",
            ) from None
        tools = data.get("tools")
        offered = {_name(tool): tool for tool in tools} if isinstance(tools, list) else {}
        for tool in allowed.tools:
            if tool.function.name not in offered:
                raise ParameterError("tool_choice", f"there is no tool named '{tool.function.name}'")
        names = {tool.function.name for tool in allowed.tools}
        return {**data, "tools": [tool for name, tool in offered.items() if name in names], "tool_choice": allowed.mode}

    @model_validator(mode="after")
    def _chat_consistent(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
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
        if self.forces_tool and not names:
            raise ParameterError(
                "tool_choice",
                "a tool call is asked for, but there are no tools; send 'tools', or leave 'tool_choice' out",
            )
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise ParameterError("tool_choice", f"there is no tool named '{self.tool_choice.function.name}'")

    @property
    def num_chars(self) -> int:
        return num_chars(self.messages)

    @property
    def uses_tools(self) -> bool:
        """Whether the model sees the tools, and its output is searched for calls."""
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
    def echoed_text(self) -> str:
        """The text that `echo` puts before the answer: the final message, if the answer continues it."""
        last = self.messages[-1]
        if not self.echo or (last.role != "assistant" and self.add_generation_prompt is not False):
            return ""
        content = last.for_template()["content"]
        return content if isinstance(content, str) else ""

    @property
    def num_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def output_limit(self) -> int | None:
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens


def _name(tool: Any) -> str | None:
    """Return the name of a tool that is not validated yet."""
    function = tool.get("function") if isinstance(tool, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else None
