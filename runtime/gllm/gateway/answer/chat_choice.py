"""From a choice's text to what OpenAI's chat shows: reasoning, content, tool calls, finish reason."""

from __future__ import annotations

from typing import Any

import msgspec

from gllm.gateway.interfaces import ReasoningParser, ToolCallDelta, ToolParser
from gllm.gateway.service import Choice, Delta


class Shown(msgspec.Struct, gc=False):
    """What one delta adds to one choice of a chat."""

    reasoning: str = ""
    content: str = ""
    tool_calls: list[dict[str, Any]] = []
    finish_reason: str | None = None


class ChatChoice:
    """Runs the parsers of one choice and keeps what a non-streamed answer needs."""

    def __init__(
        self, choice: Choice, reasoning: ReasoningParser | None, tools: ToolParser | None, parallel: bool
    ) -> None:
        self._choice = choice
        self._reasoning = reasoning
        self._tools = tools
        self._parallel = parallel
        self._thinking = reasoning is not None
        self._done = False
        self.reasoning_tokens = 0
        self.plain = reasoning is None and tools is None
        """Text is content: nothing to parse."""
        self.role_sent = False
        self.content: list[str] = []
        self.reasoning: list[str] = []
        self.calls: list[dict[str, Any]] = []
        self.logprobs: list[dict[str, Any]] = []
        self.finish_reason: str | None = None

    def apply(self, delta: Delta) -> Shown:
        if self._done:
            return Shown()
        shown = Shown(content=delta.text) if self.plain else self._parse(delta)
        if shown.content:
            self.content.append(shown.content)
        if shown.reasoning:
            self.reasoning.append(shown.reasoning)
        if delta.finish_reason is not None and shown.finish_reason is None:
            shown.finish_reason = "tool_calls" if self.calls and delta.finish_reason == "stop" else delta.finish_reason
        if shown.finish_reason is not None:
            self._done = True
            self.finish_reason = shown.finish_reason
        return shown

    def _parse(self, delta: Delta) -> Shown:
        ended = delta.finish_reason is not None
        reasoning, text = "", delta.text
        if self._reasoning is not None:
            reasoning, text = self._reasoning.feed(text)
            if self._thinking:
                # Tokens count as reasoning up to and with the one that ends it.
                self.reasoning_tokens += delta.num_tokens
                self._thinking = not text
                if not (self._thinking or self.reasoning or reasoning):
                    self.reasoning_tokens = 0
            if ended:
                last_reasoning, last_text = self._reasoning.finish()
                reasoning, text = reasoning + last_reasoning, text + last_text
        shown = Shown(reasoning=reasoning, content=text, tool_calls=[])
        if self._tools is None:
            return shown
        parsed = self._tools.feed(text)
        shown.content = parsed.content
        calls = list(parsed.tool_calls)
        if ended:
            last = self._tools.finish()
            shown.content += last.content
            calls += last.tool_calls
        for call in calls:
            if call.index > 0 and not self._parallel:
                shown.finish_reason = "tool_calls"
                self._choice.cut = True
                break
            shown.tool_calls.append(self._record(call))
        return shown

    def _record(self, call: ToolCallDelta) -> dict[str, Any]:
        """Keep the call for a whole answer; give it in the shape of a streamed delta."""
        while len(self.calls) <= call.index:
            self.calls.append({"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
        kept = self.calls[call.index]
        delta: dict[str, Any] = {"index": call.index}
        function: dict[str, Any] = {}
        if call.id is not None:
            kept["id"] = delta["id"] = call.id
            delta["type"] = "function"
        if call.name is not None:
            kept["function"]["name"] = function["name"] = call.name
        kept["function"]["arguments"] += call.arguments
        function["arguments"] = call.arguments
        delta["function"] = function
        return delta

    def message(self) -> dict[str, Any]:
        """The `message` of a non-streamed answer."""
        content = "".join(self.content)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": content if content or not self.calls else None,
            "refusal": None,
        }
        if self._reasoning is not None:
            reasoning = "".join(self.reasoning) or None
            message["reasoning_content"] = message["reasoning"] = reasoning
        if self.calls:
            message["tool_calls"] = self.calls
        return message
