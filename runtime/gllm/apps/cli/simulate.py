"""`gllm simulate`: the scheduler on a simulated pipeline."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from gllm.apps.bench.compare import SIMULATION
from gllm.apps.bench.datasets.load import Dataset, load_requests
from gllm.apps.bench.prompt_writer import DEFAULT_TOKEN_RANGE
from gllm.apps.bench.report import parse_goodput
from gllm.apps.bench.requests import BenchRequest
from gllm.apps.cli.bench.data_flags import DataFlags
from gllm.apps.cli.bench.gpu_flags import GpuFlags
from gllm.apps.cli.bench.load_flags import LoadFlags, LoadPlan, warn_of_window
from gllm.apps.cli.engine_start import errors_in_one_line
from gllm.apps.cli.flag import takes_flags
from gllm.apps.cli.flag_groups import takes_groups
from gllm.apps.cli.options import ENGINE_FLAGS
from gllm.apps.cli.parsing import Command
from gllm.apps.simulate import ablation, figures, fit
from gllm.apps.simulate import goodput as goodputs
from gllm.apps.simulate.hardware import Hardware, read_hardware
from gllm.apps.simulate.presets import PRESETS
from gllm.apps.simulate.replay import Recorder, Replay, serve_replay
from gllm.apps.simulate.simulation import Outcome, Simulation
from gllm.config import POLICY_NAMES, EngineConfig, PolicyName
from gllm.engine.trace import TraceWriter
from gllm.progress import Progress
from gllm.terminal import print_table

if TYPE_CHECKING:
    from collections.abc import Sequence

_FLAGS = (
    "max_num_seqs",
    "max_prefill_tokens",
    "min_prefill_tokens",
    "prefill_iterations",
    "kv_threshold",
    "ttft_target",
    "tpot_target",
    "page_size",
)
_COMPARED = ("token_throttling", "balanced", "chunked_prefill")

_PRESET_HELP = "The pipeline: " + "; ".join(f"{name}: {preset.about}" for name, preset in PRESETS.items()) + "."


def _pipeline(
    preset: str, hardware: Path | None, fitted: Path | None, pp: int, kv_tokens: int, *, eager: bool
) -> Hardware:
    """Return the pipeline that the flags name. Raises ValueError."""
    if hardware is not None:
        return read_hardware(hardware)
    if fitted is not None:
        found, errors = fit.fit_trace(fitted, kv_tokens or 65536)
        print(
            f"fitted {found.pp} stages, mean relative error " + ", ".join(f"{100 * error:.1f} %" for error in errors),
            file=sys.stderr,
        )
        return found
    if preset not in PRESETS:
        raise ValueError(f"there is no preset {preset!r}: take one of {', '.join(PRESETS)}")
    made = PRESETS[preset].hardware(pp, eager=eager)
    return msgspec.structs.replace(made, kv_tokens=kv_tokens) if kv_tokens else made


def simulate(
    policy: Annotated[
        list[str] | None, typer.Option("--policy", help=f"One of {', '.join(POLICY_NAMES)}; repeatable, or all.")
    ] = None,
    pp: Annotated[int, typer.Option("--pp", min=1, help="Stages, with --preset.")] = 4,
    preset: Annotated[str, typer.Option("--preset", help=_PRESET_HELP)] = "qwen2.5-32b-h200",
    eager: Annotated[
        bool,
        typer.Option("--eager", help="With --preset: the host launches steps with prefill kernel by kernel."),
    ] = False,
    hardware: Annotated[
        Path | None, typer.Option("--hardware", help="The pipeline as JSON, as --save-hardware writes it.")
    ] = None,
    fit_trace: Annotated[
        Path | None, typer.Option("--fit", help="The pipeline fitted to a real run: a file that `--trace` wrote.")
    ] = None,
    kv_tokens: Annotated[
        int, typer.Option("--kv-tokens", min=0, help="Tokens that the KV pool holds.", show_default="the pipeline's")
    ] = 0,
    save_hardware: Annotated[Path | None, typer.Option("--save-hardware", help="Write the pipeline as JSON.")] = None,
    trace: Annotated[
        Path | None, typer.Option("--trace", help="Write what the stages do, for ui.perfetto.dev (the last policy's).")
    ] = None,
    goodput: Annotated[
        list[str] | None,
        typer.Option("--goodput", help="Count requests within bounds in ms: ttft:200 tpot:50 e2el:5000."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Also write the figures and the settings as JSON to this file."),
    ] = None,
    plots: Annotated[
        Path | None, typer.Option("--plots", help="Folder for plots; needs matplotlib (the extra `plots`).")
    ] = None,
    ablate: Annotated[
        bool,
        typer.Option("--ablation", help="All policies at PP2 to PP16 on sharegpt and azure, three loads: minutes."),
    ] = False,
    curves: Annotated[
        bool,
        typer.Option(
            "--goodput-curves",
            help="Goodput by request rate at PP1 and PP4: balanced with targets (--ttft-target, by default 1.5 s; "
            "--tpot-target, default 0.05 s), and each policy with its best --max-prefill-tokens: minutes.",
        ),
    ] = False,
    ui: Annotated[
        bool, typer.Option("--ui", help="Then play the runs in the web page, one for each policy, until Ctrl-C.")
    ] = False,
    ui_port: Annotated[int, typer.Option("--ui-port", min=0, max=65535, help="Port of the web page.")] = 8000,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Seeds of --ablation and --goodput-curves.")] = 2,
    *,
    data: DataFlags,
    load: LoadFlags,
    gpus: GpuFlags,
    flags: dict[str, Any],
) -> None:
    """Run the engine's own scheduler on a simulated pipeline, and print throughput and latencies."""
    with errors_in_one_line():
        if ablate:
            return _ablation(ablation.Grid(preset=preset, seeds=seeds), output, plots)
        if curves:
            ttft, tpot = flags["ttft_target"] or 1.5, flags["tpot_target"] or 0.05
            return _curves(goodputs.Curves(preset=preset, seeds=seeds, ttft=ttft, tpot=tpot), output, plots)
        bounds = parse_goodput(goodput or [])
        pipeline = _pipeline(preset, hardware, fit_trace, pp, kv_tokens, eager=eager)
        if save_hardware is not None:
            save_hardware.write_bytes(msgspec.json.format(msgspec.json.encode(pipeline), indent=1) + b"\n")
        dataset = data.dataset()
        plan = load.plan(dataset)
        steady = gpus.add_to(plan.steady)
        requests = _requests(dataset, plan)
        settings = {
            "backend": SIMULATION,
            "pp": pipeline.pp,
            "workload": dataset.label,
            "num_prompts": len(requests),
            **load.settings(),
            **flags,
        }
        results, rows = [], []
        outcomes: dict[str, Outcome] = {}
        recorders = []
        for name in _policies(policy):
            config = EngineConfig(model="", policy=name, enable_prefix_caching=False, **flags)
            writer = TraceWriter(trace, pipeline.pp) if trace is not None else None
            recorder = Recorder(name, pipeline.pp, pipeline.kv_tokens, config.page_size) if ui else None
            with Progress(f"requests of {name}", len(requests)) as progress:
                outcome = Simulation(
                    config,
                    pipeline,
                    requests,
                    seed=load.seed,
                    concurrency=load.max_concurrency,
                    trace=writer,
                    recorder=recorder,
                    on_done=progress.update,
                ).run()
            if writer is not None:
                writer.close()
            if recorder is not None:
                recorders.append(recorder)
            found = figures.figures_of(outcome, bounds, steady)
            if steady is not None and found.steady is not None:
                warn_of_window(found.steady, steady)
            outcomes[name] = outcome
            rows.append([name, *figures.cells(found)])
            results.append(figures.as_json(found, {"policy": name, **settings}))
        print_table(["policy", *figures.columns(steady, goodput=bool(bounds))], rows)
        if output is not None:
            output.write_text(json.dumps(results, indent=1) + "\n")
        if plots is not None:
            from gllm.apps.simulate.plots import plot_microbatches

            plots.mkdir(parents=True, exist_ok=True)
            plot_microbatches(outcomes, plots / "microbatches.png")
        if recorders:
            source = hardware or fit_trace or preset
            serve_replay(Replay(f"{dataset.label} on {source}, {pipeline.pp} stages, simulated", recorders), ui_port)
    return None


def _requests(dataset: Dataset, plan: LoadPlan) -> list[BenchRequest]:
    """Return the requests as token ids: of text only the length matters here. Raises ValueError."""
    if dataset.name == "multi-turn":
        raise ValueError("--dataset-name multi-turn is for servers: a simulated request waits for no other one")
    requests = load_requests(
        dataset,
        plan.count,
        seed=plan.seed,
        arrivals=plan.times if plan.arrivals is not None else None,
        token_range=DEFAULT_TOKEN_RANGE,
    )
    return [msgspec.structs.replace(request, token_ids=[0] * request.prompt_tokens) for request in requests]


def _policies(names: Sequence[str] | None) -> list[PolicyName]:
    asked = list(names or ["balanced"])
    chosen = [name for name in POLICY_NAMES if asked == ["all"] or name in asked]
    unknown = set(asked) - set(POLICY_NAMES) - {"all"}
    if unknown or not chosen:
        raise ValueError(
            f"there is no policy {', '.join(sorted(unknown)) or 'all with others'}: "
            f"take some of {', '.join(POLICY_NAMES)}, or all alone"
        )
    return chosen


def _ablation(grid: ablation.Grid, output: Path | None, plots: Path | None) -> None:
    """Run the grid; print its tables, write JSON and plots."""
    with Progress("cases") as progress:
        rows = ablation.run_grid(grid, on_done=progress.show)
    means = ablation.means(rows)
    for workload in grid.workloads:
        print(f"\n{workload}, {grid.preset}, {grid.seeds} seeds of {grid.seconds:g} s\n")
        print_table(ablation.COLUMNS, [ablation.cells(mean) for mean in means if mean.workload == workload])
    if output is not None:
        output.write_text(json.dumps(msgspec.to_builtins(means), indent=1) + "\n")
    if plots is not None:
        from gllm.apps.simulate.plots import plot_ablation, plot_microbatches

        plots.mkdir(parents=True, exist_ok=True)
        for workload in grid.workloads:
            plot_ablation(means, workload, plots / f"ablation-{workload}.png")
        case = ablation.Case(
            preset=grid.preset, pp=4, workload=grid.workloads[-1], load=0.8, seed=0, seconds=grid.seconds
        )
        plot_microbatches(
            {name: ablation.simulate_case(case, name) for name in _policies(_COMPARED)}, plots / "microbatches.png"
        )


def _curves(curves: goodputs.Curves, output: Path | None, plots: Path | None) -> None:
    """Run the grid of `--goodput-curves`; print its table, write JSON and the plot."""
    with Progress("runs") as progress:
        points = goodputs.run_curves(curves, on_done=progress.show)
    print(f"{curves.preset}, TTFT {curves.ttft:g} s, TPOT {curves.tpot:g} s, {curves.seeds} seeds. Requests per second")
    print("within both; in brackets the best of #MaxP " + ", ".join(map(str, curves.fixed)) + ".\n")
    print_table(goodputs.columns(curves), goodputs.rows(points))
    if output is not None:
        output.write_text(json.dumps(msgspec.to_builtins(points), indent=1) + "\n")
    if plots is not None:
        from gllm.apps.simulate.plots import plot_goodput

        plots.mkdir(parents=True, exist_ok=True)
        plot_goodput(points, plots / "goodput.png")


def register(parent: typer.Typer) -> None:
    """Add `simulate` to the `gllm` command."""
    flags = takes_flags(*(flag for flag in ENGINE_FLAGS if flag.name in _FLAGS))
    parent.command(cls=Command)(flags(takes_groups(simulate)))
