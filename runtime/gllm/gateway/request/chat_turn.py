"""One turn of a conversation, independent of the API: reasoning, content and tool calls in the order of generation.

Each API converts its request to a `ChatRequest`, opens the turn, and encodes its deltas.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Self

import msgspec

from gllm.gateway.protocol.chat_schema import ChatRequest
from gllm.gateway.protocol.usage import TokenCounts
from gllm.gateway.request.choice import Choice
from gllm.gateway.request.generation import Generation
from gllm.gateway.shared.gateway import Gateway
from gllm.text.output.answer_text import TextDelta
from gllm.text.output.reasoning import ReasoningParser
from gllm.text.tool_parsers import ToolCallDelta, ToolParser, WithoutRepeats
from gllm.wire.messages import TokenLogprob


class ChatDelta(msgspec.Struct, gc=False):
    """One delta of one choice. Its order in the answer: reasoning, content, calls, finish reason."""

    index: int
    reasoning: str = ""
    content: str = ""
    tool_calls: list[ToolCallDelta] = []
    """The first delta of a call has `id` and `name`, the others have pieces of its arguments."""
    token_ids: list[int] = []
    """All tokens of this delta, with the EOS or stop token."""
    logprobs: list[TokenLogprob] | None = None
    """One for each of `token_ids`."""
    finish_reason: str | None = None
    """stop, length or tool_calls."""


class ParsedCall(msgspec.Struct):
    """A tool call, or as much of it as is generated."""

    id: str = ""
    name: str = ""
    arguments: str = ""


class ChatChoice:
    """Runs the parsers of one choice and collects their results."""

    def __init__(
        self,
        choice: Choice,
        reasoning: ReasoningParser | None,
        tools: ToolParser | WithoutRepeats | None,
        *,
        parallel: bool,
        shows_reasoning: bool,
    ) -> None:
        self._choice = choice
        self._parser = reasoning
        self._tools = tools
        self._parallel = parallel
        self._shows_reasoning = shows_reasoning
        self._thinking = reasoning is not None
        self._reasoning: list[str] = []
        self._content: list[str] = []
        self.reasons = reasoning is not None and shows_reasoning
        """Whether reasoning is separate from content, and part of the answer."""
        self.plain = reasoning is None and tools is None
        """Whether all text is content, because there are no parsers."""
        self.reasoning_tokens = 0
        self.calls: list[ParsedCall] = []
        self.finish_reason: str | None = None

    @property
    def stopped_by(self) -> dict[str, Any]:
        return self._choice.stopped_by

    @property
    def reasoning(self) -> str:
        return "".join(self._reasoning)

    @property
    def content(self) -> str:
        return "".join(self._content)

    def apply(self, delta: TextDelta) -> ChatDelta:
        if self.finish_reason is not None:
            return ChatDelta(delta.index, token_ids=delta.token_ids, logprobs=delta.logprobs)
        chat_delta = ChatDelta(delta.index, content=delta.text) if self.plain else self._parse(delta)
        chat_delta.token_ids, chat_delta.logprobs = delta.token_ids, delta.logprobs
        if chat_delta.content:
            self._content.append(chat_delta.content)
        if chat_delta.reasoning:
            self._reasoning.append(chat_delta.reasoning)
            if not self._shows_reasoning:
                chat_delta.reasoning = ""
        if delta.finish_reason is not None and chat_delta.finish_reason is None:
            chat_delta.finish_reason = (
                "tool_calls" if self.calls and delta.finish_reason == "stop" else delta.finish_reason
            )
        self.finish_reason = chat_delta.finish_reason
        return chat_delta

    def _parse(self, delta: TextDelta) -> ChatDelta:
        ended = delta.finish_reason is not None
        reasoning, text = "", delta.text
        if self._parser is not None:
            reasoning, text = self._parser.feed(text)
            if self._thinking:
                # All tokens of a delta count as reasoning, also of the delta in which the reasoning ends.
                self.reasoning_tokens += len(delta.token_ids)
                self._thinking = not text
                if not (self._thinking or self._reasoning or reasoning):
                    self.reasoning_tokens = 0
            if ended:
                last_reasoning, last_text = self._parser.finish()
                reasoning, text = reasoning + last_reasoning, text + last_text
        chat_delta = ChatDelta(delta.index, reasoning=reasoning, content=text)
        if self._tools is None:
            return chat_delta
        parsed = self._tools.feed(text)
        chat_delta.content = parsed.content
        calls = list(parsed.tool_calls)
        if ended:
            last = self._tools.finish()
            chat_delta.content += last.content
            calls += last.tool_calls
        chat_delta.tool_calls = []
        for call in calls:
            if call.index > 0 and not self._parallel:
                chat_delta.finish_reason = "tool_calls"
                self._choice.cut = True
                break
            chat_delta.tool_calls.append(call)
            self._keep(call)
        if self._tools.ended:
            chat_delta.finish_reason = "tool_calls"
            self._choice.cut = True
        return chat_delta

    def _keep(self, call: ToolCallDelta) -> None:
        while len(self.calls) <= call.index:
            self.calls.append(ParsedCall())
        kept = self.calls[call.index]
        kept.id = call.id if call.id is not None else kept.id
        kept.name = call.name if call.name is not None else kept.name
        kept.arguments += call.arguments


class ChatTurn:
    """A generation, read as a chat. The caller of `open` must close the generation."""

    def __init__(self, request: ChatRequest, generation: Generation) -> None:
        self.request = request
        self.generation = generation
        self.model = model = generation.model
        (self.prompt,) = generation.prompts
        # A grammar that constrains the answer from its first token leaves no room to think.
        thinks = None if request.guides or request.forces_tool else model.reasoning_parser
        self.choices = [
            ChatChoice(
                choice,
                thinks(self.prompt.text) if thinks else None,
                model.parser_of_calls(forced=request.forces_tool) if request.uses_tools else None,
                parallel=request.parallel_tool_calls is not False,
                shows_reasoning=request.include_reasoning is not False,
            )
            for choice in generation.choices
        ]

    @classmethod
    async def open(cls, request: ChatRequest, gateway: Gateway, response_id: str) -> Self:
        """See `Generation.open`."""
        return cls(request, await Generation.open(request, gateway, response_id))

    async def deltas(self) -> AsyncGenerator[ChatDelta, None]:
        """Yield the deltas of all choices, interleaved, until each choice has a finish_reason. Raises ApiError."""
        async for delta in self.generation.deltas():
            yield self.choices[delta.index].apply(delta)

    def counts(self) -> TokenCounts:
        """Return the token counts of the deltas so far."""
        if self.model.reasoning_parser is None:
            return self.generation.counts()
        return self.generation.counts(sum(choice.reasoning_tokens for choice in self.choices))
