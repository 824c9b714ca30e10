"""A server that is measured: its model, the requests for it, and one run."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any

import msgspec

from gllm.apps.bench.arrivals import Arrivals
from gllm.apps.bench.client import Endpoint
from gllm.apps.bench.datasets.load import Dataset, load_requests
from gllm.apps.bench.payload import Style
from gllm.apps.bench.prompt_writer import Counter, token_range_for
from gllm.apps.bench.record import RequestRecord
from gllm.apps.bench.requests import BenchRequest
from gllm.apps.bench.serving import find_model, run_requests
from gllm.apps.cli.bench.load_flags import LoadPlan
from gllm.apps.cli.bench.style_flags import StyleFlags
from gllm.apps.request_progress import RequestProgress

WARMUP_SEED = 1_000_003
"""Added to the seed for warm-up requests: they must not fill a prefix cache with the prompts of the run."""


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A server and how it is asked."""

    flags: StyleFlags
    endpoint: Endpoint
    style: Style
    count_tokens: Counter | None
    token_range: tuple[int, int]
    max_model_len: int | None

    def requests(self, dataset: Dataset, plan: LoadPlan) -> list[BenchRequest]:
        """Return the requests of a run. Raises ValueError."""
        return load_requests(
            dataset,
            plan.count,
            seed=plan.seed,
            arrivals=plan.times if plan.arrivals is not None else None,
            token_range=self.token_range,
            max_model_len=self.max_model_len,
            text=self.flags.sends_text(dataset),
            count_tokens=self.count_tokens,
        )

    def warm_up(self, dataset: Dataset, plan: LoadPlan, count: int, max_concurrency: int | None) -> None:
        """Send requests of another seed, all at once."""
        other = msgspec.structs.replace(plan, count=count, arrivals=Arrivals(), seed=plan.seed + WARMUP_SEED)
        asyncio.run(self._send(self.requests(dataset, other), max_concurrency, math.inf, None))

    def run(
        self, requests: Sequence[BenchRequest], max_concurrency: int | None, max_duration: float = math.inf
    ) -> tuple[list[RequestRecord], float]:
        """Send the requests with a progress bar. Return their records, and the seconds of the run."""
        with RequestProgress(len(requests)) as progress:
            return asyncio.run(self._send(requests, max_concurrency, max_duration, progress))

    async def _send(
        self,
        requests: Sequence[BenchRequest],
        max_concurrency: int | None,
        max_duration: float,
        progress: RequestProgress | None,
    ) -> tuple[list[RequestRecord], float]:
        def count(record: RequestRecord) -> None:
            if progress is not None:
                progress.update(record.output_tokens, failed=not record.ok)

        return await run_requests(
            self.endpoint,
            requests,
            style=self.style,
            max_concurrency=max_concurrency,
            max_duration=max_duration,
            timeout=self.flags.timeout,
            on_done=count,
        )

    def settings(self, dataset: Dataset) -> dict[str, Any]:
        """Return the fields of a result file."""
        flags = self.flags
        return {
            "backend": f"openai-{self.style.api}",
            "url": flags.url,
            "model": self.endpoint.model,
            **dataset.settings(),
            "ignore_eos": flags.ignore_eos,
            "temperature": flags.temperature,
            **({"tokenizer": flags.tokenizer} if flags.tokenizer else {}),
            **({"extra_body": self.style.extra_body} if self.style.extra_body else {}),
        }


async def find_target(flags: StyleFlags) -> Target:
    """Ask the server for its model. Raises ValueError."""
    style, counter = flags.style(), flags.counter()
    endpoint = Endpoint.from_url(flags.url, api_key=flags.api_key)
    served = await find_model(endpoint, flags.model)
    return Target(
        flags=flags,
        endpoint=msgspec.structs.replace(endpoint, model=served.name),
        style=style,
        count_tokens=counter,
        token_range=token_range_for(flags.vocab_size or served.vocab_size),
        max_model_len=flags.max_model_len or served.max_model_len,
    )
