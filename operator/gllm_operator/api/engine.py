"""spec.engine: settings of the scheduler and of memory, passed to `gllm serve`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from gllm.config import LogLevel, PolicyName
from gllm_operator.api.reserved import no_reserved_flags
from gllm_operator.api.types import ApiObject, Rule

Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Share = Annotated[float, Meta(gt=0, le=1)]


class Engine(ApiObject, frozen=True, kw_only=True):
    RULES: ClassVar[tuple[Rule, ...]] = (no_reserved_flags("engine"),)

    policy: PolicyName = "balanced"
    """The scheduling policy. It decides how many prefill and decode tokens a micro-batch has."""
    max_num_seqs: Annotated[int, Meta(ge=1, le=65536)] | None = None
    """The maximum number of sequences that run at once. Defaults to that of `gllm serve`."""
    max_queued_requests: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    """The maximum number of requests that wait. Further requests are refused with status 429."""
    max_prefill_tokens: Count | None = None
    """The maximum number of prompt tokens in a micro-batch."""
    min_prefill_tokens: Count | None = None
    """The minimum number of prompt tokens in a micro-batch, as long as so many are waiting."""
    prefill_iterations: Count | None = None
    """The number of steps over which the waiting prompt tokens are spread."""
    kv_threshold: Annotated[float, Meta(ge=0, lt=1)] | None = None
    """The share of the KV cache that new prompts leave free."""
    ttft_target: Annotated[float, Meta(gt=0, le=3600)] | None = None
    """The time to first token that `balanced` aims for, in seconds."""
    tpot_target: Annotated[float, Meta(gt=0, le=3600)] | None = None
    """The time per output token, in seconds, to which every policy cuts prefill. Defaults to 0.25 s for each step."""
    page_size: Literal[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024] | None = None
    """The number of tokens in a page of the KV cache."""
    kv_cache_memory: Annotated[str, Meta(max_length=32, pattern=r"^[0-9]+(\.[0-9]+)?([KMGT]i?)?$")] | None = None
    """The size of a rank's KV cache on CPUs, such as 2Gi. Defaults to a share of the free memory."""
    gpu_memory_utilization: Share | None = None
    """The share of a GPU's memory that may be used for weights, KV cache and activations together."""
    prefix_caching: bool = True
    """Whether requests share the KV cache of common prompt prefixes."""
    threads: Annotated[int, Meta(ge=1, le=4096)] | None = None
    """The number of CPU threads of a worker. Defaults to the cores of the pod, divided among its workers."""
    log_level: LogLevel = "info"
    """The log level of the pods' processes."""
    extra_args: Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=512)], ...], Meta(max_length=64)] = ()
    """Further arguments for `gllm serve`, placed after all others. Flags that the operator sets itself are refused."""
