"""The flags of `gllm bench` that several commands have, and how their values are read."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer

from gllm.apps.bench.roofline import GPUS, Gpus, parse_gpu
from gllm.apps.bench.steady import SteadyFigures, SteadyLoad, plan_steady
from gllm.apps.bench.window import default_requests
from gllm.apps.bench.workloads import WORKLOADS
from gllm.config import ModelSource

WorkloadName = Literal["sharegpt", "azure", "decode", "prefill", "cpu"]

_GPUS = ", ".join(GPUS)
_WORKLOAD_HELP = "; ".join(
    f"{workload.name}: {workload.about} (mean {workload.prompt.mean:g} in, {workload.output.mean:g} out)"
    for workload in WORKLOADS.values()
)

WorkloadOption = Annotated[WorkloadName, typer.Option("--workload", help=_WORKLOAD_HELP)]
OldWorkloadOption = Annotated[WorkloadName | None, typer.Option("--trace", hidden=True)]
"""The old name of --workload; elsewhere --trace writes a file for Perfetto."""
RequestRateOption = Annotated[
    str, typer.Option("--request-rate", help="Requests per second, Poisson arrivals; inf: all at once.")
]
NumPromptsOption = Annotated[
    int | None,
    typer.Option(
        "--num-prompts", min=1, help="Requests to send.  [default: the workload's own; with --steady enough for it]"
    ),
]
InputLenOption = Annotated[
    int | None, typer.Option("--input-len", min=1, help="Every prompt has this many tokens.  [default: the workload's]")
]
OutputLenOption = Annotated[
    int | None,
    typer.Option("--output-len", min=1, help="Every answer has this many tokens.  [default: the workload's]"),
]
IgnoreEosOption = Annotated[
    bool, typer.Option("--ignore-eos/--no-ignore-eos", help="Generate every token that the workload asks for.")
]
SeedOption = Annotated[int, typer.Option("--seed", help="The same seed sends the same requests.")]
OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", help="Also write the figures and the settings as JSON to this file.")
]
RecordsOption = Annotated[bool, typer.Option("--save-requests", help="Put a record of every request into --output.")]
GoodputOption = Annotated[
    list[str] | None,
    typer.Option("--goodput", help="Count requests within bounds in ms: ttft:200 tpot:50 e2el:5000."),
]
ConcurrencyOption = Annotated[
    int | None, typer.Option("--max-concurrency", min=1, help="Most requests in flight; the rest wait in the client.")
]
WarmupsOption = Annotated[
    int, typer.Option("--num-warmups", min=0, help="Requests that are sent first, all at once, and do not count.")
]
VocabOption = Annotated[
    int | None,
    typer.Option("--vocab-size", min=8, help="Prompts are random token ids in 1000..32000, below this bound."),
]
SteadyOption = Annotated[
    bool,
    typer.Option(
        "--steady",
        help="Keep --max-concurrency requests in flight, and measure from 20 % of the requests ended to the last one "
        "sent: no ramp, no tail.",
    ),
]
GpuOption = Annotated[
    str,
    typer.Option(
        "--gpu", help=f"With --steady: number and kind, such as 2xH200, for the share of the roofline ({_GPUS})."
    ),
]
ModelConfigOption = Annotated[
    str,
    typer.Option(
        "--model-config",
        help="With --gpu: a folder with config.json, a GGUF file or ORG/NAME.  [default: the name of the served model]",
    ),
]


def parse_rate(text: str) -> float:
    """Parse `inf` or a number of requests per second."""
    try:
        rate = float(text)
    except ValueError:
        rate = -1.0
    if not rate > 0:
        raise typer.BadParameter(f"must be a number above 0, or inf; not {text!r}", param_hint="--request-rate")
    return rate


def read_steady(
    steady: bool, workload: str, num_prompts: int | None, max_concurrency: int | None, request_rate: str
) -> tuple[int, SteadyLoad | None]:
    """Return the number of requests, and the closed loop of --steady (None without it). Raises ValueError."""
    published = WORKLOADS[workload].num_prompts
    if not steady:
        return num_prompts or published, None
    if not math.isinf(parse_rate(request_rate)):
        raise ValueError(
            f"--steady sends a request when another one ends: leave out --request-rate {request_rate}, or --steady"
        )
    count = num_prompts or default_requests(published, max_concurrency or 0)
    load = plan_steady(count, max_concurrency)
    _warn(load.warning)
    return count, load


def warn_of_window(figures: SteadyFigures, load: SteadyLoad) -> None:
    """Print the warning that only the run has shown."""
    if figures.warning != load.warning:
        _warn(figures.warning)


def _warn(warning: str) -> None:
    if warning:
        print(f"gllm: warning: {warning}", file=sys.stderr)


def with_gpus(load: SteadyLoad | None, gpu: str, model_config: str) -> SteadyLoad | None:
    """Return the closed loop with the GPUs of --gpu and the shape of the model. Raises ValueError."""
    if not gpu:
        if model_config:
            raise ValueError("--model-config is for the share of the roofline: add --gpu, such as --gpu 2xH200")
        return load
    if load is None:
        raise ValueError("--gpu is for the share of the roofline under steady load: add --steady, or leave it out")
    from gllm.hub.locate import locate
    from gllm.models.families import load_model_config

    kind, count = parse_gpu(gpu)
    fix = "set --model-config to a folder with config.json, a GGUF file or ORG/NAME"
    if not model_config:
        raise ValueError(f"--gpu needs the shape of the model: {fix}")
    try:
        path, _ = locate(
            model_config,
            ModelSource(),
            weights=False,
            report=lambda line: typer.echo(f"gllm: {line}", err=True),
        )
        model = load_model_config(path)
    except ValueError as error:
        raise ValueError(f"--gpu needs the shape of the model: {fix} ({error})") from None
    return msgspec.structs.replace(load, gpus=Gpus(kind, count, model))
