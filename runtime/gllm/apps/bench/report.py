"""The figures of a run, under the names that `vllm bench serve` gives them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from gllm.apps.bench.record import RequestRecord
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


LATENCIES = ("ttft", "tpot", "itl", "e2el")


class Spread(msgspec.Struct, frozen=True):
    """Mean, median and percentiles of one latency, in milliseconds."""

    mean: float
    median: float
    p99: float
    std: float = 0.0
    more: dict[str, float] = {}
    """Other percentiles, such as p90."""

    def percentile(self, name: str) -> float:
        return self.p99 if name == "p99" else self.more[name]


class Shown(msgspec.Struct, frozen=True):
    """What the tables show of the latencies."""

    latencies: tuple[str, ...] = LATENCIES
    percentiles: tuple[float, ...] = (99.0,)


DEFAULT_SHOWN = Shown()


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


def percentile_name(percent: float) -> str:
    """Return vLLM's name of a percentile: p99, p99.9."""
    return f"p{percent:g}"


def spread(values: Sequence[tuple[float, float]], percentiles: Sequence[float] = ()) -> Spread:
    """Return the spread of (seconds, weight) pairs; zeros if there are none."""
    weight = sum(weight for _, weight in values)
    mean = sum(value * weight for value, weight in values) / weight if weight else 0.0
    variance = sum((value - mean) ** 2 * weight for value, weight in values) / weight if weight else 0.0
    more = {percentile_name(percent): 1e3 * percentile(values, percent / 100) for percent in percentiles}
    more.pop("p99", None)
    return Spread(
        1e3 * mean, 1e3 * percentile(values, 0.5), 1e3 * percentile(values, 0.99), 1e3 * math.sqrt(variance), more
    )


def summarize(
    records: Sequence[RequestRecord],
    duration: float,
    goodput: dict[str, float] | None = None,
    window: Window = WHOLE_RUN,
    percentiles: Sequence[float] = (),
) -> Summary:
    """Compute every figure.

    Args:
        duration: seconds from the first request to the end of the last one, or of the window.
        goodput: bounds of ttft, tpot and e2el in milliseconds.
        window: the part of the run that counts; everything counts at the moment that completes it.
        percentiles: more of them than the 99th, such as 90.0.
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
        ttft=spread([(record.ttft, 1.0) for record in good if window.holds(record.first_token)], percentiles),
        tpot=spread([(tpot, 1.0) for record in whole if (tpot := record.tpot) is not None], percentiles),
        itl=spread([gap for record in good for gap in _gaps(record, window)], percentiles),
        e2el=spread([(record.latency, 1.0) for record in ended], percentiles),
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


def parse_shown(latencies: str, percentiles: str) -> Shown:
    """Parse "ttft,tpot" and "50,99.9". Raises ValueError, which names the flag."""
    names = tuple(name.strip() for name in latencies.split(",") if name.strip())
    unknown = set(names) - set(LATENCIES)
    if unknown:
        raise ValueError(f"--percentile-metrics has {min(unknown)!r}: take some of {','.join(LATENCIES)}")
    try:
        shares = tuple(float(part) for part in percentiles.split(","))
    except ValueError:
        shares = (-1.0,)
    if not all(0 <= share <= 100 for share in shares):
        raise ValueError(f"--metric-percentiles must look like 50,90,99.9 (0 to 100), not {percentiles!r}")
    return Shown(names, shares)


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
    for name in LATENCIES:
        latency = figures.pop(name)
        for statistic, value in {**latency, **latency.pop("more")}.items():
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


def columns(shown: Shown = DEFAULT_SHOWN) -> list[str]:
    """Return the columns of the table on a terminal."""
    return ["", "", "mean", "median", *map(percentile_name, shown.percentiles)]


def cells(summary: Summary, more: Sequence[Row] = (), shown: Shown = DEFAULT_SHOWN) -> list[list[str]]:
    """Return the rows of `columns`: single figures, `more` of them, then the latencies."""
    empty = [""] * (2 + len(shown.percentiles))
    rows = [[label, _number(value), *empty] for label, value in (*_figures(summary), *more)]
    for name, about, figures in _latencies(summary, shown):
        values = (figures.mean, figures.median, *_percentiles(figures, shown).values())
        rows.append([f"{about}, {name} (ms)", "", *map(_number, values)])
    return rows


def as_text(
    summary: Summary,
    title: str = "Serving Benchmark Result",
    more: Sequence[Row] = (),
    shown: Shown = DEFAULT_SHOWN,
) -> str:
    """Return the text of `vllm bench serve`, line for line, with `more` single figures before the latencies."""
    width = 50
    lines = [f" {title} ".center(width, "=")]
    lines += [_line(f"{label}:", value) for label, value in (*_figures(summary), *more)]
    for name, about, figures in _latencies(summary, shown):
        lines.append(about.center(width, "-"))
        lines.append(_line(f"Mean {name} (ms):", figures.mean))
        lines.append(_line(f"Median {name} (ms):", figures.median))
        for percent, value in _percentiles(figures, shown).items():
            lines.append(_line(f"{percent.upper()} {name} (ms):", value))
    lines.append("=" * width)
    return "\n".join(lines)


def _percentiles(figures: Spread, shown: Shown) -> dict[str, float]:
    return {name: figures.percentile(name) for name in map(percentile_name, shown.percentiles)}


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


_TITLES = {
    "ttft": "Time to First Token",
    "tpot": "Time per Output Token (excl. 1st token)",
    "itl": "Inter-token Latency",
    "e2el": "End-to-end Latency",
}


def _latencies(summary: Summary, shown: Shown) -> list[tuple[str, str, Spread]]:
    return [(name.upper(), _TITLES[name], getattr(summary, name)) for name in LATENCIES if name in shown.latencies]


def _line(label: str, value: int | float) -> str:
    return f"{label:<40}{_number(value):>10}"


def _number(value: int | float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.2f}"
