"""One choice of a request: an engine request and its text."""

from __future__ import annotations

import logging
from typing import Any

from gllm.engine.client.stream import OutputStream
from gllm.gateway.protocol.errors import bad_request, internal_error
from gllm.gateway.shared.metrics import FinishedChoice
from gllm.sampling_params import SamplingParams
from gllm.text.output.answer_text import AnswerText, TextDelta
from gllm.text.output.stop_patterns import PatternTooComplexError
from gllm.wire.messages import RequestOutput, TokenLogprob

logger = logging.getLogger(__name__)


class Choice:
    """The state of one choice. `apply` takes the engine's outputs in order."""

    def __init__(
        self,
        index: int,
        request_id: str,
        *,
        prompt: list[int],
        sampling: SamplingParams,
        outputs: OutputStream,
        text: AnswerText,
        first_of_prompt: bool,
        grammar_param: str | None,
    ) -> None:
        """grammar_param: the request field to which errors of the grammar refer."""
        self.index = index
        self.request_id = request_id
        self.prompt = prompt
        self.sampling = sampling
        self.outputs = outputs
        self.first_of_prompt = first_of_prompt
        """Whether it is the first of a prompt's n choices: only that one counts the prompt's tokens."""
        self.completion_tokens = 0
        self.delivered_tokens = 0
        """The number of completion tokens that the consumer has received."""
        self.cached_tokens = 0
        self.prompt_logprobs: list[TokenLogprob | None] | None = None
        self.finish_reason: str | None = None
        self.stop_reason: str | int | None = None
        self.matched_stop: str | int | None = None
        self.queue_time = 0.0
        """Seconds until it was scheduled."""
        self.prefill_time = 0.0
        """Seconds from then to the first token."""
        self.first_token_at = 0.0
        self.last_token_at = 0.0
        """time.monotonic() of the first and of the last output with tokens."""
        self.cut = False
        """The consumer sets it when it needs no more of this choice."""
        self._text = text
        self._grammar_param = grammar_param

    def apply(self, output: RequestOutput) -> TextDelta:
        """Return the delta of an output.

        Raises ApiError if the engine failed the request: 400 if the request is the reason.
        """
        reason = output.finish_reason
        if output.invalid_request:
            prefix = f"{self._grammar_param}: " if self._grammar_param else ""
            raise bad_request(self._grammar_param, f"{prefix}{output.error}", "invalid_value")
        if reason == "error" or reason == "abort":
            logger.error("request failed", extra={"choice": self.request_id, "detail": output.error or reason})
            raise internal_error()
        if output.num_cached_tokens:
            self.cached_tokens = output.num_cached_tokens
        if output.prompt_logprobs is not None:
            self.prompt_logprobs = output.prompt_logprobs
        try:
            delta = self._text.take(output)
        except PatternTooComplexError as error:
            raise bad_request("stop_regex", str(error), "invalid_value") from error
        self.completion_tokens += len(delta.token_ids)
        self.finish_reason = delta.finish_reason
        self.stop_reason, self.matched_stop = delta.stop_reason, delta.matched_stop
        return delta

    @property
    def stopped_by(self) -> dict[str, Any]:
        """The reason of the stop, in vLLM's and SGLang's fields."""
        return {"stop_reason": self.stop_reason, "matched_stop": self.matched_stop}

    @property
    def decode_time(self) -> float:
        """Seconds from the first to the last token."""
        return self.last_token_at - self.first_token_at

    def finished(self, latency: float) -> FinishedChoice:
        """Return the figures for the metrics. latency: seconds from the request's arrival to the end of this choice."""
        return FinishedChoice(
            reason=self.finish_reason or "stop",
            prompt_tokens=len(self.prompt),
            completion_tokens=self.completion_tokens,
            max_tokens=self.sampling.max_tokens or 0,
            latency=latency,
            queue_time=self.queue_time,
            prefill_time=self.prefill_time,
            decode_time=self.decode_time,
        )

    async def close(self) -> None:
        """Abort the engine request, if it still runs."""
        await self.outputs.aclose()
