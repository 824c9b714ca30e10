"""Measure the offline engine with the workloads of the server benchmark: no HTTP, no text, exact token times."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from gllm.apps.bench.driver import drive
from gllm.apps.bench.record import RequestRecord
from gllm.apps.bench.requests import BenchRequest
from gllm.engine.client.client import EngineClient
from gllm.engine.client.stream import EngineError
from gllm.sampling_params import SamplingParams

if TYPE_CHECKING:
    from gllm.apps.offline.llm import LLM


async def run_offline(
    client: EngineClient,
    requests: Sequence[BenchRequest],
    *,
    ignore_eos: bool = True,
    max_concurrency: int | None = None,
    prefix: str = "bench",
    on_done: Callable[[RequestRecord], None] = lambda record: None,
) -> tuple[list[RequestRecord], float]:
    """Submit every request, all at once unless limited. Return their records in order, and the seconds of the run.

    prefix: start of the request ids, which must not repeat while the engine lives.
    """
    run_start = time.perf_counter()

    async def send(request: BenchRequest) -> RequestRecord:
        record = RequestRecord(index=request.index, prompt_tokens=request.prompt_tokens)
        sampling = SamplingParams(temperature=0.0, max_tokens=request.output_len, ignore_eos=ignore_eos)
        start = time.perf_counter()
        record.start = start - run_start
        try:
            async for output in client.generate(f"{prefix}-{request.index}", request.token_ids, sampling):
                record.latency = time.perf_counter() - start
                if output.token_ids:
                    record.pieces.append((record.latency, float(len(output.token_ids))))
                    record.output_tokens += len(output.token_ids)
                if output.num_cached_tokens:
                    record.cached_tokens = output.num_cached_tokens
                if output.finish_reason in ("error", "abort"):
                    record.error = output.error or output.finish_reason
                record.finish_reason = output.finish_reason or ""
        except EngineError as error:
            record.error = str(error)
            record.latency = time.perf_counter() - start
        if not record.pieces and not record.error:
            record.error = "the request had no output"
        return record

    records = await drive(requests, send, run_start=run_start, max_concurrency=max_concurrency, on_done=on_done)
    return records, max((record.start + record.latency for record in records), default=0.0)


def with_token_ids(request: BenchRequest, llm: LLM) -> BenchRequest:
    """Return a request of text or messages as one of token ids, with an output that fits beside it.

    Raises ValueError if the model has no chat template for messages.
    """
    if not request.text and not request.messages:
        return request
    token_ids = llm.chat_token_ids(request.messages) if request.messages else llm.tokenizer.encode(request.text)
    output_len = max(min(request.output_len, llm.max_model_len - len(token_ids)), 1)
    return msgspec.structs.replace(
        request, token_ids=token_ids, output_len=output_len, text="", messages=[], text_tokens=0
    )
