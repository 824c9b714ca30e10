"""POST /v1/completions."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from gllm.gateway.protocol.chunks import DONE, SYSTEM_FINGERPRINT, Chunks, error_frame
from gllm.gateway.protocol.completion_schema import CompletionRequest
from gllm.gateway.protocol.errors import ApiError
from gllm.gateway.protocol.logprobs import CompletionLogprobs, TokenNames, joined, prompt_logprobs
from gllm.gateway.protocol.usage import usage
from gllm.gateway.request.answer import Answer
from gllm.gateway.request.generation import Generation
from gllm.gateway.shared.gateway import Gateway
from gllm.text.output.answer_text import TextDelta


async def open_completion(request: CompletionRequest, gateway: Gateway) -> Answer:
    """Open the answer. Raises ApiError or ParameterError for any error before the first token."""
    return CompletionAnswer(request, await Generation.open(request, gateway, f"cmpl-{uuid.uuid4().hex}"))


class CompletionAnswer(Answer):
    """One completion answer, streamed or whole."""

    def __init__(self, request: CompletionRequest, generation: Generation) -> None:
        super().__init__(generation)
        self._request = request
        self._model = model = generation.model
        names = TokenNames(model.tokenizer, as_ids=bool(request.return_tokens_as_token_ids))
        skip_special = request.skip_special_tokens is not False
        self._logprobs = [
            CompletionLogprobs(model.tokenizer, names, skip_special_tokens=skip_special) for _ in generation.choices
        ]
        self._begun = [False] * len(generation.choices)

    def _render(self, delta: TextDelta) -> tuple[str, dict[str, Any] | None, bool]:
        """Return text and logprobs of a delta, after an echoed prompt, and whether it is the first of its choice."""
        index, text = delta.index, delta.text
        scorer = self._logprobs[index]
        first = not self._begun[index]
        self._begun[index] = True
        parts: list[dict[str, Any]] = []
        scored = self._request.logprobs is not None
        if first and self._request.echo:
            choice = self._generation.choices[index]
            echoed = self._generation.prompts[index // self._request.choices_per_prompt].text
            text = echoed + text
            if scored and choice.prompt_logprobs is not None:
                parts.append(scorer.prompt(echoed, choice.prompt, choice.prompt_logprobs))
        if scored and delta.logprobs:
            parts.append(scorer.answer(delta.logprobs))
        return text, joined(parts) if parts else None, first

    async def frames(self) -> AsyncGenerator[bytes, None]:
        generation, request = self._generation, self._request
        wants_usage, continuous_usage = request.wants_usage_chunk, request.wants_continuous_usage
        chunks = Chunks("text_completion", generation.id, generation.created, self._model.name, wants_usage)
        try:
            async for delta in generation.deltas():
                text, logprobs, first = self._render(delta)
                choice = generation.choices[delta.index]
                more: dict[str, Any] = {}
                if request.return_token_ids:
                    more = {"prompt_token_ids": choice.prompt if first else None, "token_ids": delta.token_ids}
                if delta.finish_reason is not None:
                    more |= choice.stopped_by
                if continuous_usage:
                    chunks.counts = usage(generation.counts())
                if text or logprobs is not None or more:
                    yield chunks.text(delta.index, text, logprobs, delta.finish_reason, more)
        except ApiError as error:
            yield error_frame(error.body())
            return
        if wants_usage:
            yield chunks.usage(usage(generation.counts()))
        yield DONE

    async def whole(self) -> bytes:
        count = len(self._generation.choices)
        texts: list[list[str]] = [[] for _ in range(count)]
        parts: list[list[dict[str, Any]]] = [[] for _ in range(count)]
        token_ids: list[list[int]] = [[] for _ in range(count)]
        async for delta in self._generation.deltas():
            text, logprobs, _ = self._render(delta)
            texts[delta.index].append(text)
            token_ids[delta.index] += delta.token_ids
            if logprobs is not None:
                parts[delta.index].append(logprobs)
        body = {
            "id": self._generation.id,
            "object": "text_completion",
            "created": self._generation.created,
            "model": self._model.name,
            "system_fingerprint": SYSTEM_FINGERPRINT,
            "choices": [
                self._choice(index, "".join(texts[index]), parts[index], token_ids[index]) for index in range(count)
            ],
            "usage": usage(self._generation.counts()),
        }
        return msgspec.json.encode(body)

    def _choice(self, index: int, text: str, parts: list[dict[str, Any]], token_ids: list[int]) -> dict[str, Any]:
        with_ids = self._request.return_token_ids
        choice = self._generation.choices[index]
        rendered: dict[str, Any] = {
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
            rendered["prompt_logprobs"] = prompt_logprobs(choice.prompt_logprobs, self._model.tokenizer)
        return rendered
