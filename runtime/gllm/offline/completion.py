"""What offline generation returns, and how engine outputs become it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from gllm.messages import RequestOutput, TokenLogprob
from gllm.sampling_params import SamplingParams


@dataclass
class CompletionOutput:
    """One of the `n` answers to a prompt."""

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    """Everything generated, with the EOS or stop token that ended it."""
    finish_reason: str | None = None
    """stop, length, or error (then see `error`)."""
    logprobs: list[TokenLogprob] | None = None
    """One for each of `token_ids`, if `SamplingParams.logprobs` asked for them."""
    error: str | None = None


@dataclass
class Completion:
    """A prompt and its answers."""

    prompt: str | None
    """None if the prompt was given as token ids."""
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    prompt_logprobs: list[TokenLogprob | None] | None = None
    num_cached_tokens: int = 0
    """Prompt tokens that came from the prefix cache."""

    @property
    def text(self) -> str:
        """The first answer's text."""
        return self.outputs[0].text

    @property
    def error(self) -> str | None:
        """Why an answer is missing; None when all is well."""
        return next((output.error for output in self.outputs if output.error), None)


class TextStream(Protocol):
    """What is used of `gllm.text.detokenizer.TextStream`."""

    stop_reason: str | None

    def feed(self, token_ids: Sequence[int]) -> str: ...
    def finish(self) -> str: ...


def choice_sampling(sampling: SamplingParams, index: int) -> SamplingParams:
    """Parameters of one of n answers: its own seed (seed + index, wrapped into 64 bits), else all would be equal.

    The engine makes at least one token, so max_tokens 0 (score the prompt only) is asked as 1; `collect` drops it.
    """
    if sampling.seed is not None and index:
        sampling = msgspec.structs.replace(sampling, seed=(sampling.seed + index + 2**63) % 2**64 - 2**63)
    return msgspec.structs.replace(sampling, max_tokens=1) if sampling.max_tokens == 0 else sampling


async def collect(
    outputs: AsyncIterator[RequestOutput],
    stream: TextStream,
    sampling: SamplingParams,
    completion: Completion,
    answer: CompletionOutput,
    on_text: Callable[[str], None] = lambda text: None,
) -> None:
    """Read one engine request to its end, or to its stop string, into `answer`.

    Prompt logprobs and cache hits, the same for all answers of a prompt, go into `completion`.
    on_text: gets each new piece of text.
    """
    scoring_only = sampling.max_tokens == 0
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
            if scoring_only:
                answer.finish_reason = output.finish_reason and "length"
                continue
            text = _take(output, stream, sampling, answer)
            if text:
                answer.text += text
                on_text(text)
            if answer.finish_reason is not None:
                return
    finally:
        closing = getattr(outputs, "aclose", None)
        if closing is not None:
            await closing()


def _take(output: RequestOutput, stream: TextStream, sampling: SamplingParams, answer: CompletionOutput) -> str:
    """Add one output's tokens to `answer`; returns its text, which ends where a stop string does."""
    ids = output.token_ids
    hide_last = output.stop_token_id is not None and not sampling.include_stop_str_in_output
    shown = ids[:-1] if hide_last else ids
    kept, text = len(ids), ""
    if sampling.stop:
        # Token by token, to know which of them completed the stop string.
        for place, token in enumerate(shown):
            text += stream.feed((token,))
            if stream.stop_reason is not None:
                kept = place + 1
                break
    else:
        text = stream.feed(shown)
    answer.finish_reason = output.finish_reason
    if stream.stop_reason is None and output.finish_reason is not None:
        text += stream.finish()
    if stream.stop_reason is not None:
        answer.finish_reason = "stop"
    answer.token_ids += ids[:kept]
    if output.logprobs is not None:
        answer.logprobs = (answer.logprobs or []) + output.logprobs[:kept]
    return text
