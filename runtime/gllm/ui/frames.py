"""Server-sent events of `GET /pipeline/events`: of a server, and of a simulated run."""

from __future__ import annotations

from typing import Any

import msgspec

from gllm.wire.messages import EngineStats
from gllm.wire.pipeline_events import PipelineEvents

_json = msgspec.json.Encoder().encode


def frame(event: str, data: dict[str, Any]) -> bytes:
    """Return one server-sent event."""
    return b"event: %s\ndata: %s\n\n" % (event.encode(), _json(data))


def events_frame(engine: str, events: PipelineEvents, stats: EngineStats) -> bytes:
    """Return the event `pipeline`. engine: HOST:PORT, or empty if there is one engine."""
    return frame("pipeline", {"engine": engine, **msgspec.structs.asdict(events), "stats": _figures(stats)})


def _figures(stats: EngineStats) -> dict[str, Any]:
    return {
        "num_running": stats.num_running,
        "num_waiting": stats.num_waiting,
        "num_waiting_tokens": stats.num_waiting_tokens,
        "num_inflight": stats.num_inflight,
        "num_preemptions": stats.num_preemptions,
        "kv_usage": stats.kv_usage,
        "prefix_cache_queries": stats.prefix_cache_queries,
        "prefix_cache_hits": stats.prefix_cache_hits,
        "seconds_since_progress": stats.seconds_since_progress,
        "stages": [msgspec.structs.asdict(stage) for stage in stats.stages],
    }
