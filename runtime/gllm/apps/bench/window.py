"""The window of a steady run: which part of a closed loop is measured, and what counts inside it. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec

from gllm.apps.bench.record import RequestRecord

RULE = """\
A closed loop keeps --max-concurrency requests in flight; the next one is sent when one ends. The window goes from the
moment when 20 % of the requests have ended to the moment when the last one is sent, so it has no ramp and no tail.
Everything counts at the moment that completes it: an output token when it arrives, the tokens of a prompt and TTFT at
the request's first token, a gap (ITL) at its end, E2EL and completed requests at their end. So a request across a
border counts on each side with what happens there, and no border makes a figure higher or lower. TPOT is that of the
requests with first token and end in the window, since it is a mean over both; goodput is the rate of completed
requests, times the share of those requests that meets the bounds."""

RAMP_SHARE = 0.2
"""Share of the requests that end before the window."""
LEAST_REQUESTS = 1.5
"""Requests of a run for each one in flight: with fewer the run is refused. The window sees a fifth of a turnover."""
ENOUGH_REQUESTS = 2.5
"""From this ratio on as many requests end in the window as are in flight: one whole turnover."""


ROUNDING = 1e-9
"""Seconds by which sums of times may be wrong: of two tokens at one moment both are inside or both are outside."""


class Window(msgspec.Struct, frozen=True):
    """A part of a run, in seconds after its start. It holds its end but not its start.

    A micro-batch completes many tokens at once, and one of them ends the request whose end is the border. With the
    start left out and the end taken in, the window holds whole micro-batches.
    """

    start: float
    end: float

    @property
    def duration(self) -> float:
        return self.end - self.start

    def holds(self, moment: float) -> bool:
        return self.start + ROUNDING < moment <= self.end + ROUNDING

    def overlap(self, start: float, end: float) -> float:
        """Return the seconds that an interval spends in the window."""
        return max(min(end, self.end) - max(start, self.start), 0.0)


WHOLE_RUN = Window(-math.inf, math.inf)


def default_requests(published: int, concurrency: int) -> int:
    """Return the number of requests of a steady run: a workload's own, and enough for the concurrency."""
    return max(published, math.ceil(ENOUGH_REQUESTS * concurrency))


def check_requests(count: int, concurrency: int) -> str:
    """Return a warning if the window will be short, else "". Raises ValueError if it would mean nothing."""
    enough = math.ceil(ENOUGH_REQUESTS * concurrency)
    if count < LEAST_REQUESTS * concurrency:
        raise ValueError(
            f"--num-prompts {count} is too few for --steady with --max-concurrency {concurrency}: "
            f"set --num-prompts to {enough} or more, or lower --max-concurrency"
        )
    if count < enough:
        inside = count - concurrency - math.ceil(RAMP_SHARE * count)
        return (
            f"only about {inside} requests end in the window, fewer than the {concurrency} in flight, so the figures "
            f"depend on which ones these are: set --num-prompts to {enough} or more"
        )
    return ""


def steady_window(records: Sequence[RequestRecord]) -> Window:
    """Return the window of a closed loop (see RULE). Failed requests have ended, too.

    Raises ValueError if the window is empty.
    """
    ends = sorted(record.end for record in records)
    window = Window(
        start=ends[math.ceil(RAMP_SHARE * len(ends)) - 1],
        end=max(record.start for record in records),
    )
    if not window.duration > 0:
        raise ValueError(
            "the steady window is empty: the last request was sent before 20 % of the requests had ended; "
            "set --num-prompts to more, or lower --max-concurrency"
        )
    return window


def tokens_in(records: Iterable[RequestRecord], window: Window) -> tuple[int, float]:
    """Return the prompt tokens and the output tokens that count in a window."""
    prompts, outputs = 0, 0.0
    for record in records:
        if window.holds(record.first_token):
            prompts += record.prompt_tokens
        outputs += sum(tokens for seconds, tokens in record.pieces if window.holds(record.start + seconds))
    return prompts, outputs


def mean_in_flight(records: Iterable[RequestRecord], window: Window) -> float:
    """Return the mean number of requests in flight during a window."""
    return sum(window.overlap(record.start, record.end) for record in records) / window.duration
