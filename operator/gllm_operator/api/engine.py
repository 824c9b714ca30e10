"""spec.engine: settings of the scheduler and of memory, handed to `gllm serve`."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from gllm_operator.api.types import ApiObject

Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Share = Annotated[float, Meta(gt=0, le=1)]


class Engine(ApiObject, frozen=True, kw_only=True):
    policy: Literal["token_throttling", "balanced", "chunked_prefill", "decode_cap", "no_wt", "no_ut"] = (
        "token_throttling"
    )
    """How much of which request goes into the next micro-batch."""
    max_num_seqs: Annotated[int, Meta(ge=1, le=65536)] | None = None
    """Most requests that run at once."""
    max_queued_requests: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    """Requests that may wait; more are refused with 429."""
    max_prefill_tokens: Count | None = None
    """Most prompt tokens in a micro-batch."""
    min_prefill_tokens: Count | None = None
    """Fewest prompt tokens worth a micro-batch, if so many wait."""
    prefill_iterations: Count | None = None
    """Steps over which the waiting prompt tokens are spread."""
    kv_threshold: Annotated[float, Meta(ge=0, lt=1)] | None = None
    """Share of the KV cache that new prompts leave free."""
    page_size: Literal[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024] | None = None
    """Tokens in a page of the KV cache."""
    kv_cache_memory: Annotated[str, Meta(max_length=32, pattern=r"^[0-9]+(\.[0-9]+)?([KMGT]i?)?$")] | None = None
    """Memory of a rank's KV cache on CPU, such as 2Gi; without it a share of what is free."""
    gpu_memory_utilization: Share | None = None
    """Share of a GPU's memory for weights, KV cache and all else."""
    prefix_caching: bool = True
    """Whether requests share the KV of prompts that begin alike."""
    threads: Annotated[int, Meta(ge=1, le=4096)] | None = None
    """CPU threads of a worker; without it the pod's cores, shared by its workers."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """How much the processes tell."""
    extra_args: Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=512)], ...], Meta(max_length=64)] = ()
    """More arguments for `gllm serve`, after all others. Those that the operator sets itself are refused."""
