"""`gllm bench serve` and `gllm bench throughput`."""

from __future__ import annotations

import asyncio
import json
import math
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from gllm.bench import report
from gllm.bench.client import Endpoint, RequestRecord
from gllm.bench.serve import find_model, run_requests
from gllm.bench.traces import TRACES, make_requests, token_range_for

app = typer.Typer(no_args_is_help=True, help="Measure an OpenAI server, or the engine alone.")


class TraceName(StrEnum):
    """The keys of TRACES, as typer wants choices."""

    sharegpt = "sharegpt"
    azure = "azure"
    decode = "decode"
    prefill = "prefill"
    cpu = "cpu"


_TRACE_HELP = "; ".join(
    f"{trace.name}: {trace.about} (mean {trace.prompt.mean:g} in, {trace.output.mean:g} out)"
    for trace in TRACES.values()
)

TraceOption = Annotated[TraceName, typer.Option("--trace", help=_TRACE_HELP)]
NumPromptsOption = Annotated[
    int | None, typer.Option("--num-prompts", min=1, help="Requests to send.  [default: the trace's own]")
]
SeedOption = Annotated[int, typer.Option("--seed", help="The same seed sends the same requests.")]
OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", help="Also write the figures and the settings as JSON to this file.")
]
RecordsOption = Annotated[bool, typer.Option("--save-requests", help="Put a record of every request into --output.")]
GoodputOption = Annotated[
    list[str] | None,
    typer.Option("--goodput", help="Count requests within bounds in ms: ttft:200, tpot:50, e2el:5000; repeatable."),
]
ConcurrencyOption = Annotated[
    int | None, typer.Option("--max-concurrency", min=1, help="Most requests in flight; the rest wait in the client.")
]
WarmupsOption = Annotated[
    int, typer.Option("--num-warmups", min=0, help="Requests sent beforehand, all at once, that do not count.")
]
VocabOption = Annotated[
    int | None,
    typer.Option("--vocab-size", min=8, help="Prompts are random ids in 1000..32000 and below this."),
]


class Progress:
    """One line on stderr that counts finished requests; silent when stderr is no terminal."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = self._failed = self._tokens = 0
        self._shown = sys.stderr.isatty()

    def update(self, record: RequestRecord) -> None:
        self._done += 1
        self._failed += not record.ok
        self._tokens += record.output_tokens
        if self._shown:
            failed = f", {self._failed} failed" if self._failed else ""
            end = "\n" if self._done == self._total else ""
            print(
                f"\r{self._done}/{self._total} requests, {self._tokens} tokens{failed}",
                end=end,
                file=sys.stderr,
                flush=True,
            )


def parse_rate(text: str) -> float:
    """`inf` or requests per second."""
    try:
        rate = float(text)
    except ValueError:
        rate = -1.0
    if not rate > 0:
        raise typer.BadParameter(f"must be a number above 0, or inf; not {text!r}", param_hint="--request-rate")
    return rate


def finish(
    records: list[RequestRecord],
    duration: float,
    settings: dict[str, Any],
    *,
    title: str,
    goodput: list[str] | None,
    output: Path | None,
    save_requests: bool,
) -> None:
    """Print the table, write the JSON, and leave with status 1 if a request failed."""
    summary = report.summarize(records, duration, report.parse_goodput(goodput or []))
    print(report.as_table(summary, title))
    if output is not None:
        result = report.as_json(summary, settings, records if save_requests else ())
        output.write_text(json.dumps(result, indent=1) + "\n")
    errors = [record for record in records if not record.ok]
    if errors:
        print(f"{len(errors)} requests failed; the first: {errors[0].error}", file=sys.stderr)
        raise typer.Exit(1)


@app.command(epilog=report.DEFINITIONS.replace("\n", "\n\n"))
def serve(
    url: Annotated[str, typer.Option("--url", help="The server.")] = "http://127.0.0.1:8000",
    model: Annotated[str, typer.Option("--model", help="A model's name.  [default: the server's first]")] = "",
    api_key: Annotated[str, typer.Option("--api-key", envvar="OPENAI_API_KEY", help="Bearer token.")] = "",
    trace: TraceOption = TraceName.sharegpt,
    num_prompts: NumPromptsOption = None,
    request_rate: Annotated[
        str, typer.Option("--request-rate", help="Requests per second, Poisson arrivals; inf: all at once.")
    ] = "inf",
    max_concurrency: ConcurrencyOption = None,
    num_warmups: WarmupsOption = 0,
    seed: SeedOption = 0,
    ignore_eos: Annotated[
        bool, typer.Option("--ignore-eos/--no-ignore-eos", help="Generate every token that the trace asks for.")
    ] = True,
    vocab_size: VocabOption = None,
    max_model_len: Annotated[
        int | None, typer.Option("--max-model-len", min=8, help="Clip requests to it.  [default: as /v1/models says]")
    ] = None,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds a request may take.")] = 3600.0,
    goodput: GoodputOption = None,
    output: OutputOption = None,
    save_requests: RecordsOption = False,
) -> None:
    """Send a trace to any OpenAI server's /v1/completions (streaming, greedy) and print its figures."""
    rate = parse_rate(request_rate)
    try:
        report.parse_goodput(goodput or [])
        endpoint = Endpoint.from_url(url, api_key=api_key)
        served = asyncio.run(find_model(endpoint, model))
        endpoint = Endpoint.from_url(url, api_key=api_key, model=served.name)
        shape = TRACES[trace.value]
        count = num_prompts or shape.num_prompts
        token_range = token_range_for(vocab_size or served.vocab_size)
        limit = max_model_len or served.max_model_len
        requests = make_requests(shape, count, seed=seed, rate=rate, token_range=token_range, max_model_len=limit)

        async def measure() -> tuple[list[RequestRecord], float]:
            if num_warmups:
                # Another seed: warm-up must not fill a prefix cache with the prompts to come.
                warm = make_requests(
                    shape, num_warmups, seed=seed + 1_000_003, token_range=token_range, max_model_len=limit
                )
                await run_requests(
                    endpoint, warm, ignore_eos=ignore_eos, max_concurrency=max_concurrency, timeout=timeout
                )
            return await run_requests(
                endpoint,
                requests,
                ignore_eos=ignore_eos,
                max_concurrency=max_concurrency,
                timeout=timeout,
                on_done=Progress(count).update,
            )

        records, duration = asyncio.run(measure())
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from error
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        raise typer.Exit(130) from None
    settings = {
        "backend": "openai-completions",
        "url": url,
        "model": served.name,
        "trace": shape.name,
        "num_prompts": count,
        "request_rate": "inf" if math.isinf(rate) else rate,
        "max_concurrency": max_concurrency,
        "num_warmups": num_warmups,
        "seed": seed,
        "ignore_eos": ignore_eos,
    }
    finish(
        records,
        duration,
        settings,
        title="Serving Benchmark Result",
        goodput=goodput,
        output=output,
        save_requests=save_requests,
    )


def register(parent: typer.Typer) -> None:
    """Add `bench` to the `gllm` command."""
    parent.add_typer(app, name="bench")
