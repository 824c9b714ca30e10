"""The figures of a run, under the names that `vllm bench serve` gives them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from gllm.apps.bench.client import RequestRecord
from gllm.apps.bench.window import ROUNDING, WHOLE_RUN, Window, tokens_in

DEFINITIONS = """\
TTFT   time to first token: from sending a request to the first piece of its output.
TPOT   time per output token: (E2EL - TTFT) / (output tokens - 1), one value a request.
ITL    inter-token latency: gaps between successive pieces of output, over all requests. When there are fewer pieces
       than tokens, a gap is split evenly over the tokens of its piece (vllm bench serve counts it as one gap).
E2EL   end-to-end latency: from sending a request to the end of its output.
Tokens are counted by the server (`usage`). Failed requests count in no other figure. Percentiles interpolate linearly.
Goodput counts requests per second that meet every given bound."""

GOODPUT_METRICS = ("ttft", "tpot", "e2el")


class Spread(msgspec.Struct, frozen=True):
    """Mean, median and 99th percentile of one latency, in milliseconds."""

    mean: float
    median: float
    p99: float


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one run. Throughputs are per second of `duration`."""

    completed: int
    failed: int
    duration: float
    total_input_tokens: int
    total_output_tokens: int
    request_throughput: float
    request_goodput: float | None
    output_throughput: float
    peak_output_throughput: float
    """Maximum number of output tokens in one second of the run."""
    total_token_throughput: float
    max_concurrent_requests: int
    ttft: Spread
    tpot: Spread
    itl: Spread
    e2el: Spread


def percentile(values: Iterable[tuple[float, float]], share: float) -> float:
    """Return a percentile of (value, weight) pairs, interpolated linearly; `share` is 0 to 1.

    A weight of w means w equal values. Weights of 1 give numpy's default.
    """
    ordered = sorted((value, weight) for value, weight in values if weight > 0)
    if not ordered:
        return 0.0
    total = sum(weight for _, weight in ordered)
    target = share * max(total - 1.0, 0.0)
    passed = 0.0
    for index, (value, weight) in enumerate(ordered):
        # This value has the ranks passed .. passed + weight - 1; the next value follows one rank later.
        last_rank = passed + weight - 1.0
        if target <= last_rank or index == len(ordered) - 1:
            return value
        if target < last_rank + 1.0:
            following = ordered[index + 1][0]
            return value + (following - value) * (target - last_rank)
        passed += weight
    return ordered[-1][0]


def spread(values: Sequence[tuple[float, float]]) -> Spread:
    """Return the spread of (seconds, weight) pairs; zeros if there are none."""
    weight = sum(weight for _, weight in values)
    mean = sum(value * weight for value, weight in values) / weight if weight else 0.0
    return Spread(1e3 * mean, 1e3 * percentile(values, 0.5), 1e3 * percentile(values, 0.99))


def summarize(
    records: Sequence[RequestRecord],
    duration: float,
    goodput: dict[str, float] | None = None,
    window: Window = WHOLE_RUN,
) -> Summary:
    """Compute every figure.

    Args:
        duration: seconds from the first request to the end of the last one, or of the window.
        goodput: bounds of ttft, tpot and e2el in milliseconds.
        window: the part of the run that counts; everything counts at the moment that completes it.
    """
    good = [record for record in records if record.ok]
    ended = [record for record in good if window.holds(record.end)]
    whole = [record for record in ended if window.holds(record.first_token)]
    duration = max(duration, 1e-9)
    inputs, outputs = tokens_in(good, window)
    return Summary(
        completed=len(ended),
        failed=sum(not record.ok and window.holds(record.end) for record in records),
        duration=duration,
        total_input_tokens=inputs,
        total_output_tokens=round(outputs),
        request_throughput=len(ended) / duration,
        request_goodput=_goodput(whole, len(ended) / duration, goodput) if goodput else None,
        output_throughput=outputs / duration,
        peak_output_throughput=_busiest_second(good, window),
        total_token_throughput=(inputs + outputs) / duration,
        max_concurrent_requests=_peak_concurrency(good, window),
        ttft=spread([(record.ttft, 1.0) for record in good if window.holds(record.first_token)]),
        tpot=spread([(tpot, 1.0) for record in whole if (tpot := record.tpot) is not None]),
        itl=spread([gap for record in good for gap in _gaps(record, window)]),
        e2el=spread([(record.latency, 1.0) for record in ended]),
    )


def parse_goodput(bounds: Sequence[str]) -> dict[str, float]:
    """Parse ["ttft:200", "tpot:50"] to {"ttft": 200.0, "tpot": 50.0}, in milliseconds. Raises ValueError."""
    parsed = {}
    for bound in bounds:
        name, _, value = bound.partition(":")
        try:
            parsed[name] = float(value)
        except ValueError:
            parsed[name] = -1.0
        if name not in GOODPUT_METRICS or parsed[name] <= 0:
            raise ValueError(
                f"goodput must look like ttft:200 (milliseconds; {', '.join(GOODPUT_METRICS)}), not {bound!r}"
            )
    return parsed


def _goodput(whole: Sequence[RequestRecord], rate: float, bounds: dict[str, float]) -> float | None:
    """Return the requests per second that meet the bounds, of `rate` that end; None if none can be judged."""
    if not whole:
        return None if rate else 0.0
    return rate * sum(meets(record, bounds) for record in whole) / len(whole)


def meets(record: RequestRecord, bounds: dict[str, float]) -> bool:
    """Whether a request met all bounds, in milliseconds."""
    measured = {"ttft": record.ttft, "tpot": record.tpot or 0.0, "e2el": record.latency}
    return all(1e3 * measured[name] <= bound for name, bound in bounds.items())


def _gaps(record: RequestRecord, window: Window) -> Iterator[tuple[float, float]]:
    """Yield the gaps that end in the window."""
    for (seconds, _), gap in zip(record.pieces[1:], record.gaps, strict=True):
        if window.holds(record.start + seconds):
            yield gap


def _peak_concurrency(records: Sequence[RequestRecord], window: Window) -> int:
    """Return the maximum number of requests in flight. A request that ends when another starts does not overlap it."""
    inside = [record for record in records if window.overlap(record.start, record.end) > 0]
    changes = [(max(record.start, window.start), 1) for record in inside]
    changes += [(record.end - ROUNDING, -1) for record in inside]
    live = peak = 0
    for _, change in sorted(changes):
        live += change
        peak = max(peak, live)
    return peak


def _busiest_second(records: Sequence[RequestRecord], window: Window) -> float:
    seconds: dict[int, float] = {}
    for record in records:
        for time, tokens in record.pieces:
            if window.holds(record.start + time):
                second = int(record.start + time)
                seconds[second] = seconds.get(second, 0.0) + tokens
    return max(seconds.values(), default=0.0)


def flat(summary: Summary) -> dict[str, Any]:
    """Return the figures under the keys of vLLM's result files (`mean_ttft_ms`, ...)."""
    figures: dict[str, Any] = msgspec.to_builtins(summary)
    for name in ("ttft", "tpot", "itl", "e2el"):
        for statistic, value in figures.pop(name).items():
            figures[f"{statistic}_{name}_ms"] = value
    return figures


def as_json(summary: Summary, settings: dict[str, Any], records: Sequence[RequestRecord] = ()) -> dict[str, Any]:
    """Return the settings, the figures and the records."""
    result = {**settings, **flat(summary)}
    if records:
        result["requests"] = [
            {
                **msgspec.to_builtins(record),
                "ttft": record.ttft if record.ok else None,
                "tpot": record.tpot if record.ok else None,
            }
            for record in records
        ]
    return result


Row = tuple[str, int | float]
"""A label and one number."""

COLUMNS = ("", "", "mean", "median", "p99")
"""Columns of the table on a terminal."""


def cells(summary: Summary, more: Sequence[Row] = ()) -> list[list[str]]:
    """Return the rows of COLUMNS: single figures, `more` of them, then the latencies."""
    rows = [[label, _number(value), "", "", ""] for label, value in (*_figures(summary), *more)]
    rows += [
        [f"{about}, {name} (ms)", "", *map(_number, (figures.mean, figures.median, figures.p99))]
        for name, about, figures in _latencies(summary)
    ]
    return rows


def as_text(summary: Summary, title: str = "Serving Benchmark Result", more: Sequence[Row] = ()) -> str:
    """Return the text of `vllm bench serve`, line for line, with `more` single figures before the latencies."""
    width = 50
    lines = [f" {title} ".center(width, "=")]
    lines += [_line(f"{label}:", value) for label, value in (*_figures(summary), *more)]
    for name, about, figures in _latencies(summary):
        lines.append(about.center(width, "-"))
        lines.append(_line(f"Mean {name} (ms):", figures.mean))
        lines.append(_line(f"Median {name} (ms):", figures.median))
        lines.append(_line(f"P99 {name} (ms):", figures.p99))
    lines.append("=" * width)
    return "\n".join(lines)


def _figures(summary: Summary) -> list[Row]:
    """Return the figures that are one number, under vLLM's labels."""
    rows: list[Row] = [
        ("Successful requests", summary.completed),
        ("Failed requests", summary.failed),
        ("Benchmark duration (s)", summary.duration),
        ("Total input tokens", summary.total_input_tokens),
        ("Total generated tokens", summary.total_output_tokens),
        ("Request throughput (req/s)", summary.request_throughput),
    ]
    if summary.request_goodput is not None:
        rows.append(("Request goodput (req/s)", summary.request_goodput))
    return [
        *rows,
        ("Output token throughput (tok/s)", summary.output_throughput),
        ("Peak output token throughput (tok/s)", summary.peak_output_throughput),
        ("Peak concurrent requests", summary.max_concurrent_requests),
        ("Total token throughput (tok/s)", summary.total_token_throughput),
    ]


def _latencies(summary: Summary) -> tuple[tuple[str, str, Spread], ...]:
    return (
        ("TTFT", "Time to First Token", summary.ttft),
        ("TPOT", "Time per Output Token (excl. 1st token)", summary.tpot),
        ("ITL", "Inter-token Latency", summary.itl),
        ("E2EL", "End-to-end Latency", summary.e2el),
    )


def _line(label: str, value: int | float) -> str:
    return f"{label:<40}{_number(value):>10}"


def _number(value: int | float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.2f}"
