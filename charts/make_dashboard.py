"""The Grafana dashboard of the chart: `python charts/make_dashboard.py > charts/gllm/dashboards/gllm.json`."""

from __future__ import annotations

import json
from typing import Any

_BY = 'model_name=~"$model", namespace=~"$namespace"'
"""What every query of the runtime's series selects by. `namespace` is put on by Prometheus' operator."""
_WIDTH, _HEIGHT = 8, 7
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}

Query = tuple[str, str]
"""(expression, legend)."""


def quantiles(metric: str) -> list[Query]:
    return [
        (f"histogram_quantile({share}, sum by (le) (rate({metric}_bucket{{{_BY}}}[$__rate_interval])))", name)
        for share, name in ((0.5, "median"), (0.95, "95 %"), (0.99, "99 %"))
    ]


def rate(metric: str, by: str = "", legend: str = "") -> list[Query]:
    group = f" by ({by})" if by else ""
    return [(f"sum{group} (rate({metric}{{{_BY}}}[$__rate_interval]))", legend or (f"{{{{{by}}}}}" if by else "all"))]


def gauge(metric: str, how: str = "sum", by: str = "pod") -> list[Query]:
    legend = " ".join(f"{{{{{label}}}}}" for label in by.split(", "))
    return [(f"{how} by ({by}) ({metric}{{{_BY}}})", legend)]


def plain(expression: str, legend: str) -> list[Query]:
    return [(expression, legend)]


_ROWS: list[tuple[str, list[tuple[str, str, str, list[Query]]]]] = [
    (
        "Service",
        [
            ("Requests", "reqps", "HTTP answers a second by status, of all models.", 
                plain('sum by (status) (rate(gllm:http_requests_total{namespace=~"$namespace"}[$__rate_interval]))',
                      "{{status}}")),
            ("Refused", "reqps", "By reason: queue_full asks for more groups.",
             rate("gllm:admission_rejections_total", "reason")),
            ("Choices ended", "reqps", "stop and length are good ends.",
             rate("gllm:request_success_total", "finished_reason")),
            ("Time to first token", "s", "Arrival to first token.", quantiles("gllm:time_to_first_token_seconds")),
            ("Between tokens", "s", "A pause here is a recovery, or prompts that crowd out decodes.",
             quantiles("gllm:inter_token_latency_seconds")),
            ("Whole request", "s", "Arrival to last token.", quantiles("gllm:e2e_request_latency_seconds")),
            ("Tokens", "short", "Tokens a second.",
             rate("gllm:generation_tokens_total", legend="generated")
             + rate("gllm:prompt_tokens_total", legend="prompt")),
            ("Time in the queue", "s", "Waiting to be scheduled.", quantiles("gllm:request_queue_time_seconds")),
            ("Engines up", "short", "0: its group recovers.", gauge("gllm:engine_up", "min")),
        ],
    ),
    (
        "Scheduler and pipeline",
        [
            ("Running", "short", "Requests in the running batch.", gauge("gllm:num_requests_running")),
            ("Waiting", "short", "What an autoscaler may look at.", gauge("gllm:num_requests_waiting")),
            ("Waiting prompt tokens", "short", "Not yet computed.", gauge("gllm:num_waiting_tokens")),
            ("KV cache in use", "percentunit", "Near 1 requests are preempted.",
             gauge("gllm:kv_cache_usage_perc", "max")),
            ("Preemptions", "short", "A second, by recompute.", rate("gllm:num_preemptions_total")),
            ("Prefix cache hits", "percentunit", "Share of looked-up prompt tokens.",
             plain(f"sum (rate(gllm:prefix_cache_hits_total{{{_BY}}}[$__rate_interval])) / "
                   f"sum (rate(gllm:prefix_cache_queries_total{{{_BY}}}[$__rate_interval]))", "hits")),
            ("Stages busy", "percentunit", "Even stages are a balanced pipeline.",
             gauge("gllm:stage_busy_perc", "avg", "pod, stage")),
            ("Bubbles", "percentunit", "Time with work in flight in which a stage did not compute.",
             gauge("gllm:stage_bubble_perc", "avg", "pod, stage")),
            ("Micro-batch tokens", "short", "Median by phase.",
             plain("histogram_quantile(0.5, sum by (le, phase) "
                   f"(rate(gllm:microbatch_tokens_bucket{{{_BY}}}[$__rate_interval])))", "{{phase}}")),
            ("Micro-batches in flight", "short", "At most the pipeline's depth.",
             gauge("gllm:num_inflight_microbatches", "avg")),
            ("Step time of stages", "s", "The slowest one sets the pace.",
             gauge("gllm:stage_step_time_seconds", "max", "pod, stage")),
            ("Since progress", "s", "A busy engine's silence; near probes.stepTimeoutSeconds it starts anew.",
             gauge("gllm:seconds_since_progress", "max")),
        ],
    ),
    (
        "Operator",
        [
            ("Groups by phase", "short", "Broken, BackingOff and Failed need a look: kubectl describe llm.",
             plain("sum by (phase) (gllm_operator_groups)", "{{phase}}")),
            ("LLMDeployments", "short", "Looked after by the operator that leads.",
             plain("sum (gllm_operator_deployments)", "deployments")
             + plain("sum (gllm_operator_leads)", "leaders")),
            ("Passes", "ops", "By how they ended; errors are told in its log.",
             plain("sum by (result) (rate(gllm_operator_reconciles_total[$__rate_interval]))", "{{result}}")),
            ("Time of a pass", "s", "Observe, plan, execute.",
             plain("histogram_quantile(0.95, sum by (le) "
                   "(rate(gllm_operator_reconcile_seconds_bucket[$__rate_interval])))", "95 %")),
            ("Writes", "ops", "To the API server; none while nothing changes.",
             plain("sum by (verb, kind) (rate(gllm_operator_writes_total[$__rate_interval]))", "{{verb}} {{kind}}")),
        ],
    ),
]  # fmt: skip


def panel(
    number: int, place: tuple[int, int], title: str, unit: str, text: str, queries: list[Query]
) -> dict[str, Any]:
    return {
        "id": number,
        "type": "timeseries",
        "title": title,
        "description": text,
        "datasource": _SOURCE,
        "gridPos": {"x": place[0], "y": place[1], "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(65 + index), "expr": expression, "legendFormat": legend, "datasource": _SOURCE}
            for index, (expression, legend) in enumerate(queries)
        ],
    }


def variable(name: str, label: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": _SOURCE,
        "query": f"label_values(gllm:engine_up, {label})",
        "refresh": 2,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
    }


def dashboard() -> dict[str, Any]:
    panels: list[dict[str, Any]] = []
    below = 0
    for title, entries in _ROWS:
        panels.append(
            {"id": len(panels) + 1, "type": "row", "title": title, "gridPos": {"x": 0, "y": below, "w": 24, "h": 1}}
        )
        below += 1
        for index, (name, unit, text, queries) in enumerate(entries):
            place = (index % 3 * _WIDTH, below + index // 3 * _HEIGHT)
            panels.append(panel(len(panels) + 1, place, name, unit, text, queries))
        below += -(-len(entries) // 3) * _HEIGHT
    source = {"name": "datasource", "type": "datasource", "query": "prometheus"}
    return {
        "uid": "gllm",
        "title": "gLLM",
        "tags": ["gllm"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [source, variable("namespace", "namespace"), variable("model", "model_name")]},
        "panels": panels,
    }


if __name__ == "__main__":
    print(json.dumps(dashboard(), indent=1))
