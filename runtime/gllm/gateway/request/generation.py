"""The life cycle of one HTTP request: admitted, prepared, submitted, read as one stream of deltas, closed."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from typing import Self

from gllm.engine.client.stream import EngineError
from gllm.gateway.protocol.errors import ApiError, engine_dead
from gllm.gateway.protocol.generation_schema import GenerationRequest
from gllm.gateway.protocol.usage import TokenCounts
from gllm.gateway.request.choice import Choice
from gllm.gateway.request.prepare import PreparedRequest, prepare
from gllm.gateway.request.request_trace import CURRENT, RequestTrace
from gllm.gateway.shared.admission import Ticket
from gllm.gateway.shared.gateway import Gateway
from gllm.logs import REQUEST_ID
from gllm.text.output.answer_text import AnswerText, TextDelta
from gllm.wire.messages import RequestOutput
from gllm.wire.origin import Origin


class Generation:
    """All choices of one HTTP request: `open`, then `deltas`, and `close` in any case."""

    def __init__(
        self,
        gateway: Gateway,
        request: GenerationRequest,
        prepared: PreparedRequest,
        *,
        ticket: Ticket,
        response_id: str,
        arrived: float,
    ) -> None:
        """Use `open`. arrived: time.monotonic() of the HTTP request."""
        self.id = response_id
        self.model = gateway.model
        self.prompts = prepared.prompts
        self.choices: list[Choice] = []
        self.created = 0
        """Unix time of the first output."""
        self._gateway = gateway
        self._metrics = gateway.metrics
        self._ticket = ticket
        self._arrived = arrived
        self._submitted = 0.0
        self._trace = CURRENT.get()
        self._exemplar = self._trace.exemplar if self._trace is not None else None
        self._request = request
        self._prepared = prepared
        self._closed = False
        self._failed = False
        self._merged = self._merge()
        self._first: TextDelta | None = None

    @classmethod
    async def open(cls, request: GenerationRequest, gateway: Gateway, response_id: str) -> Self:
        """Admit, prepare and submit the request, and wait for the first output.

        Earlier errors still become an HTTP status. Raises ApiError or ParameterError; then nothing is left to close.
        """
        arrived = time.monotonic()
        ticket = gateway.admission.admit(request.num_prompts * request.choices_per_prompt)
        try:
            limits = await gateway.first_limits()
            began = time.monotonic()
            prepared = await prepare(request, gateway.model, limits.max_model_len)
            if (trace := CURRENT.get()) is not None:
                trace.tokenized(began, sum(len(prompt.token_ids) for prompt in prepared.prompts))
            generation = cls(gateway, request, prepared, ticket=ticket, response_id=response_id, arrived=arrived)
            generation._submit()
        except BaseException:
            ticket.release()
            raise
        try:
            generation._first = await anext(generation._merged)
        except BaseException:
            await generation.close()
            raise
        generation.created = int(time.time())
        return generation

    def _submit(self) -> None:
        """Submit all choices, without an await: the engine's state cannot change between checks and submission."""
        request, prepared = self._request, self._prepared
        self._gateway.limits()
        self._gateway.admission.admit_tokens(self._ticket, sum(len(prompt.token_ids) for prompt in self.prompts))
        n = request.choices_per_prompt
        self._submitted = time.monotonic()
        origin = Origin(REQUEST_ID.get(), self._trace.traceparent if self._trace is not None else "")
        for prompt, sampling in zip(prepared.prompts, prepared.samplings, strict=True):
            for i in range(n):
                index = len(self.choices)
                request_id = f"{self.id}-{index}"
                own = sampling.for_choice(i)
                try:
                    outputs = self._gateway.engine.generate(
                        request_id,
                        prompt.token_ids,
                        own,
                        priority=request.priority or 0,
                        cache_salt=request.cache_salt or "",
                        origin=origin,
                    )
                except EngineError as error:
                    raise engine_dead(str(error)) from error
                stream = self.model.text_stream(
                    own,
                    stops=prepared.stops,
                    patterns=prepared.patterns,
                    continues_text=request.continues_text,
                )
                choice = Choice(
                    index,
                    request_id,
                    prompt=prompt.token_ids,
                    sampling=own,
                    outputs=outputs,
                    text=AnswerText(stream, own, self.model.config.eos_token_ids, index),
                    first_of_prompt=i == 0,
                    grammar_param=prepared.grammar_param,
                )
                self.choices.append(choice)
        self._metrics.submitted(n, prepared.samplings)

    async def deltas(self) -> AsyncGenerator[TextDelta, None]:
        """Yield the deltas of all choices, interleaved, until each choice has a finish_reason.

        Raises ApiError when the engine fails or dies.
        """
        if self._first is not None:
            yield self._delivered(self._first)
        async for delta in self._merged:
            yield self._delivered(delta)

    def counts(self, reasoning: int | None = None) -> TokenCounts:
        """Return the token counts of the deltas so far. reasoning: the number of reasoning tokens, if it is known."""
        prompts = [choice for choice in self.choices if choice.first_of_prompt]
        return TokenCounts(
            prompt=sum(len(choice.prompt) for choice in prompts),
            cached=sum(choice.cached_tokens for choice in prompts),
            completion=sum(choice.delivered_tokens for choice in self.choices),
            reasoning=reasoning,
        )

    def _delivered(self, delta: TextDelta) -> TextDelta:
        self.choices[delta.index].delivered_tokens += len(delta.token_ids)
        return delta

    async def _merge(self) -> AsyncGenerator[TextDelta, None]:
        if len(self.choices) == 1:
            async for delta in self._follow(self.choices[0]):
                yield delta
            return
        # The queue is bounded: when the client reads slowly, outputs wait (and merge) in the engine client instead.
        queue: asyncio.Queue[TextDelta | BaseException | None] = asyncio.Queue(maxsize=2 * len(self.choices))
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

    async def _pump(self, choice: Choice, queue: asyncio.Queue[TextDelta | BaseException | None]) -> None:
        try:
            async for delta in self._follow(choice):
                await queue.put(delta)
        except Exception as error:
            await queue.put(error)
        await queue.put(None)

    async def _follow(self, choice: Choice) -> AsyncGenerator[TextDelta, None]:
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
        # The engine client must end with a finish_reason; without one the caller gets an error.
        raise engine_dead("its output ended without a finish reason")

    def _account(self, choice: Choice, output: RequestOutput, delta: TextDelta) -> None:
        now = time.monotonic()
        if delta.token_ids:
            if not choice.first_token_at:
                choice.first_token_at = now
                choice.queue_time = output.queue_time
                choice.prefill_time = output.prefill_time
                if choice.first_of_prompt:
                    self._ticket.prefilled(len(choice.prompt))
                self._metrics.first_token(now - self._arrived, self._exemplar)
            else:
                self._metrics.inter_token(now - choice.last_token_at, self._exemplar)
            choice.last_token_at = now
        self._metrics.tokens(len(delta.token_ids))
        if delta.finish_reason is not None:
            self._end(choice)

    def _end(self, choice: Choice) -> None:
        self._ticket.finished()
        self._metrics.finished(choice.finished(time.monotonic() - self._arrived), self._exemplar)

    async def close(self) -> None:
        """Abort the choices that still run, and release the ticket. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        if self._trace is not None:
            self._record(self._trace)
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

    def _record(self, trace: RequestTrace) -> None:
        trace.answered(
            self._request,
            self.choices,
            self.counts(),
            response_id=self.id,
            model=self.model.name,
            arrived=self._arrived,
            submitted=self._submitted,
            failed=self._failed,
        )
