"""POST /v1/completions."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
from starlette.responses import Response

from gllm.gateway.http.sse import DONE, Disconnect, respond
from gllm.gateway.protocol.chunks import SYSTEM_FINGERPRINT, Chunks, error_frame
from gllm.gateway.protocol.completion_schema import CompletionRequest
from gllm.gateway.protocol.errors import ApiError
from gllm.gateway.protocol.logprobs import CompletionLogprobs, TokenNames, joined, prompt_logprobs
from gllm.gateway.protocol.usage import count_tokens, usage
from gllm.gateway.request.generation import Delta, Generation, Generator
from gllm.gateway.request.opening import open_generation
from gllm.gateway.request.prompt_encoding import Prompt
from gllm.gateway.shared.served_model import ServedModel


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
        names = TokenNames(model.tokenizer, as_ids=bool(request.return_tokens_as_token_ids))
        skip_special = request.skip_special_tokens is not False
        self._logprobs = [
            CompletionLogprobs(model.tokenizer, names, skip_special_tokens=skip_special) for _ in generation.choices
        ]
        self._begun = [False] * len(generation.choices)
        self._prompts = prompts

    def _show(self, delta: Delta) -> tuple[str, dict[str, Any] | None, bool]:
        """Text and logprobs of a delta, with the echoed prompt before the first; and whether it is the first."""
        index, text = delta.index, delta.text
        scorer = self._logprobs[index]
        first = not self._begun[index]
        self._begun[index] = True
        parts: list[dict[str, Any]] = []
        scored = self._request.logprobs is not None
        if first and self._request.echo:
            choice = self._generation.choices[index]
            echoed = self._prompts[index // self._request.choices_per_prompt].text
            text = echoed + text
            if scored and choice.prompt_logprobs is not None:
                parts.append(scorer.prompt(echoed, choice.prompt, choice.prompt_logprobs))
        if scored and delta.logprobs:
            parts.append(scorer.answer(delta.logprobs))
        return text, joined(parts) if parts else None, first

    async def frames(self) -> AsyncGenerator[bytes, None]:
        chunks = Chunks("text_completion", self._id, self._created, self._model.name, self._request.wants_usage_chunk)
        try:
            async for delta in self._generation.deltas():
                text, logprobs, first = self._show(delta)
                choice = self._generation.choices[delta.index]
                more: dict[str, Any] = {}
                if self._request.return_token_ids:
                    more = {"prompt_token_ids": choice.prompt if first else None, "token_ids": delta.token_ids}
                if delta.finish_reason is not None:
                    more |= choice.stopped_by
                if self._request.wants_continuous_usage:
                    chunks.counts = usage(count_tokens(self._generation))
                if text or logprobs is not None or more:
                    yield chunks.text(delta.index, text, logprobs, delta.finish_reason, more)
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
        token_ids: list[list[int]] = [[] for _ in range(count)]
        async for delta in self._generation.deltas():
            text, logprobs, _ = self._show(delta)
            texts[delta.index].append(text)
            token_ids[delta.index] += delta.token_ids
            if logprobs is not None:
                parts[delta.index].append(logprobs)
        body = {
            "id": self._id,
            "object": "text_completion",
            "created": self._created,
            "model": self._model.name,
            "system_fingerprint": SYSTEM_FINGERPRINT,
            "choices": [
                self._choice(index, "".join(texts[index]), parts[index], token_ids[index]) for index in range(count)
            ],
            "usage": usage(count_tokens(self._generation)),
        }
        return msgspec.json.encode(body)

    def _choice(self, index: int, text: str, parts: list[dict[str, Any]], token_ids: list[int]) -> dict[str, Any]:
        with_ids = self._request.return_token_ids
        choice = self._generation.choices[index]
        shown: dict[str, Any] = {
            "index": index,
            "text": text,
            "logprobs": joined(parts) if self._request.logprobs is not None else None,
            "finish_reason": choice.finish_reason,
            "prompt_logprobs": None,
            **choice.stopped_by,
            "prompt_token_ids": choice.prompt if with_ids else None,
            "token_ids": token_ids if with_ids else None,
        }
        if self._request.prompt_logprobs is not None and choice.prompt_logprobs is not None:
            shown["prompt_logprobs"] = prompt_logprobs(choice.prompt_logprobs, self._model.tokenizer)
        return shown
