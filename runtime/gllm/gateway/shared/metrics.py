"""Prometheus series under `gllm:`, with vLLM's suffixes, labels, units and bucket edges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from gllm.engine.client.client import EngineClient
from gllm.engine.client.engines import RemoteEngines
from gllm.gateway.shared.metric_families import MetricFamilies
from gllm.sampling_params import SamplingParams
from gllm.wire.messages import ITERATION_EDGES, MICROBATCH_EDGES, EngineStats, Hello, TokenHistogram

TTFT_BUCKETS = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
)  # fmt: skip
LATENCY_BUCKETS = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
)  # fmt: skip
ITL_BUCKETS = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
N_BUCKETS = (1, 2, 5, 10, 20)

Exemplar = dict[str, str] | None
"""Labels of an exemplar of a histogram: the id of the request's trace, if it is traced."""

_LABELS = ("model_name", "engine")
_ENGINE = "0"
"""A gateway has one engine; the label exists because vLLM's dashboards select by it."""


def length_buckets(longest: int) -> tuple[int, ...]:
    """Return the edges 1, 2, 5, 10, 20, 50 ... up to the context length."""
    edges = [m * 10**e for e in range(8) for m in (1, 2, 5)]
    return tuple(edge for edge in edges if edge <= max(longest, 1))


class FinishedChoice(msgspec.Struct, kw_only=True):
    """The figures of a choice that was not aborted. Times are in seconds."""

    reason: str
    """stop or length."""
    prompt_tokens: int
    completion_tokens: int
    max_tokens: int
    """Limit of its completion tokens."""
    latency: float
    """From the arrival of the request to its last token."""
    queue_time: float
    """Waiting to be scheduled."""
    prefill_time: float
    """From the first step to the first token."""
    decode_time: float
    """From the first to the last token."""


class GatewayMetrics:
    def __init__(
        self,
        model_name: str,
        max_model_len: int,
        engine: EngineClient | RemoteEngines,
        *,
        ttft_target: float = 0.0,
        tpot_target: float = 0.0,
        families: MetricFamilies | None = None,
    ) -> None:
        """Targets are in seconds; 0: none. families: those of the process, if it has several models."""
        families = families or MetricFamilies()
        self.registry = families.registry
        labels = (model_name, _ENGINE)

        def counter(name: str, text: str) -> Counter:
            return families.counter(name, text, _LABELS).labels(*labels)

        def histogram(name: str, text: str, buckets: Sequence[float]) -> Histogram:
            return families.histogram(name, text, _LABELS, buckets).labels(*labels)

        lengths = length_buckets(max_model_len)
        self._prompt_tokens = counter("prompt_tokens", "Prompt tokens of requests that got their first token.")
        self._generation_tokens = counter("generation_tokens", "Tokens generated.")
        success = families.counter("request_success", "Choices ended, by reason.", (*_LABELS, "finished_reason"))
        self._ended = {r: success.labels(*labels, r) for r in ("stop", "length", "abort", "error")}
        rejected = families.counter("admission_rejections", "Requests refused before the engine.", (*_LABELS, "reason"))
        self._rejected = {
            r: rejected.labels(*labels, r) for r in ("queue_full", "queue_tokens", "draining", "not_ready")
        }
        met = families.counter(
            "request_targets_met",
            "Choices ended within --ttft-target, within --tpot-target, within all that are set (the goodput).",
            (*_LABELS, "target"),
        )
        self._targets = {
            name: (seconds, met.labels(*labels, name))
            for name, seconds in (("ttft", ttft_target), ("tpot", tpot_target))
            if seconds
        }
        self._all_met = met.labels(*labels, "all") if self._targets else None
        self._http = families.counter("http_requests", "HTTP answers.", ("route", "method", "status"))
        self._ttft = histogram("time_to_first_token_seconds", "Arrival to first token.", TTFT_BUCKETS)
        self._itl = histogram("inter_token_latency_seconds", "Between outputs of a choice.", ITL_BUCKETS)
        self._tpot = histogram(
            "request_time_per_output_token_seconds", "Mean time per token after the first.", ITL_BUCKETS
        )
        self._e2e = histogram("e2e_request_latency_seconds", "Arrival to last token.", LATENCY_BUCKETS)
        self._queue = histogram("request_queue_time_seconds", "Waiting to be scheduled.", LATENCY_BUCKETS)
        self._prefill = histogram("request_prefill_time_seconds", "Scheduled to first token.", LATENCY_BUCKETS)
        self._decode = histogram("request_decode_time_seconds", "First to last token.", LATENCY_BUCKETS)
        self._inference = histogram("request_inference_time_seconds", "Scheduled to last token.", LATENCY_BUCKETS)
        self._prompt_length = histogram("request_prompt_tokens", "Prompt length.", lengths)
        self._output_length = histogram("request_generation_tokens", "Output length.", lengths)
        self._longest_output = histogram(
            "request_max_num_generation_tokens", "Output length that a request may reach.", lengths
        )
        self._n = histogram("request_params_n", "Parameter n.", N_BUCKETS)
        self._max_tokens = histogram("request_params_max_tokens", "Parameter max_tokens.", lengths)
        if isinstance(engine, RemoteEngines):
            families.add_engines(model_name, engine)
        else:
            self.registry.register(EngineCollector(engine, labels))

    def rejected(self, reason: str) -> None:
        self._rejected[reason].inc()

    def http(self, route: str, method: str, status: int) -> None:
        self._http.labels(route, method, str(status)).inc()

    def submitted(self, n: int, samplings: Sequence[SamplingParams]) -> None:
        """Count a request with n choices for each prompt. samplings: one for each prompt."""
        self._n.observe(n)
        for sampling in samplings:
            self._max_tokens.observe(sampling.max_tokens or 0)

    def first_token(self, seconds: float, exemplar: Exemplar = None) -> None:
        self._ttft.observe(seconds, exemplar)

    def inter_token(self, seconds: float, exemplar: Exemplar = None) -> None:
        self._itl.observe(seconds, exemplar)

    def tokens(self, count: int) -> None:
        """Count output tokens."""
        if count:
            self._generation_tokens.inc(count)

    def unfinished(self, reason: str) -> None:
        """Count a choice that was cut short: `abort` by its client, `error` by the engine."""
        self._ended[reason].inc()

    def finished(self, choice: FinishedChoice, exemplar: Exemplar = None) -> None:
        """Count a choice that was not aborted."""
        self._ended[choice.reason].inc()
        self._e2e.observe(choice.latency, exemplar)
        self._queue.observe(choice.queue_time, exemplar)
        self._prefill.observe(choice.prefill_time, exemplar)
        self._decode.observe(choice.decode_time, exemplar)
        self._inference.observe(choice.prefill_time + choice.decode_time, exemplar)
        self._prompt_tokens.inc(choice.prompt_tokens)
        self._prompt_length.observe(choice.prompt_tokens)
        self._output_length.observe(choice.completion_tokens)
        self._longest_output.observe(choice.max_tokens)
        tpot = choice.decode_time / max(choice.completion_tokens - 1, 1)
        if choice.completion_tokens > 1:
            self._tpot.observe(tpot, exemplar)
        self._count_targets({"ttft": choice.latency - choice.decode_time, "tpot": tpot})

    def _count_targets(self, measured: dict[str, float]) -> None:
        """Count the targets that a choice has met. measured: its times in seconds, by the target's name."""
        met = [counter for name, (target, counter) in self._targets.items() if measured[name] <= target]
        for counter in met:
            counter.inc()
        if self._all_met is not None and len(met) == len(self._targets):
            self._all_met.inc()

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Return (body, content type). accept: the scraper's header; OpenMetrics, if it is named, has exemplars."""
        if "application/openmetrics-text" in accept:
            # By default prometheus_client writes the colon of samples, though it is legal, as an underscore.
            body: bytes = openmetrics.generate_latest(  # type: ignore[no-untyped-call]
                self.registry, openmetrics.ALLOWUTF8
            )
            return body, openmetrics.CONTENT_TYPE_LATEST
        return generate_latest(self.registry), CONTENT_TYPE_LATEST


class EngineCollector(Collector):
    """Reads the engine's last stats when scraped. A new engine's counters start at zero; these continue."""

    def __init__(self, engine: EngineClient, labels: tuple[str, str]) -> None:
        self._engine = engine
        self._labels = labels
        self._seen: dict[str, int] = {}
        self._total: dict[str, int] = {}

    def collect(self) -> Iterator[Metric]:
        hello = self._engine.hello
        stats = self._engine.stats if hello is not None else EngineStats()
        for name, text, value in (
            ("num_requests_running", "Requests in the running batch.", stats.num_running),
            ("num_requests_waiting", "Requests waiting to be scheduled.", stats.num_waiting),
            ("num_waiting_tokens", "Prompt tokens not yet computed.", stats.num_waiting_tokens),
            ("num_inflight_microbatches", "Micro-batches in the pipeline.", stats.num_inflight),
            ("kv_cache_usage_perc", "Share of KV pages in use, 0 to 1.", stats.kv_usage),
            ("step_time_seconds", "Compute time of the last step.", stats.step_time),
            ("seconds_since_progress", "Time since a busy engine finished a step.", stats.seconds_since_progress),
            ("engine_up", "1 if the engine is connected.", float(hello is not None)),
        ):
            gauge = GaugeMetricFamily(f"gllm:{name}", text, labels=_LABELS)
            gauge.add_metric(self._labels, value)
            yield gauge
        for name, text, count in (
            ("num_preemptions", "Preemptions by recompute.", stats.num_preemptions),
            ("prefix_cache_queries", "Prompt tokens looked up in the prefix cache.", stats.prefix_cache_queries),
            ("prefix_cache_hits", "Prompt tokens found in the prefix cache.", stats.prefix_cache_hits),
        ):
            family = CounterMetricFamily(f"gllm:{name}", text, labels=_LABELS)
            family.add_metric(self._labels, self._continued(name, count))
            yield family
        waiting = GaugeMetricFamily(
            "gllm:num_requests_waiting_by_reason", "Requests waiting to be scheduled.", labels=(*_LABELS, "reason")
        )
        waiting.add_metric((*self._labels, "capacity"), stats.num_waiting - stats.num_deferred)
        waiting.add_metric((*self._labels, "deferred"), stats.num_deferred)
        yield waiting
        yield from self._stages(stats)
        yield from self._histograms(stats)
        if hello is not None:
            yield self._cache(hello)

    def _cache(self, hello: Hello) -> Metric:
        size = hello.num_pages * hello.page_size
        sizes = {
            "block_size": hello.page_size,
            "num_gpu_blocks": hello.num_pages,
            "kv_cache_size_tokens": size,
            "kv_cache_max_concurrency": round(size / hello.max_model_len, 2),
        }
        info = GaugeMetricFamily("gllm:cache_config_info", "Sizes of the KV cache.", labels=(*_LABELS, *sizes))
        info.add_metric((*self._labels, *map(str, sizes.values())), 1)
        return info

    def _stages(self, stats: EngineStats) -> Iterator[Metric]:
        """Gauges with a label for the stage; `gllm.engine.meter` defines the shares."""
        for name, text in (
            ("stage_busy_perc", "Share of the last 30 s that the stage computed, 0 to 1."),
            ("stage_bubble_perc", "Share of the time with work in flight that the stage did not compute, 0 to 1."),
            ("stage_step_time_seconds", "Compute time of the stage's last step."),
            ("stage_prediction_error_perc", "Mean relative error of predicted step times, 0 to 1 and more."),
        ):
            gauge = GaugeMetricFamily(f"gllm:{name}", text, labels=(*_LABELS, "stage"))
            field = name.removeprefix("stage_").removesuffix("_perc").removesuffix("_seconds")
            for stage, figures in enumerate(stats.stages):
                gauge.add_metric((*self._labels, str(stage)), getattr(figures, field))
            yield gauge

    def _histograms(self, stats: EngineStats) -> Iterator[Metric]:
        """Histograms of tokens per step. The engine counts them, because many steps have no output."""
        steps = HistogramMetricFamily("gllm:iteration_tokens_total", "Tokens in an engine step.", labels=_LABELS)
        steps.add_metric(self._labels, *self._buckets("iteration_tokens", ITERATION_EDGES, stats.iterations))
        yield steps
        parts = HistogramMetricFamily(
            "gllm:microbatch_tokens", "Tokens of a micro-batch by phase.", labels=(*_LABELS, "phase")
        )
        for phase, histogram in (("prefill", stats.microbatch_prefill), ("decode", stats.microbatch_decode)):
            buckets = self._buckets(f"microbatch_tokens/{phase}", MICROBATCH_EDGES, histogram)
            parts.add_metric((*self._labels, phase), *buckets)
        yield parts

    def _buckets(
        self, name: str, edges: tuple[int, ...], histogram: TokenHistogram
    ) -> tuple[list[tuple[str, float]], float]:
        """Return cumulative counts by upper bound, and the sum; both continue over the engine's restarts."""
        counts = histogram.counts or [0] * (len(edges) + 1)
        bounds = [*(str(float(edge)) for edge in edges), "+Inf"]
        below = 0
        buckets = []
        for index, (bound, count) in enumerate(zip(bounds, counts, strict=True)):
            below += self._continued(f"{name}/{index}", count)
            buckets.append((bound, float(below)))
        return buckets, float(self._continued(f"{name}/sum", histogram.total))

    def _continued(self, name: str, count: int) -> int:
        seen = self._seen.get(name, 0)
        self._total[name] = self._total.get(name, 0) + (count - seen if count >= seen else count)
        self._seen[name] = count
        return self._total[name]
