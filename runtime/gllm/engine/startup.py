"""How large the KV pool is and how long a request may be, once the workers have told their capacity."""

from __future__ import annotations

from collections.abc import Iterable

from gllm.config import EngineConfig
from gllm.models.config import ModelConfig


def pool_size(config: EngineConfig, capacities: Iterable[int]) -> int:
    """KV pages: what was asked for, else what the smallest rank can hold. Raises ValueError if that is too little."""
    least = min(capacities)
    if config.num_pages > least:
        raise ValueError(f"num_pages {config.num_pages} does not fit the memory budget, which has room for {least}")
    num_pages = config.num_pages or least
    if num_pages < 1:
        raise ValueError(
            "the memory budget has no room for a single KV page: raise kv_cache_memory or gpu_memory_utilization"
        )
    return num_pages


def context_length(config: EngineConfig, model: ModelConfig, num_pages: int) -> int:
    """Longest prompt + output in tokens that model and pool allow; ValueError if the user asked for more."""
    context = model.context(config.max_model_len)
    room = num_pages * config.page_size
    if config.max_model_len > room:
        raise ValueError(
            f"max_model_len {config.max_model_len} does not fit the KV pool of {room} tokens "
            f"({num_pages} pages of {config.page_size}): set it to {room} or less, or give the pool more memory"
        )
    return min(context, room)
