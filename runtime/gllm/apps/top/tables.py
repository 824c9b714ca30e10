"""The figures of servers as tables: one of all servers, one of their stages, one of the engines behind gateways."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gllm.apps.top.figures import ServerFigures
from gllm.terminal import markdown_table

NOTHING = "-"
_BAR = 20
_MOST_COLUMNS = 3
"""Up to so many servers are columns; more are rows, which need a wide terminal."""


class Table(NamedTuple):
    columns: tuple[str, ...]
    rows: list[list[str]]


SERVERS = (
    "server", "model", "state", "running", "waiting", "in flight", "KV", "prefix hits", "prompt tok/s", "output tok/s",
    "req/s", "rejected/s", "TTFT p50/p95", "TPOT p50/p95", "goodput",
)  # fmt: skip
STAGES = ("server", "stage", "busy", "", "bubble", "step")
ENGINES = ("server", "engine", "state", "requests")


def tables(figures: Sequence[ServerFigures]) -> list[Table]:
    """Return the tables that have rows."""
    made = [
        _servers([_server(one) for one in figures]),
        Table(
            STAGES,
            [
                [_short(one.url), str(stage.stage), share(stage.busy), bar(stage.busy), share(stage.bubble),
                 seconds(stage.step_seconds)]
                for one in figures
                for stage in one.stages
            ],
        ),
        Table(
            ENGINES,
            [
                [_short(one.url), engine.address, "serves" if engine.up else "away", str(engine.requests)]
                for one in figures
                for engine in one.engines
            ],
        ),
    ]  # fmt: skip
    return [table for table in made if table.rows]


def plain(figures: Sequence[ServerFigures]) -> str:
    """Return all tables in Markdown."""
    return "\n\n".join(markdown_table(*table) for table in tables(figures))


def _servers(rows: list[list[str]]) -> Table:
    if len(rows) > _MOST_COLUMNS:
        return Table(SERVERS, rows)
    first, *others = zip(SERVERS, *rows, strict=True)
    return Table(first, [list(row) for row in others])


def _server(one: ServerFigures) -> list[str]:
    if one.problem:
        return [_short(one.url), NOTHING, one.problem, *[NOTHING] * (len(SERVERS) - 3)]
    requests = sum(engine.requests for engine in one.engines)
    return [
        _short(one.url),
        ", ".join(one.models) or NOTHING,
        _state(one),
        number(requests if one.engines else one.running),
        number(one.waiting),
        number(one.micro_batches),
        share(one.kv_usage),
        share(one.prefix_hits),
        number(one.prompt_tokens_per_second),
        number(one.output_tokens_per_second),
        rate(one.requests_per_second),
        rate(one.rejected_per_second),
        f"{seconds(one.ttft_p50)} / {seconds(one.ttft_p95)}",
        f"{seconds(one.tpot_p50)} / {seconds(one.tpot_p95)}",
        share(one.goodput),
    ]


def _state(one: ServerFigures) -> str:
    if one.engines:
        return f"{sum(engine.up for engine in one.engines)} of {len(one.engines)} engines"
    if one.engine_up is None:
        return "no engine known"
    return "serves" if one.engine_up else "no engine"


def _short(url: str) -> str:
    return url.partition("://")[2]


def number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.0f}"


def rate(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.1f}"


def share(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.0%}"


def seconds(value: float | None) -> str:
    """Return a time in ms, or in s if it is long."""
    if value is None:
        return NOTHING
    return f"{1000 * value:.3g} ms" if value < 1.0 else f"{value:.3g} s"


def bar(value: float) -> str:
    filled = round(min(max(value, 0.0), 1.0) * _BAR)
    return "█" * filled + "░" * (_BAR - filled)
