"""Hit rate and TTFT of conversations, by round. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import msgspec

from gllm.apps.bench.record import RequestRecord
from gllm.apps.bench.report import percentile
from gllm.apps.bench.requests import BenchRequest


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """All users' requests of one round. Latencies are in milliseconds."""

    number: int
    """From 1."""
    requests: int
    prompt_tokens: int
    cached_tokens: int
    mean_ttft_ms: float
    p99_ttft_ms: float

    @property
    def hit_rate(self) -> float:
        """Share of the prompt tokens that were in the prefix cache."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else 0.0


def by_round(requests: Sequence[BenchRequest], records: Sequence[RequestRecord]) -> list[Round]:
    """Return the rounds; the n-th request of each conversation belongs to round n. Failed requests do not count."""
    turns: dict[int | None, int] = {}
    rounds: dict[int, list[RequestRecord]] = {}
    done = {record.index: record for record in records if record.ok}
    for request in requests:
        number = turns[request.conversation] = turns.get(request.conversation, 0) + 1
        if request.index in done:
            rounds.setdefault(number, []).append(done[request.index])
    return [
        Round(
            number=number,
            requests=len(found),
            prompt_tokens=sum(record.prompt_tokens for record in found),
            cached_tokens=sum(record.cached_tokens or 0 for record in found),
            mean_ttft_ms=1e3 * fmean(record.ttft for record in found),
            p99_ttft_ms=1e3 * percentile([(record.ttft, 1.0) for record in found], 0.99),
        )
        for number, found in sorted(rounds.items())
    ]


def columns(*, compared: bool) -> list[str]:
    """Return the heads of the table. compared: whether there is a run without the prefix cache beside it."""
    heads = ["round", "prompt tokens", "hit rate", "TTFT mean/p99 ms"]
    return [*heads, "without prefix cache", "shorter by"] if compared else heads


def rows(rounds: Sequence[Round], without: Sequence[Round] = ()) -> list[list[str]]:
    """Return a row of `columns` for each round."""
    others = {found.number: found for found in without}
    table = []
    for found in rounds:
        row = [str(found.number), str(found.prompt_tokens), f"{100 * found.hit_rate:.1f} %", _ttft(found)]
        if without:
            other = others.get(found.number)
            ratio = other.mean_ttft_ms / found.mean_ttft_ms if other and found.mean_ttft_ms else None
            row += [_ttft(other) if other else "-", f"{ratio:.2f}x" if ratio is not None else "-"]
        table.append(row)
    return table


def _ttft(found: Round) -> str:
    return f"{found.mean_ttft_ms:.1f}/{found.p99_ttft_ms:.1f}"
