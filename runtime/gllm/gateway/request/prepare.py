"""Turns a validated request into prompts as tokens, sampling parameters, stop strings and a grammar."""

from __future__ import annotations

import asyncio

import msgspec

from gllm.gateway.protocol.generation_schema import GenerationRequest, texts_of
from gllm.gateway.request.prompt_encoding import Prompt, bad_words_of, prompts_of
from gllm.gateway.request.request_grammar import grammar_param, request_grammar
from gllm.gateway.request.request_sampling import sampling_for
from gllm.gateway.shared.served_model import ServedModel
from gllm.sampling_params import SamplingParams
from gllm.text.output.stop_patterns import StopPatterns
from gllm.text.output.stop_strings import StopStrings


class PreparedRequest(msgspec.Struct, kw_only=True):
    prompts: list[Prompt]
    samplings: list[SamplingParams]
    """One for each prompt. They contain no stop strings and patterns: the gateway applies these."""
    stops: StopStrings
    patterns: StopPatterns | None
    """Stop strings and patterns of all choices."""
    grammar_param: str | None
    """The request field to which errors of the grammar refer; None: there is no grammar."""


async def prepare(request: GenerationRequest, model: ServedModel, max_model_len: int) -> PreparedRequest:
    """Prepare a request in the model's threads, outside the event loop. Raises ApiError or ParameterError."""
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
    return PreparedRequest(prompts=prompts, samplings=samplings, stops=stops, patterns=patterns, grammar_param=param)
