"""Applies step results: appends tokens, ends finished requests, and makes the outputs."""

from __future__ import annotations

import logging
from collections.abc import Callable

from gllm.engine.batch import MicroBatch
from gllm.engine.grammars import Grammars
from gllm.engine.queues import RunningSet, WaitingQueue
from gllm.engine.sequence import Sequence, SequenceStatus
from gllm.wire.messages import RequestOutput, StepResult, TokenLogprob

logger = logging.getLogger("gllm.engine")

_FINISHED = SequenceStatus.FINISHED
"""Looking up a member of an enum is slow, and this one is compared for every row."""

OutputsByClient = dict[bytes, list[RequestOutput]]
"""Client -> outputs of its requests, in row order."""


class ResultReader:
    """Applies results to the live requests; it shares their tables with the scheduler."""

    def __init__(
        self,
        requests: dict[str, Sequence],
        queue: WaitingQueue,
        running: RunningSet,
        grammars: Grammars,
        clock: Callable[[], float],
    ) -> None:
        self._requests = requests
        self._queue = queue
        self._running = running
        self._grammars = grammars
        self._clock = clock
        self.num_generated = 0
        """The number of tokens that the last result added to live requests."""

    def finish(self, seq: Sequence) -> None:
        """End a live request; its slot and pages are free for the next step."""
        if seq.status is SequenceStatus.WAITING:
            self._queue.remove(seq)
        elif seq.status is not SequenceStatus.PREPARING:
            self._running.vacate(seq)
        self._grammars.release(seq)
        seq.status = SequenceStatus.FINISHED
        del self._requests[seq.request_id]

    def read(self, batch: MicroBatch, result: StepResult) -> OutputsByClient:
        """Apply the result of a micro-batch. Rows of ended requests are ignored. Returns outputs by client."""
        outputs: OutputsByClient = {}
        sampled = batch.sampled
        token_ids = result.token_ids
        logprobs = result.logprobs
        if len(token_ids) != len(sampled) or (logprobs is not None and len(logprobs) != len(sampled)):
            raise ValueError(f"step {batch.step}: the worker returned {len(token_ids)} tokens for {len(sampled)} rows")
        if result.errors:
            for row, message in result.errors:
                self.fail(batch.rows[row], message, outputs, invalid_request=True)
        if result.prompt_logprobs:
            for row, entries in result.prompt_logprobs:
                self._add_prompt_logprobs(batch.rows[row], entries)

        running = self._running
        client: bytes | None = None
        group: list[RequestOutput] = []
        self.num_generated = len(sampled)
        for index, seq in enumerate(sampled):
            if seq.status is _FINISHED:
                self.num_generated -= 1
                continue
            token = token_ids[index]
            if token < 0:
                self.num_generated -= 1
                self.fail(seq, "the worker returned no token for this request", outputs)
                continue
            tokens = seq.tokens
            tokens.append(token)
            length = len(tokens)
            if seq.register_at <= length and seq.register_at <= seq.num_scheduled:
                running.register_full_pages(seq)
            output = RequestOutput(request_id=seq.request_id, token_ids=[token])
            if logprobs is not None and seq.sampling.logprobs is not None:
                found = logprobs[index]
                output.logprobs = None if found is None else [found]
            if length == seq.num_prompt + 1:
                self._describe_first(seq, output)
            if seq.client is not client:
                client = seq.client
                group = outputs.setdefault(client, [])
            group.append(output)
            if token in seq.stop_ids and length >= seq.min_length:
                output.stop_token_id = token
                self._end(seq, output, "stop")
            elif length >= seq.max_length:
                self._end(seq, output, "length")

        for seq in batch.scored:
            if seq.status is not _FINISHED:
                output = RequestOutput(request_id=seq.request_id, token_ids=[])
                self._describe_first(seq, output)
                outputs.setdefault(seq.client, []).append(output)
                self._end(seq, output, "length")
        return outputs

    def _end(self, seq: Sequence, output: RequestOutput, reason: str) -> None:
        """Make `output` the request's last one."""
        output.finish_reason = reason
        output.num_cached_tokens = max(seq.num_cached, 0)
        output.num_preemptions = seq.num_preemptions
        self.finish(seq)

    def _describe_first(self, seq: Sequence, output: RequestOutput) -> None:
        """Fill in the fields that are sent with a request's first token."""
        now = self._clock()
        output.num_cached_tokens = max(seq.num_cached, 0)
        output.queue_time = seq.first_scheduled - seq.arrival_time
        output.prefill_time = now - seq.first_scheduled
        if not seq.prompt_scored:
            output.prompt_logprobs = seq.prompt_logprobs
            seq.prompt_logprobs = None
            seq.prompt_scored = True

    @staticmethod
    def _add_prompt_logprobs(seq: Sequence, entries: list[TokenLogprob]) -> None:
        if not seq.prompt_scored and seq.prompt_logprobs is not None:
            seq.prompt_logprobs += entries

    def fail(self, seq: Sequence, message: str, outputs: OutputsByClient, *, invalid_request: bool = False) -> None:
        """End a live request with an error."""
        if seq.status is not _FINISHED:
            output = RequestOutput(
                request_id=seq.request_id,
                token_ids=[],
                finish_reason="error",
                error=message,
                num_preemptions=seq.num_preemptions,
            )
            output.invalid_request = invalid_request
            logger.log(
                logging.INFO if invalid_request else logging.ERROR,
                "request failed",
                extra={"request_id": seq.origin.http_id, "choice": seq.request_id, "reason": message},
            )
            outputs.setdefault(seq.client, []).append(output)
            self.finish(seq)
