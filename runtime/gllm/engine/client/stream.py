"""The outputs of one request, as its consumer reads them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Self

from gllm.engine.client.resubmit import RequestRecord
from gllm.wire.messages import RequestOutput


class EngineError(Exception):
    """The engine ended for good, or refused the request; str(error) may be sent to a client."""


class OutputStream(AsyncIterator[RequestOutput]):
    """The outputs of one request; the last one has `finish_reason`.

    Outputs that arrive before the consumer asks are merged into one. `aclose`, or a cancelled `__anext__`, aborts the
    request. For one consumer at a time.
    """

    def __init__(self, request_id: str, record: RequestRecord, leave: Callable[[OutputStream], None]) -> None:
        """leave(self) is called when the consumer stops early."""
        self.request_id = request_id
        self.record = record
        self._leave = leave
        self._pending: RequestOutput | None = None
        self._error: str | None = None
        self._ended = False
        self._waiter: asyncio.Future[None] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> RequestOutput:
        while True:
            if self._pending is not None:
                output, self._pending = self._pending, None
                self._ended = output.finish_reason is not None
                return output
            if self._error is not None:
                self._ended = True
                raise EngineError(self._error)
            if self._ended:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            except asyncio.CancelledError:
                await self.aclose()
                raise
            finally:
                self._waiter = None

    async def aclose(self) -> None:
        """Stop; the engine aborts the request if it still runs. Idempotent."""
        self._ended = True
        self._pending = None
        self._error = None
        self._leave(self)
        self._wake()

    def put(self, output: RequestOutput) -> None:
        """Add an output of the engine."""
        self.record.receive(output)
        if not self._ended:
            self._pending = output if self._pending is None else merge(self._pending, output)
            self._wake()

    def fail(self, reason: str) -> None:
        """End with an error: the consumer gets EngineError(reason) after the outputs so far."""
        self._error = reason
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def merge(first: RequestOutput, then: RequestOutput) -> RequestOutput:
    """Merge two successive outputs of a request."""
    logprobs = None
    if first.logprobs is not None or then.logprobs is not None:
        logprobs = [*(first.logprobs or ()), *(then.logprobs or ())]
    return RequestOutput(
        request_id=first.request_id,
        token_ids=first.token_ids + then.token_ids,
        finish_reason=then.finish_reason,
        stop_token_id=then.stop_token_id,
        error=then.error,
        invalid_request=then.invalid_request,
        logprobs=logprobs,
        prompt_logprobs=first.prompt_logprobs if first.prompt_logprobs is not None else then.prompt_logprobs,
        num_cached_tokens=max(first.num_cached_tokens, then.num_cached_tokens),
        queue_time=first.queue_time or then.queue_time,
        prefill_time=first.prefill_time or then.prefill_time,
        num_preemptions=max(first.num_preemptions, then.num_preemptions),
    )
