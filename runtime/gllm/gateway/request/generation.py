"""One HTTP request's generation: an engine request for each choice, seen as one stream of text deltas."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

import msgspec

from gllm.engine.client.stream import EngineError
from gllm.gateway.protocol.errors import ApiError, bad_request, engine_dead, internal_error
from gllm.gateway.shared.admission import Admission, Ticket
from gllm.gateway.shared.interfaces import Engine
from gllm.gateway.shared.metrics import Metrics
from gllm.gateway.shared.served_model import ServedModel
from gllm.sampling_params import SamplingParams
from gllm.text.output.answer import AnswerText
from gllm.text.output.stop_patterns import PatternTooComplexError, StopPatterns
from gllm.text.output.stop_strings import StopStrings
from gllm.wire.messages import RequestOutput, TokenLogprob

logger = logging.getLogger(__name__)


class Delta(msgspec.Struct, gc=False):
    """What one engine output means for one choice, after detokenising and looking for stop strings."""

    index: int
    text: str
    token_ids: list[int]
    """With the EOS or stop token, which is not part of the text."""
    logprobs: list[TokenLogprob] | None = None
    """One for each of `token_ids`."""
    finish_reason: str | None = None
    """stop or length."""


class Choice:
    """One engine request and its text."""

    def __init__(
        self,
        index: int,
        request_id: str,
        prompt: list[int],
        sampling: SamplingParams,
        outputs: AsyncIterator[RequestOutput],
        model: ServedModel,
        *,
        stops: StopStrings,
        patterns: StopPatterns | None,
        first_of_prompt: bool,
        keep_leading_space: bool,
        grammar_param: str | None,
    ) -> None:
        self.index = index
        self._grammar_param = grammar_param
        self.request_id = request_id
        self.prompt = prompt
        self.first_of_prompt = first_of_prompt
        """Of n choices of one prompt only the first counts the prompt's tokens."""
        self.sampling = sampling
        self.outputs = outputs
        self.completion_tokens = 0
        self.delivered_tokens = 0
        """Of `completion_tokens`, those in the deltas that the caller has: other choices may be ahead."""
        self.cached_tokens = 0
        self.prompt_logprobs: list[TokenLogprob | None] | None = None
        self.finish_reason: str | None = None
        self.stop_reason: str | int | None = None
        self.matched_stop: str | int | None = None
        self.preemptions = 0
        self.queue_time = 0.0
        self.prefill_time = 0.0
        self.first_token_at = 0.0
        self.last_token_at = 0.0
        self.cut = False
        """Set by the reader: it needs nothing more of this choice."""
        stream = model.text_stream(
            stop=stops,
            patterns=patterns,
            include_stop=sampling.include_stop_str_in_output,
            min_tokens=sampling.min_tokens,
            skip_special_tokens=sampling.skip_special_tokens,
            keep_leading_space=keep_leading_space,
        )
        self._text = AnswerText(stream, sampling, model.config.eos_token_ids)

    def apply(self, output: RequestOutput) -> Delta:
        """Raises ApiError when the engine gave the request up: 400 if what the client asked for is the reason."""
        reason = output.finish_reason
        if output.invalid_request:
            prefix = f"{self._grammar_param}: " if self._grammar_param else ""
            raise bad_request(self._grammar_param, f"{prefix}{output.error}", "invalid_value")
        if reason == "error" or reason == "abort":
            logger.error("request failed", extra={"request_id": self.request_id, "detail": output.error or reason})
            raise internal_error()
        if output.num_cached_tokens:
            self.cached_tokens = output.num_cached_tokens
        if output.prompt_logprobs is not None:
            self.prompt_logprobs = output.prompt_logprobs
        try:
            piece = self._text.take(output)
        except PatternTooComplexError as error:
            raise bad_request("stop_regex", str(error), "invalid_value") from error
        num_tokens = len(piece.token_ids)
        self.completion_tokens += num_tokens
        self.finish_reason = piece.finish_reason
        self.stop_reason, self.matched_stop = piece.stop_reason, piece.matched_stop
        logprobs = output.logprobs[:num_tokens] if output.logprobs else None
        return Delta(self.index, piece.text, piece.token_ids, logprobs, piece.finish_reason)

    @property
    def stopped_by(self) -> dict[str, Any]:
        """vLLM's and SGLang's fields for what stopped it."""
        return {"stop_reason": self.stop_reason, "matched_stop": self.matched_stop}

    async def close(self) -> None:
        """Ends the engine's work on it, if any is left."""
        closing = getattr(self.outputs, "aclose", None)
        if closing is not None:
            await closing()


class Generation:
    """All choices of one HTTP request: `start`, then `deltas`; `close` at the end, whatever happened."""

    def __init__(self, choices: list[Choice], ticket: Ticket, metrics: Metrics, arrived: float) -> None:
        self.choices = choices
        self._ticket = ticket
        self._metrics = metrics
        self._arrived = arrived
        self._closed = False
        self._failed = False
        self._merged = self._merge()
        self._first: Delta | None = None

    async def start(self) -> None:
        """Wait for the first delta, so that what goes wrong before it is still an HTTP status."""
        self._first = await anext(self._merged)

    async def deltas(self) -> AsyncGenerator[Delta, None]:
        """Interleaved as they come, until every choice has its finish_reason.

        Raises ApiError when the engine fails or dies.
        """
        if self._first is not None:
            yield self._delivered(self._first)
        async for delta in self._merged:
            yield self._delivered(delta)

    def _delivered(self, delta: Delta) -> Delta:
        self.choices[delta.index].delivered_tokens += len(delta.token_ids)
        return delta

    async def _merge(self) -> AsyncGenerator[Delta, None]:
        if len(self.choices) == 1:
            async for delta in self._follow(self.choices[0]):
                yield delta
            return
        # A bounded queue: when the client reads slowly, outputs wait (and merge) in the engine client instead.
        queue: asyncio.Queue[Delta | BaseException | None] = asyncio.Queue(maxsize=2 * len(self.choices))
        tasks = [asyncio.create_task(self._pump(choice, queue)) for choice in self.choices]
        try:
            running = len(tasks)
            while running:
                item = await queue.get()
                if item is None:
                    running -= 1
                elif isinstance(item, BaseException):
                    raise item
                else:
                    yield item
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _pump(self, choice: Choice, queue: asyncio.Queue[Delta | BaseException | None]) -> None:
        try:
            async for delta in self._follow(choice):
                await queue.put(delta)
        except Exception as error:
            await queue.put(error)
        await queue.put(None)

    async def _follow(self, choice: Choice) -> AsyncGenerator[Delta, None]:
        try:
            async for output in choice.outputs:
                delta = choice.apply(output)
                self._account(choice, output, delta)
                if delta.finish_reason is not None:
                    await choice.close()
                    yield delta
                    return
                yield delta
                if choice.cut:
                    choice.finish_reason = "stop"
                    self._end(choice)
                    return
        except EngineError as error:
            self._failed = True
            raise engine_dead(str(error)) from error
        except ApiError:
            self._failed = True
            raise
        # The client's contract is to end with a finish_reason; never leave a caller waiting for one.
        raise engine_dead("its answer ended early")

    def _account(self, choice: Choice, output: RequestOutput, delta: Delta) -> None:
        now = time.monotonic()
        if delta.token_ids:
            if not choice.first_token_at:
                choice.first_token_at = now
                choice.queue_time = output.queue_time
                choice.prefill_time = output.prefill_time
                if choice.first_of_prompt:
                    self._ticket.prefilled(len(choice.prompt))
                self._metrics.first_token(now - self._arrived)
            else:
                self._metrics.inter_token(now - choice.last_token_at)
            choice.last_token_at = now
        self._metrics.tokens(len(delta.token_ids))
        if delta.finish_reason is not None:
            self._end(choice)

    def _end(self, choice: Choice) -> None:
        self._ticket.finished()
        self._metrics.finished(choice, time.monotonic() - self._arrived)

    async def close(self) -> None:
        """Abort what still runs, and give the admission back. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        for choice in self.choices:
            if choice.finish_reason is None:
                self._metrics.unfinished("error" if self._failed else "abort")
        try:
            await self._merged.aclose()
            for choice in self.choices:
                with contextlib.suppress(EngineError):
                    await choice.close()
        finally:
            self._ticket.release()


class Generator:
    """Turns checked prompts into Generations. Between its admission check and its submissions nothing awaits."""

    def __init__(self, model: ServedModel, engine: Engine, admission: Admission, metrics: Metrics) -> None:
        self.model = model
        self.engine = engine
        self.admission = admission
        self.metrics = metrics

    def max_model_len(self) -> int:
        limits = self.engine.limits
        if limits is None:
            raise engine_dead("it is gone")
        return limits.max_model_len

    def submit(
        self,
        ticket: Ticket,
        response_id: str,
        prompts: Sequence[tuple[list[int], SamplingParams]],
        *,
        n: int,
        stops: StopStrings,
        patterns: StopPatterns | None,
        priority: int,
        cache_salt: str,
        continues_text: bool,
        grammar_param: str | None,
        arrived: float,
    ) -> Generation:
        """`ticket` stays the caller's when this raises.

        stops, patterns: what ends the text of every choice; the prompts' parameters have neither.
        grammar_param: the field that an error in the grammar is reported for.
        continues_text: the answer goes on from the prompt's text, so a leading space is part of it.
        """
        self.max_model_len()
        self.admission.admit_tokens(ticket, sum(len(ids) for ids, _ in prompts))
        choices: list[Choice] = []
        try:
            for ids, sampling in prompts:
                for i in range(n):
                    index = len(choices)
                    request_id = f"{response_id}-{index}"
                    own = sampling.for_choice(i)
                    outputs = self.engine.generate(request_id, ids, own, priority=priority, cache_salt=cache_salt)
                    choices.append(
                        Choice(
                            index, request_id, ids, own, outputs, self.model, stops=stops, patterns=patterns,
                            first_of_prompt=i == 0, keep_leading_space=continues_text,
                            grammar_param=grammar_param,
                        )
                    )  # fmt: skip
        except EngineError as error:
            raise engine_dead(str(error)) from error
        self.metrics.submitted(n, prompts)
        return Generation(choices, ticket, self.metrics, arrived)
