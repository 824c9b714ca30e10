"""From a checked request to an open generation: admitted, prepared off the event loop, submitted, first output seen."""

from __future__ import annotations

import asyncio
import time

from gllm.gateway.protocol.generation_schema import GenerationRequest, texts_of
from gllm.gateway.request.generation import Generation, Generator
from gllm.gateway.request.prompt_encoding import Prompt, bad_words_of, prompts_of
from gllm.gateway.request.request_grammar import grammar_param, request_grammar
from gllm.gateway.request.request_sampling import sampling_for
from gllm.text.output.stop_patterns import StopPatterns
from gllm.text.output.stop_strings import StopStrings


async def open_generation(
    request: GenerationRequest, generator: Generator, response_id: str
) -> tuple[Generation, list[Prompt]]:
    """The generation is the caller's to close.

    Raises ApiError or ParameterError for everything known before the first token.
    """
    arrived = time.monotonic()
    model = generator.model
    model.check_name(request.model)
    n = request.choices_per_prompt
    ticket = generator.admission.admit(request.num_prompts * n)
    try:
        max_model_len = generator.max_model_len()
        loop = asyncio.get_running_loop()
        prompts, bad_words, stops = await model.threads.run(
            request.num_chars,
            lambda: (
                prompts_of(model, request, max_model_len),
                bad_words_of(model, request),
                StopStrings(texts_of(request.stop)),
            ),
        )
        grammar = patterns = None
        param = grammar_param(request)
        if param is not None:
            grammar = await loop.run_in_executor(model.grammar_threads, request_grammar, model, request)
        samplings = [
            sampling_for(request, model, len(prompt.token_ids), max_model_len, grammar, bad_words) for prompt in prompts
        ]
        if request.stop_regex:
            patterns = await loop.run_in_executor(model.grammar_threads, StopPatterns, texts_of(request.stop_regex))
        generation = generator.submit(
            ticket,
            response_id,
            [(prompt.token_ids, sampling) for prompt, sampling in zip(prompts, samplings, strict=True)],
            n=n,
            stops=stops,
            patterns=patterns,
            priority=request.priority or 0,
            cache_salt=request.cache_salt or "",
            continues_text=request.continues_text,
            grammar_param=param,
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
    return generation, prompts
