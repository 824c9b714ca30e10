"""`gllm bench serve`."""

from __future__ import annotations

import asyncio
import math
from typing import Annotated

import typer

from gllm.apps.bench import report
from gllm.apps.bench.window import RULE
from gllm.apps.cli.bench.data_flags import DataFlags, WorkloadName
from gllm.apps.cli.bench.gpu_flags import GpuFlags
from gllm.apps.cli.bench.load_flags import LoadFlags
from gllm.apps.cli.bench.report_flags import ReportFlags
from gllm.apps.cli.bench.run import Target, find_target
from gllm.apps.cli.bench.style_flags import StyleFlags
from gllm.apps.cli.engine_start import errors_in_one_line
from gllm.apps.cli.flag_groups import takes_groups

DEFINITIONS = report.DEFINITIONS.replace("\n       ", " ").replace("\n", "\n\n")
"""One paragraph for each definition."""
EPILOG = f"{DEFINITIONS}\n\nSteady: " + RULE.replace("\n", " ")

OldWorkload = Annotated[WorkloadName | None, typer.Option("--trace", hidden=True)]
"""The old name of --workload; elsewhere --trace writes a file for Perfetto."""
Warmups = Annotated[
    int, typer.Option("--num-warmups", min=0, help="Requests that are sent first, all at once, and do not count.")
]
MaxDuration = Annotated[
    float | None,
    typer.Option("--max-duration", min=0.1, help="Seconds after which no request is sent.", rich_help_panel="Load"),
]


@takes_groups
def serve(
    server: StyleFlags,
    data: DataFlags,
    load: LoadFlags,
    figures: ReportFlags,
    gpus: GpuFlags,
    *,
    trace: OldWorkload = None,
    max_duration: MaxDuration = None,
    num_warmups: Warmups = 0,
) -> None:
    """Send requests to any OpenAI server (streaming) and print its figures, under the names of `vllm bench serve`."""
    with errors_in_one_line():
        figures.check()
        dataset = (data if trace is None else data.with_workload(trace)).dataset()
        plan = load.plan(dataset, max_duration or math.inf)
        target: Target = asyncio.run(find_target(server))
        steady = gpus.add_to(plan.steady, target.endpoint.model)
        requests = target.requests(dataset, plan)
        if num_warmups:
            target.warm_up(dataset, plan, num_warmups, load.max_concurrency)
        records, duration = target.run(requests, load.max_concurrency, max_duration or math.inf)
    figures.finish(
        records,
        duration,
        {
            **target.settings(dataset),
            **load.settings(),
            "num_prompts": len(requests),
            "num_warmups": num_warmups,
            **({"max_duration": max_duration} if max_duration else {}),
        },
        title="Steady Serving Benchmark Result" if steady else "Serving Benchmark Result",
        load=steady,
    )
