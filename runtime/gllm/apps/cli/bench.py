"""`gllm bench serve` and `gllm bench throughput`."""

from __future__ import annotations

import asyncio
import json
import math
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from gllm.apps.bench import report
from gllm.apps.bench.client import Endpoint, RequestRecord
from gllm.apps.bench.serving import find_model, run_requests
from gllm.apps.bench.steady import SteadyLoad, measure_steady, steady_json, steady_rows
from gllm.apps.bench.window import RULE
from gllm.apps.bench.workloads import WORKLOADS, make_requests, token_range_for
from gllm.apps.cli.bench_options import (
    ConcurrencyOption,
    GoodputOption,
    GpuOption,
    IgnoreEosOption,
    InputLenOption,
    ModelConfigOption,
    NumPromptsOption,
    OldWorkloadOption,
    OutputLenOption,
    OutputOption,
    RecordsOption,
    RequestRateOption,
    SeedOption,
    SteadyOption,
    VocabOption,
    WarmupsOption,
    WorkloadOption,
    parse_rate,
    read_steady,
    warn_of_window,
    with_gpus,
)
from gllm.apps.cli.configure import make_config
from gllm.apps.cli.engine_start import errors_in_one_line
from gllm.apps.cli.flag import takes_flags
from gllm.apps.cli.options import ENGINE_FLAGS, SOURCE_FLAGS, LogLevelOption, ModelArgument
from gllm.apps.cli.parsing import Command, EngineCommand
from gllm.apps.request_progress import RequestProgress
from gllm.terminal import print_table

app = typer.Typer(no_args_is_help=True, help="Measure an OpenAI server, or the engine alone.")

_DEFINITIONS = report.DEFINITIONS.replace("\n       ", " ").replace("\n", "\n\n")
"""One paragraph for each definition."""
_STEADY = "Steady: " + RULE.replace("\n", " ")

WARMUP_SEED = 1_000_003
"""Added to the seed for warm-up requests: they must not fill a prefix cache with the prompts of the run."""


def finish(
    records: list[RequestRecord],
    duration: float,
    settings: dict[str, Any],
    *,
    title: str,
    goodput: list[str] | None,
    output: Path | None,
    save_requests: bool,
    load: SteadyLoad | None = None,
) -> None:
    """Print the table, write the JSON, and exit with status 1 if a request failed.

    load: of a steady run; the table then has the figures of its window, and the JSON has these beside the whole run's.
    """
    bounds = report.parse_goodput(goodput or [])
    shown = summary = report.summarize(records, duration, bounds)
    result = report.as_json(summary, settings, records if save_requests else ())
    more: list[report.Row] = []
    errors = [record for record in records if not record.ok]
    if errors:
        print(f"{len(errors)} requests failed; the first: {errors[0].error}", file=sys.stderr)
    if load is not None:
        with errors_in_one_line():
            found = measure_steady(records, load, bounds)
        warn_of_window(found, load)
        shown, more = found.summary, steady_rows(found)
        result["steady"] = steady_json(found)
    print_table(report.COLUMNS, report.cells(shown, more), title=title, plain=report.as_text(shown, title, more))
    if output is not None:
        output.write_text(json.dumps(result, indent=1) + "\n")
    if errors:
        raise typer.Exit(1)


@app.command(cls=Command, epilog=f"{_DEFINITIONS}\n\n{_STEADY}")
def serve(
    url: Annotated[str, typer.Option("--url", help="The server.")] = "http://127.0.0.1:8000",
    model: Annotated[str, typer.Option("--model", help="A model's name.  [default: the server's first]")] = "",
    api_key: Annotated[str, typer.Option("--api-key", envvar="OPENAI_API_KEY", help="Bearer token.")] = "",
    workload: WorkloadOption = "sharegpt",
    trace: OldWorkloadOption = None,
    num_prompts: NumPromptsOption = None,
    input_len: InputLenOption = None,
    output_len: OutputLenOption = None,
    request_rate: RequestRateOption = "inf",
    steady: SteadyOption = False,
    max_concurrency: ConcurrencyOption = None,
    gpu: GpuOption = "",
    model_config: ModelConfigOption = "",
    num_warmups: WarmupsOption = 0,
    seed: SeedOption = 0,
    ignore_eos: IgnoreEosOption = True,
    vocab_size: VocabOption = None,
    max_model_len: Annotated[
        int | None, typer.Option("--max-model-len", min=8, help="Clip requests to it.  [default: as /v1/models says]")
    ] = None,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds a request may take.")] = 3600.0,
    goodput: GoodputOption = None,
    output: OutputOption = None,
    save_requests: RecordsOption = False,
) -> None:
    """Send a workload to any OpenAI server's /v1/completions (streaming, greedy) and print its figures."""
    rate = parse_rate(request_rate)
    with errors_in_one_line():
        report.parse_goodput(goodput or [])
        chosen = WORKLOADS[trace or workload]
        count, load = read_steady(steady, chosen.name, num_prompts, max_concurrency, request_rate)
        endpoint = Endpoint.from_url(url, api_key=api_key)
        served = asyncio.run(find_model(endpoint, model))
        endpoint = Endpoint.from_url(url, api_key=api_key, model=served.name)
        load = with_gpus(load, gpu, model_config or (served.name if gpu else ""))
        draw = partial(
            make_requests,
            chosen,
            token_range=token_range_for(vocab_size or served.vocab_size),
            max_model_len=max_model_len or served.max_model_len,
            input_len=input_len,
            output_len=output_len,
        )
        requests = draw(count, seed=seed, rate=rate)

        async def measure() -> tuple[list[RequestRecord], float]:
            if num_warmups:
                warm = draw(num_warmups, seed=seed + WARMUP_SEED)
                await run_requests(
                    endpoint, warm, ignore_eos=ignore_eos, max_concurrency=max_concurrency, timeout=timeout
                )
            with RequestProgress(count) as progress:
                return await run_requests(
                    endpoint,
                    requests,
                    ignore_eos=ignore_eos,
                    max_concurrency=max_concurrency,
                    timeout=timeout,
                    on_done=lambda record: progress.update(record.output_tokens, failed=not record.ok),
                )

        records, duration = asyncio.run(measure())
    settings = {
        "backend": "openai-completions",
        "url": url,
        "model": served.name,
        "trace": chosen.name,  # the key that result files have always had
        "num_prompts": count,
        "request_rate": "inf" if math.isinf(rate) else rate,
        "max_concurrency": max_concurrency,
        "num_warmups": num_warmups,
        "seed": seed,
        "input_len": input_len,
        "output_len": output_len,
        "ignore_eos": ignore_eos,
    }
    finish(
        records,
        duration,
        settings,
        title="Steady Serving Benchmark Result" if load else "Serving Benchmark Result",
        goodput=goodput,
        output=output,
        save_requests=save_requests,
        load=load,
    )


@app.command(cls=EngineCommand, epilog=_DEFINITIONS)
@takes_flags(*SOURCE_FLAGS, *(flag for flag in ENGINE_FLAGS if flag.name not in ("seed", "trace")))
def throughput(
    model: ModelArgument = "",
    *,
    workload: WorkloadOption = "sharegpt",
    trace: OldWorkloadOption = None,
    num_prompts: NumPromptsOption = None,
    input_len: InputLenOption = None,
    output_len: OutputLenOption = None,
    max_concurrency: ConcurrencyOption = None,
    num_warmups: WarmupsOption = 0,
    seed: SeedOption = 0,
    ignore_eos: IgnoreEosOption = True,
    goodput: GoodputOption = None,
    output: OutputOption = None,
    save_requests: RecordsOption = False,
    log_level: LogLevelOption = "warning",
    flags: dict[str, Any],
) -> None:
    """Run a workload through the engine without HTTP and text, all requests at once, and print its figures."""
    config = make_config(model, {**flags, "seed": seed}, log_level=log_level)
    chosen = WORKLOADS[trace or workload]
    count = num_prompts or chosen.num_prompts

    from gllm.apps.bench.throughput import run_offline
    from gllm.apps.cli.engine_start import offline_llm

    with errors_in_one_line(), offline_llm(config) as llm:
        report.parse_goodput(goodput or [])
        draw = partial(
            make_requests,
            chosen,
            token_range=token_range_for(llm.model_config.vocab_size),
            max_model_len=llm.max_model_len,
            input_len=input_len,
            output_len=output_len,
        )
        run = partial(run_offline, llm.engine.client, ignore_eos=ignore_eos, max_concurrency=max_concurrency)
        if num_warmups:
            llm.engine.call(run(draw(num_warmups, seed=seed + WARMUP_SEED), prefix="warmup"))
        with RequestProgress(count) as progress:
            records, duration = llm.engine.call(
                run(
                    draw(count, seed=seed),
                    on_done=lambda record: progress.update(record.output_tokens, failed=not record.ok),
                )
            )
    settings = {
        "backend": "gllm-offline",
        "model": config.engine.model,
        "engine": msgspec.to_builtins(config.engine),
        "trace": chosen.name,  # the key that result files have always had
        "num_prompts": count,
        "max_concurrency": max_concurrency,
        "num_warmups": num_warmups,
        "seed": seed,
        "input_len": input_len,
        "output_len": output_len,
        "ignore_eos": ignore_eos,
    }
    finish(
        records,
        duration,
        settings,
        title="Offline Throughput Result",
        goodput=goodput,
        output=output,
        save_requests=save_requests,
    )


def register(parent: typer.Typer) -> None:
    """Add `bench` to the `gllm` command."""
    parent.add_typer(app, name="bench")
