"""What offline generation returns, and how engine outputs become it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from gllm.text.output.answer import AnswerText
from gllm.text.output.stop_patterns import PatternTooComplexError
from gllm.wire.messages import RequestOutput, TokenLogprob


@dataclass
class CompletionOutput:
    """One of the `n` answers to a prompt."""

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    """Everything generated, with the EOS or stop token that ended it."""
    finish_reason: str | None = None
    """stop, length, or error (then see `error`)."""
    stop_reason: str | int | None = None
    """The stop string, or the one of `SamplingParams.stop_token_ids`, that ended it; None for EOS and length."""
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


async def collect(
    outputs: AsyncIterator[RequestOutput],
    text: AnswerText,
    completion: Completion,
    answer: CompletionOutput,
    on_text: Callable[[str], None] = lambda text: None,
) -> None:
    """Read one engine request to its end, or to its stop string, into `answer`.

    Prompt logprobs and cache hits, the same for all answers of a prompt, go into `completion`.
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
        closing = getattr(outputs, "aclose", None)
        if closing is not None:
            await closing()
