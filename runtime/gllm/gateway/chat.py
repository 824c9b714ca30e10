"""POST /v1/chat/completions."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
from starlette.responses import Response

from gllm.gateway.answer.chat_choice import ChatChoice, Shown
from gllm.gateway.answer.chunks import Chunks, error_frame
from gllm.gateway.answer.logprobs import chat_logprobs, prompt_logprobs
from gllm.gateway.answer.usage import usage
from gllm.gateway.http.errors import ApiError
from gllm.gateway.http.sse import DONE, Disconnect, respond
from gllm.gateway.request.chat_schema import ChatRequest
from gllm.gateway.request.grammars import needs_grammar, request_grammar
from gllm.gateway.request.prompts import ChatPrompt, chat_prompt
from gllm.gateway.request.sampling import fit_max_tokens, sampling_for
from gllm.gateway.served_model import ServedModel
from gllm.gateway.service import Delta, Generation, Generator


async def chat(request: ChatRequest, generator: Generator, disconnect: Disconnect) -> Response:
    """Raises ApiError or ParameterError for everything known before the first token."""
    arrived = time.monotonic()
    generator.model.check_name(request.model)
    response_id = f"chatcmpl-{uuid.uuid4().hex}"
    generation, prompt = await disconnect.run(_open(request, generator, response_id, arrived))
    answer = _Answer(request, generator.model, generation, prompt, response_id)
    return await respond(answer, generation.close, disconnect, stream=bool(request.stream))


async def _open(
    request: ChatRequest, generator: Generator, response_id: str, arrived: float
) -> tuple[Generation, ChatPrompt]:
    """Admitted, prepared, submitted, first output seen."""
    model = generator.model
    n = request.choices_per_prompt
    ticket = generator.admission.admit(n)
    try:
        max_model_len = generator.max_model_len()
        loop = asyncio.get_running_loop()
        prompt = await loop.run_in_executor(model.threads, chat_prompt, model, request, max_model_len)
        grammar = None
        if needs_grammar(request):
            grammar = await loop.run_in_executor(model.grammar_threads, request_grammar, model, request)
        max_tokens = fit_max_tokens(request.output_limit, len(prompt.token_ids), max_model_len, "messages", fill=None)
        sampling = sampling_for(request, model, max_tokens=max_tokens, logprobs=request.num_logprobs, grammar=grammar)
        generation = generator.submit(
            ticket,
            response_id,
            [(prompt.token_ids, sampling)],
            n=n,
            priority=request.priority or 0,
            cache_salt=request.cache_salt or "",
            continues_text=bool(request.continue_final_message),
            arrived=arrived,
        )
    except BaseException:
        ticket.release()
        raise
    try:
        await generation.start()
    except BaseException:
        await generation.close()
        raise
    return generation, prompt


class _Answer:
    """One chat answer, streamed or whole."""

    def __init__(
        self,
        request: ChatRequest,
        model: ServedModel,
        generation: Generation,
        prompt: ChatPrompt,
        response_id: str,
    ) -> None:
        self._request = request
        self._model = model
        self._generation = generation
        self._id = response_id
        self._created = int(time.time())
        self._reasons = model.reasoning_parser is not None
        # A grammar that governs the answer from its first token leaves no room to think.
        thinks = None if request.guides or request.forces_tool else model.reasoning_parser
        parallel = request.parallel_tool_calls is not False
        self._choices = [
            ChatChoice(
                choice,
                thinks(prompt.text) if thinks else None,
                model.tool_parser() if model.tool_parser and request.uses_tools else None,
                parallel,
            )
            for choice in generation.choices
        ]

    async def frames(self) -> AsyncGenerator[bytes, None]:
        chunks = Chunks(
            "chat.completion.chunk", self._id, self._created, self._model.name, self._request.wants_usage_chunk
        )
        choices = self._choices
        try:
            async for delta in self._generation.deltas():
                choice = choices[delta.index]
                if not choice.role_sent:
                    choice.role_sent = True
                    yield chunks.delta(delta.index, {"role": "assistant", "content": ""})
                shown = choice.apply(delta)
                if choice.plain and delta.logprobs is None:
                    if shown.content:
                        yield chunks.content(delta.index, shown.content)
                elif (frame := self._rich(chunks, delta, shown)) is not None:
                    yield frame
                if shown.finish_reason is not None:
                    yield chunks.delta(delta.index, {}, finish=shown.finish_reason)
        except ApiError as error:
            yield error_frame(error.body())
            return
        if self._request.wants_usage_chunk:
            yield chunks.usage(self._usage())
        yield DONE

    def _rich(self, chunks: Chunks, delta: Delta, shown: Shown) -> bytes | None:
        """A chunk with logprobs, reasoning or tool calls in it; None if there is nothing to say."""
        fields: dict[str, Any] = {}
        if shown.reasoning:
            fields["reasoning_content"] = fields["reasoning"] = shown.reasoning
        if shown.content:
            fields["content"] = shown.content
        if shown.tool_calls:
            fields["tool_calls"] = shown.tool_calls
        logprobs = None
        if delta.logprobs:
            logprobs = {"content": chat_logprobs(delta.logprobs, self._model.tokenizer), "refusal": None}
            fields.setdefault("content", "")
        return chunks.delta(delta.index, fields, logprobs) if fields else None

    async def whole(self) -> bytes:
        async for delta in self._generation.deltas():
            choice = self._choices[delta.index]
            choice.apply(delta)
            if delta.logprobs:
                choice.logprobs += chat_logprobs(delta.logprobs, self._model.tokenizer)
        body: dict[str, Any] = {
            "id": self._id,
            "object": "chat.completion",
            "created": self._created,
            "model": self._model.name,
            "choices": [
                {
                    "index": index,
                    "message": choice.message(),
                    "logprobs": {"content": choice.logprobs, "refusal": None} if self._request.logprobs else None,
                    "finish_reason": choice.finish_reason,
                }
                for index, choice in enumerate(self._choices)
            ],
            "usage": self._usage(),
        }
        scored = self._generation.choices[0].prompt_logprobs
        if self._request.prompt_logprobs is not None and scored is not None:
            body["prompt_logprobs"] = prompt_logprobs(scored, self._model.tokenizer)
        return msgspec.json.encode(body)

    def _usage(self) -> dict[str, Any]:
        reasoning = sum(choice.reasoning_tokens for choice in self._choices) if self._reasons else None
        return usage(self._generation, reasoning)
