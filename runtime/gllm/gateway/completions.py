"""POST /v1/completions."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
from starlette.responses import Response

from gllm.gateway.answer.chunks import Chunks, error_frame
from gllm.gateway.answer.logprobs import CompletionLogprobs, joined, prompt_logprobs
from gllm.gateway.answer.usage import count_tokens, usage
from gllm.gateway.errors import ApiError
from gllm.gateway.http.sse import DONE, Disconnect, respond
from gllm.gateway.opening import open_generation
from gllm.gateway.request.completion_schema import CompletionRequest
from gllm.gateway.request.prompts import Prompt
from gllm.gateway.served_model import ServedModel
from gllm.gateway.service import Delta, Generation, Generator
from gllm.messages import TokenLogprob


async def complete(request: CompletionRequest, generator: Generator, disconnect: Disconnect) -> Response:
    """Raises ApiError or ParameterError for everything known before the first token."""
    response_id = f"cmpl-{uuid.uuid4().hex}"
    generation, prompts = await disconnect.run(open_generation(request, generator, response_id))
    answer = _Answer(request, generator.model, generation, prompts, response_id)
    return await respond(answer, generation.close, disconnect, stream=bool(request.stream))


class _Answer:
    """One completion answer, streamed or whole."""

    def __init__(
        self,
        request: CompletionRequest,
        model: ServedModel,
        generation: Generation,
        prompts: list[Prompt],
        response_id: str,
    ) -> None:
        self._request = request
        self._model = model
        self._generation = generation
        self._id = response_id
        self._created = int(time.time())
        self._logprobs = [CompletionLogprobs(model.tokenizer) for _ in generation.choices]
        # Taken (and emptied) by a choice's first delta.
        self._echo: list[str | None] = [None] * len(generation.choices)
        if request.echo:
            n = request.choices_per_prompt
            self._echo = [prompts[index // n].text for index in range(len(generation.choices))]

    def _show(self, delta: Delta) -> tuple[str, dict[str, Any] | None]:
        """Text and logprobs of a delta, with the echoed prompt before the first."""
        index = delta.index
        text = delta.text
        entries: list[TokenLogprob | None] = list(delta.logprobs or ())
        echoed = self._echo[index]
        first_token = None
        if echoed is not None:
            self._echo[index] = None
            choice = self._generation.choices[index]
            text = echoed + text
            entries = [*(choice.prompt_logprobs or ()), *entries]
            first_token = choice.prompt[0]
        if self._request.logprobs is None or not entries:
            return text, None
        return text, self._logprobs[index].render(entries, first_token)

    async def frames(self) -> AsyncGenerator[bytes, None]:
        chunks = Chunks("text_completion", self._id, self._created, self._model.name, self._request.wants_usage_chunk)
        try:
            async for delta in self._generation.deltas():
                text, logprobs = self._show(delta)
                if text or logprobs is not None or delta.finish_reason is not None:
                    yield chunks.text(delta.index, text, logprobs, delta.finish_reason)
        except ApiError as error:
            yield error_frame(error.body())
            return
        if self._request.wants_usage_chunk:
            yield chunks.usage(usage(count_tokens(self._generation)))
        yield DONE

    async def whole(self) -> bytes:
        count = len(self._generation.choices)
        texts: list[list[str]] = [[] for _ in range(count)]
        parts: list[list[dict[str, Any]]] = [[] for _ in range(count)]
        async for delta in self._generation.deltas():
            text, logprobs = self._show(delta)
            texts[delta.index].append(text)
            if logprobs is not None:
                parts[delta.index].append(logprobs)
        body = {
            "id": self._id,
            "object": "text_completion",
            "created": self._created,
            "model": self._model.name,
            "choices": [self._choice(index, "".join(texts[index]), parts[index]) for index in range(count)],
            "usage": usage(count_tokens(self._generation)),
        }
        return msgspec.json.encode(body)

    def _choice(self, index: int, text: str, parts: list[dict[str, Any]]) -> dict[str, Any]:
        choice = self._generation.choices[index]
        shown: dict[str, Any] = {
            "index": index,
            "text": text,
            "logprobs": joined(parts) if self._request.logprobs is not None else None,
            "finish_reason": choice.finish_reason,
        }
        if self._request.prompt_logprobs is not None and choice.prompt_logprobs is not None:
            shown["prompt_logprobs"] = prompt_logprobs(choice.prompt_logprobs, self._model.tokenizer)
        return shown
