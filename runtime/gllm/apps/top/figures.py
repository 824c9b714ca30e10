"""The figures that `gllm top` shows of a server, with the names of the web page's *Pipeline*."""

from __future__ import annotations

import msgspec

from gllm.apps.top.samples import Between

_ENDED_WELL = ("stop", "length")


class StageFigures(msgspec.Struct, kw_only=True):
    """Of the last 30 s, as the engine measures them."""

    stage: int
    busy: float
    bubble: float
    """Shares, 0 to 1."""
    step_seconds: float


class EngineFigures(msgspec.Struct, kw_only=True):
    """An engine behind `gllm gateway`."""

    address: str
    up: bool
    requests: int


class ServerFigures(msgspec.Struct, kw_only=True):
    """None: the server does not have this figure, or nothing happened between the samples."""

    url: str
    problem: str = ""
    """Why there are no figures; empty if there are."""
    models: list[str] = []
    engine_up: bool | None = None
    running: int | None = None
    waiting: int | None = None
    waiting_tokens: int | None = None
    micro_batches: int | None = None
    """In flight."""
    kv_usage: float | None = None
    prefix_hits: float | None = None
    """Shares, 0 to 1."""
    preemptions: int | None = None
    prompt_tokens_per_second: float | None = None
    output_tokens_per_second: float | None = None
    requests_per_second: float | None = None
    """That ended well."""
    rejected_per_second: float | None = None
    ttft_p50: float | None = None
    ttft_p95: float | None = None
    tpot_p50: float | None = None
    tpot_p95: float | None = None
    """Seconds."""
    goodput: float | None = None
    """Share of the requests that ended well and met all targets; None without --ttft-target and --tpot-target."""
    stages: list[StageFigures] = []
    engines: list[EngineFigures] = []
    resubmitted: int | None = None
    """Requests whose engine was lost, since the start of `gllm gateway`."""


def figures_of(url: str, between: Between) -> ServerFigures:
    """Return the figures of a server: gauges of the later sample, rates and quantiles of the time between both."""
    now = between.after
    ended = [between.growth("request_success_total", finished_reason=reason) for reason in _ENDED_WELL]
    well = sum(count or 0.0 for count in ended)
    engine_up = now.total("engine_up")
    busy, bubble = now.by("stage_busy_perc", "stage"), now.by("stage_bubble_perc", "stage")
    steps = now.by("stage_step_time_seconds", "stage")
    up, requests = now.by("gateway_engine_up", "address"), now.by("gateway_engine_requests", "address")
    return ServerFigures(
        url=url,
        models=now.label("model_name"),
        engine_up=None if engine_up is None else engine_up > 0,
        running=_whole(now.total("num_requests_running")),
        waiting=_whole(now.total("num_requests_waiting")),
        waiting_tokens=_whole(now.total("num_waiting_tokens")),
        micro_batches=_whole(now.total("num_inflight_microbatches")),
        kv_usage=now.total("kv_cache_usage_perc"),
        prefix_hits=between.share("prefix_cache_hits_total", between.growth("prefix_cache_queries_total")),
        preemptions=_whole(between.growth("num_preemptions_total")),
        prompt_tokens_per_second=between.rate("prompt_tokens_total"),
        output_tokens_per_second=between.rate("generation_tokens_total"),
        requests_per_second=well / between.seconds if any(count is not None for count in ended) else None,
        rejected_per_second=between.rate("admission_rejections_total"),
        ttft_p50=between.quantile("time_to_first_token_seconds", 0.5),
        ttft_p95=between.quantile("time_to_first_token_seconds", 0.95),
        tpot_p50=between.quantile("request_time_per_output_token_seconds", 0.5),
        tpot_p95=between.quantile("request_time_per_output_token_seconds", 0.95),
        goodput=between.share("request_targets_met_total", well, target="all"),
        stages=[
            StageFigures(
                stage=int(stage), busy=busy[stage], bubble=bubble.get(stage, 0.0), step_seconds=steps.get(stage, 0.0)
            )
            for stage in sorted(busy, key=int)
        ],
        engines=[
            EngineFigures(address=address, up=value > 0, requests=int(requests.get(address, 0)))
            for address, value in sorted(up.items())
        ],
        resubmitted=_whole(now.total("gateway_resubmitted_total")),
    )


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
