"""One turn of a conversation, in no protocol's terms: the model's reasoning, content and tool calls as they come.

A protocol makes a `ChatRequest` of its own request, opens the turn, and encodes its deltas.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator

from gllm.gateway.protocol.chat_schema import ChatRequest
from gllm.gateway.protocol.usage import TokenCounts, count_tokens
from gllm.gateway.request.chat_choice import ChatChoice, ChatDelta
from gllm.gateway.request.generation import Generation, Generator
from gllm.gateway.request.opening import open_generation
from gllm.gateway.request.prompt_encoding import Prompt
from gllm.gateway.shared.served_model import ServedModel


class ChatTurn:
    """Open: the first output is there. `close` at the end, whatever happened."""

    def __init__(
        self, request: ChatRequest, model: ServedModel, generation: Generation, prompt: Prompt, response_id: str
    ) -> None:
        self.request = request
        self.model = model
        self.generation = generation
        self.prompt = prompt
        self.id = response_id
        self.created = int(time.time())
        # A grammar that constrains the answer from its first token leaves no room to think.
        thinks = None if request.guides or request.forces_tool else model.reasoning_parser
        self.choices = [
            ChatChoice(
                choice,
                thinks(prompt.text) if thinks else None,
                model.parser_of_calls(forced=request.forces_tool) if request.uses_tools else None,
                parallel=request.parallel_tool_calls is not False,
                shows_reasoning=request.include_reasoning is not False,
            )
            for choice in generation.choices
        ]

    async def deltas(self) -> AsyncGenerator[ChatDelta, None]:
        """Those of all choices, interleaved as they come, until each has its finish_reason. Raises ApiError."""
        async for delta in self.generation.deltas():
            yield self.choices[delta.index].apply(delta)

    async def drain(self) -> None:
        """Until every choice is complete. Raises ApiError."""
        async for _ in self.deltas():
            pass

    def counts(self) -> TokenCounts:
        """The tokens so far."""
        reasoning = None
        if self.model.reasoning_parser is not None:
            reasoning = sum(choice.reasoning_tokens for choice in self.choices)
        return count_tokens(self.generation, reasoning)

    async def close(self) -> None:
        """Ends the engine's work on what is not finished. Safe to call twice."""
        await self.generation.close()


async def open_turn(request: ChatRequest, generator: Generator, response_id: str) -> ChatTurn:
    """Raises ApiError or ParameterError for everything known before the first token."""
    generation, (prompt,) = await open_generation(request, generator, response_id)
    return ChatTurn(request, generator.model, generation, prompt, response_id)
