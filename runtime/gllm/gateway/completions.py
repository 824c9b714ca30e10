"""POST /v1/completions."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
from starlette.responses import Response

from gllm.gateway.answer.chunks import Chunks, error_frame
from gllm.gateway.answer.logprobs import CompletionLogprobs, joined, prompt_logprobs
from gllm.gateway.answer.usage import usage
from gllm.gateway.http.errors import ApiError
from gllm.gateway.http.sse import DONE, Disconnect, respond
from gllm.gateway.request.completion_schema import CompletionRequest
from gllm.gateway.request.grammars import needs_grammar, request_grammar
from gllm.gateway.request.prompts import completion_prompt
from gllm.gateway.request.sampling import fit_max_tokens, sampling_for
from gllm.gateway.served_model import ServedModel
from gllm.gateway.service import Delta, Generation, Generator
from gllm.messages import TokenLogprob
from gllm.sampling_params import SamplingParams

DEFAULT_MAX_TOKENS = 16


async def complete(request: CompletionRequest, generator: Generator, disconnect: Disconnect) -> Response:
    """Raises ApiError or ParameterError for everything known before the first token."""
    arrived = time.monotonic()
    generator.model.check_name(request.model)
    response_id = f"cmpl-{uuid.uuid4().hex}"
    generation, texts = await disconnect.run(_open(request, generator, response_id, arrived))
    answer = _Answer(request, generator.model, generation, texts, response_id)
    return await respond(answer, generation.close, disconnect, stream=bool(request.stream))


async def _open(
    request: CompletionRequest, generator: Generator, response_id: str, arrived: float
) -> tuple[Generation, list[str]]:
    """Admitted, prepared, submitted, first output seen; with the text that `echo` puts before each prompt's choices."""
    n = request.choices_per_prompt
    ticket = generator.admission.admit(len(request.prompts) * n)
    try:
        max_model_len = generator.max_model_len()
        loop = asyncio.get_running_loop()
        grammar = None
        if needs_grammar(request):
            grammar = await loop.run_in_executor(
                generator.model.grammar_threads, request_grammar, generator.model, request
            )
        prompts, texts = await loop.run_in_executor(
            generator.model.threads, _prepare, request, generator.model, max_model_len, grammar
        )
        generation = generator.submit(
            ticket,
            response_id,
            prompts,
            n=n,
            priority=request.priority or 0,
            cache_salt=request.cache_salt or "",
            continues_text=True,
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
    return generation, texts


def _prepare(
    request: CompletionRequest, model: ServedModel, max_model_len: int, grammar: str | None
) -> tuple[list[tuple[list[int], SamplingParams]], list[str]]:
    """Runs in a text thread."""
    prompts: list[tuple[list[int], SamplingParams]] = []
    texts: list[str] = []
    if request.echo and request.logprobs is not None and request.prompt_logprobs is None:
        # The echoed prompt's tokens need logprobs too.
        request = request.model_copy(update={"prompt_logprobs": request.logprobs})
    for prompt in request.prompts:
        ids = completion_prompt(model, prompt, request.add_special_tokens is not False, max_model_len)
        max_tokens = fit_max_tokens(request.max_tokens, len(ids), max_model_len, "prompt", fill=DEFAULT_MAX_TOKENS)
        prompts.append((ids, sampling_for(request, model, max_tokens=max_tokens, logprobs=request.logprobs,
                                          grammar=grammar)))  # fmt: skip
        if request.echo:
            texts.append(prompt if isinstance(prompt, str) else model.tokenizer.decode(ids, skip_special_tokens=False))
    return prompts, texts


class _Answer:
    """One completion answer, streamed or whole."""

    def __init__(
        self,
        request: CompletionRequest,
        model: ServedModel,
        generation: Generation,
        echo_texts: list[str],
        response_id: str,
    ) -> None:
        self._request = request
        self._model = model
        self._generation = generation
        self._id = response_id
        self._created = int(time.time())
        self._logprobs = [CompletionLogprobs(model.tokenizer) for _ in generation.choices]
        n = request.choices_per_prompt
        # Taken (and emptied) by a choice's first delta.
        self._echo = [echo_texts[index // n] if echo_texts else None for index in range(len(generation.choices))]

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
            yield chunks.usage(usage(self._generation))
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
            "usage": usage(self._generation),
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
