"""The Grafana dashboard of the chart: `python charts/make_dashboard.py > charts/gllm/dashboards/gllm.json`."""

from __future__ import annotations

import json
import re
from typing import Any

_BY = 'model_name=~"$model", namespace=~"$namespace"'
"""Labels by which queries select the runtime's series. Prometheus' operator adds `namespace`."""
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
            (
                "Requests",
                "reqps",
                "HTTP responses per second, by status, of all models.",
                plain(
                    'sum by (status) (rate(gllm:http_requests_total{namespace=~"$namespace"}[$__rate_interval]))',
                    "{{status}}",
                ),
            ),
            (
                "Refused",
                "reqps",
                "Refused requests per second, by reason. queue_full means that more groups are needed.",
                rate("gllm:admission_rejections_total", "reason"),
            ),
            (
                "Choices ended",
                "reqps",
                "Finished choices per second, by reason. stop and length are normal.",
                rate("gllm:request_success_total", "finished_reason"),
            ),
            (
                "Goodput",
                "reqps",
                "Finished choices per second that met the TTFT target, the TPOT target, all that are set.",
                rate("gllm:request_targets_met_total", "target"),
            ),
            (
                "Time to first token",
                "s",
                "From the arrival of a request to its first token.",
                quantiles("gllm:time_to_first_token_seconds"),
            ),
            (
                "Between tokens",
                "s",
                "The time between two tokens. Pauses are recoveries, or prompts that delay decodes.",
                quantiles("gllm:inter_token_latency_seconds"),
            ),
            (
                "Whole request",
                "s",
                "From the arrival of a request to its last token.",
                quantiles("gllm:e2e_request_latency_seconds"),
            ),
            (
                "Tokens",
                "short",
                "Tokens per second.",
                rate("gllm:generation_tokens_total", legend="generated")
                + rate("gllm:prompt_tokens_total", legend="prompt"),
            ),
            (
                "Time in the queue",
                "s",
                "The time until a request is scheduled first.",
                quantiles("gllm:request_queue_time_seconds"),
            ),
            ("Engines up", "short", "0 means that the group is recovering.", gauge("gllm:engine_up", "min")),
        ],
    ),
    (
        "Scheduler and pipeline",
        [
            ("Running", "short", "Requests that are running.", gauge("gllm:num_requests_running")),
            (
                "Waiting",
                "short",
                "Requests that are waiting; a metric for autoscalers.",
                gauge("gllm:num_requests_waiting"),
            ),
            (
                "Waiting prompt tokens",
                "short",
                "Prompt tokens that are not computed yet.",
                gauge("gllm:num_waiting_tokens"),
            ),
            (
                "KV cache in use",
                "percentunit",
                "The used share of the KV cache. Near 1, requests are preempted.",
                gauge("gllm:kv_cache_usage_perc", "max"),
            ),
            (
                "Preemptions",
                "short",
                "Preemptions per second. Preempted requests are recomputed.",
                rate("gllm:num_preemptions_total"),
            ),
            (
                "Prefix cache hits",
                "percentunit",
                "The share of prompt tokens that the prefix cache had.",
                plain(
                    f"sum (rate(gllm:prefix_cache_hits_total{{{_BY}}}[$__rate_interval])) / "
                    f"sum (rate(gllm:prefix_cache_queries_total{{{_BY}}}[$__rate_interval]))",
                    "hits",
                ),
            ),
            (
                "Stages busy",
                "percentunit",
                "The busy share of each stage. Equal shares mean a balanced pipeline.",
                gauge("gllm:stage_busy_perc", "avg", "pod, stage"),
            ),
            (
                "Bubbles",
                "percentunit",
                "The share of time in which a stage was idle while work was in flight.",
                gauge("gllm:stage_bubble_perc", "avg", "pod, stage"),
            ),
            (
                "Micro-batch tokens",
                "short",
                "The median number of tokens, by phase.",
                plain(
                    "histogram_quantile(0.5, sum by (le, phase) "
                    f"(rate(gllm:microbatch_tokens_bucket{{{_BY}}}[$__rate_interval])))",
                    "{{phase}}",
                ),
            ),
            (
                "Micro-batches in flight",
                "short",
                "At most the depth of the pipeline.",
                gauge("gllm:num_inflight_microbatches", "avg"),
            ),
            (
                "Step time of stages",
                "s",
                "The slowest stage determines the throughput.",
                gauge("gllm:stage_step_time_seconds", "max", "pod, stage"),
            ),
            (
                "Since progress",
                "s",
                "Seconds since a busy engine's last progress. At probes.stepTimeoutSeconds it restarts.",
                gauge("gllm:seconds_since_progress", "max"),
            ),
        ],
    ),
    (
        "Operator",
        [
            (
                "Groups by phase",
                "short",
                "For Broken, BackingOff and Failed see kubectl describe llm.",
                plain("sum by (phase) (gllm_operator_groups)", "{{phase}}"),
            ),
            (
                "LLMDeployments",
                "short",
                "Number of LLMDeployments, and of leading operators.",
                plain("sum (gllm_operator_deployments)", "deployments") + plain("sum (gllm_operator_leads)", "leaders"),
            ),
            (
                "Passes",
                "ops",
                "Reconcile passes per second, by result. The operator's log has the errors.",
                plain("sum by (result) (rate(gllm_operator_reconciles_total[$__rate_interval]))", "{{result}}"),
            ),
            (
                "Time of a pass",
                "s",
                "The duration of a reconcile pass.",
                plain(
                    "histogram_quantile(0.95, sum by (le) "
                    "(rate(gllm_operator_reconcile_seconds_bucket[$__rate_interval])))",
                    "95 %",
                ),
            ),
            (
                "Writes",
                "ops",
                "Writes to the API server per second. There are none while nothing changes.",
                plain("sum by (verb, kind) (rate(gllm_operator_writes_total[$__rate_interval]))", "{{verb}} {{kind}}"),
            ),
        ],
    ),
]


def panel(
    number: int, position: tuple[int, int], title: str, unit: str, text: str, queries: list[Query]
) -> dict[str, Any]:
    return {
        "id": number,
        "type": "timeseries",
        "title": title,
        "description": text,
        "datasource": _SOURCE,
        "gridPos": {"x": position[0], "y": position[1], "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(65 + index), "expr": expression, "legendFormat": legend, "datasource": _SOURCE}
            # One query of a panel of latencies asks for exemplars: dots that lead to the traces of slow requests.
            | ({"exemplar": True} if index == 0 and re.search(r"gllm:\w+_seconds_bucket", expression) else {})
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
            position = (index % 3 * _WIDTH, below + index // 3 * _HEIGHT)
            panels.append(panel(len(panels) + 1, position, name, unit, text, queries))
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
