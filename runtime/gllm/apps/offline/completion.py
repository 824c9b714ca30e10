"""The results of offline generation, and the functions that fill them from engine outputs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

from gllm.engine.client.client import EngineClient
from gllm.engine.client.stream import OutputStream
from gllm.sampling_params import SamplingParams
from gllm.text.output.answer_text import AnswerText
from gllm.text.output.detokenizer import TextStream
from gllm.text.output.stop_patterns import PatternTooComplexError, StopPatterns
from gllm.text.output.stop_strings import StopStrings
from gllm.text.request_tokens import bad_word_ids
from gllm.wire.messages import TokenLogprob

if TYPE_CHECKING:
    from gllm.text.tokenizer import Tokenizer

# All prompts with the same stop strings or patterns share one prepared object.
stop_strings = lru_cache(16)(StopStrings)
stop_patterns = lru_cache(16)(StopPatterns)


@dataclass
class CompletionOutput:
    """One of the `n` answers of a prompt."""

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    """All generated tokens, with the EOS or stop token that ended the answer."""
    finish_reason: str | None = None
    """stop, length, or error (then see `error`)."""
    stop_reason: str | int | None = None
    """The stop string or the id of `SamplingParams.stop_token_ids` that ended the answer; None for EOS and length."""
    logprobs: list[TokenLogprob] | None = None
    """One for each of `token_ids`, if `SamplingParams.logprobs` asked for them."""
    error: str | None = None


@dataclass
class Completion:
    """A prompt and its answers."""

    prompt: str | None
    """None if the prompt is token ids."""
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    prompt_logprobs: list[TokenLogprob | None] | None = None
    num_cached_tokens: int = 0
    """Prompt tokens whose KV came from the prefix cache."""

    @property
    def text(self) -> str:
        """The text of the first answer."""
        return self.outputs[0].text

    @property
    def error(self) -> str | None:
        """The first error of an answer; None if there is none."""
        return next((output.error for output in self.outputs if output.error), None)


async def complete(
    completion: Completion,
    sampling: SamplingParams,
    client: EngineClient,
    tokenizer: Tokenizer,
    *,
    eos_token_ids: Iterable[int],
    request_ids: Iterator[str],
    on_text: Callable[[str], None] = lambda text: None,
) -> None:
    """Fill in the answers of one prompt.

    All n answers are submitted at once, so that they share the KV pages of the prompt.

    Args:
        eos_token_ids: the EOS tokens of the model.
        on_text: gets each new piece of text.
    """
    if sampling.bad_words:
        runs = sampling.bad_word_ids + bad_word_ids(tokenizer.encode, sampling.bad_words)
        sampling = msgspec.structs.replace(sampling, bad_word_ids=runs)
    completion.outputs = [CompletionOutput(index) for index in range(sampling.n)]
    eos = frozenset(eos_token_ids)
    collecting = []
    for answer in completion.outputs:
        outputs = client.generate(next(request_ids), completion.prompt_token_ids, sampling.for_choice(answer.index))
        stream = TextStream(
            tokenizer,
            stop=stop_strings(sampling.stop),
            patterns=stop_patterns(sampling.stop_regex) if sampling.stop_regex else None,
            include_stop=sampling.include_stop_str_in_output,
            min_tokens=sampling.min_tokens,
            skip_special_tokens=sampling.skip_special_tokens,
        )
        collecting.append(collect(outputs, AnswerText(stream, sampling, eos), completion, answer, on_text))
    if len(collecting) == 1:
        await collecting[0]
    else:
        await _all_or_none(collecting)


async def collect(
    outputs: OutputStream,
    text: AnswerText,
    completion: Completion,
    answer: CompletionOutput,
    on_text: Callable[[str], None] = lambda text: None,
) -> None:
    """Read the outputs of one engine request into `answer`, up to their end or a stop string.

    Prompt logprobs and cached tokens are the same for all answers of a prompt: they go into `completion`.
    on_text: gets each new piece of text.
    """
    try:
        async for output in outputs:
            if output.prompt_logprobs is not None:
                completion.prompt_logprobs = output.prompt_logprobs
            completion.num_cached_tokens = max(completion.num_cached_tokens, output.num_cached_tokens)
            if output.finish_reason in ("error", "abort"):
                answer.finish_reason, answer.error = (
                    "error",
                    output.error or f"the engine ended it: {output.finish_reason}",
                )
                return
            try:
                delta = text.take(output)
            except PatternTooComplexError as error:
                answer.finish_reason, answer.error = "error", str(error)
                return
            answer.finish_reason = delta.finish_reason
            answer.stop_reason = delta.stop_reason
            answer.token_ids += delta.token_ids
            if output.logprobs is not None:
                answer.logprobs = (answer.logprobs or []) + (delta.logprobs or [])
            if delta.text:
                answer.text += delta.text
                on_text(delta.text)
            if answer.finish_reason is not None:
                return
    finally:
        await outputs.aclose()


async def _all_or_none(work: list[Coroutine[Any, Any, None]]) -> None:
    """Await all; when one fails, cancel the others before raising."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
