"""What a long prompt does to running streams: `python benchmarks/long_prompt.py`.

The program serves SmolLM2-135M-Instruct on this machine's CPU, as `make serve` does. While four streams run, one prompt
of 6000 tokens arrives. It reports the longest gap between two tokens of a stream while the prompt is computed, and the
prompt's time to first token. Each round starts a new server for each set of flags, so that the first prompt meets a
scheduler that has measured nothing but the streams; a second prompt follows on the same server. Ratios of TTFT are
pairwise, against the first set of flags. By default these are `--tpot-target 100`, which is no bound, and no flags.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import shlex
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from gllm.apps.bench.client import Endpoint, request_bytes, send_request
from gllm.apps.bench.record import RequestRecord
from gllm.apps.bench.requests import BenchRequest
from gllm.apps.bench.serving import find_model
from gllm.terminal import print_table
from servers import Server, ServerCommand, free_port


@dataclass
class Prompt:
    """One long prompt. Times are seconds."""

    ttft: float
    gap: float
    """The longest gap of a stream that overlaps the prompt's prefill."""
    usual: float
    """The median gap of the streams before it."""


def prompt(tokens: int, seed: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(1000, 32000) for _ in range(tokens)]


async def drive(url: str, options: argparse.Namespace, seed: int) -> list[Prompt]:
    """Run the streams and the long prompts on one server."""
    endpoint = Endpoint.from_url(url)
    endpoint = Endpoint.from_url(url, model=(await find_model(endpoint)).name)
    start = time.perf_counter()

    async def send(index: int, tokens: int, output: int) -> RequestRecord:
        request = BenchRequest(index, prompt(tokens, 1000 * seed + index), output, 0.0)
        payload = request_bytes(endpoint, request)
        record = await send_request(endpoint, request, payload, run_start=start, timeout=600.0)
        if not record.ok:
            raise SystemExit(f"request failed: {record.error}")
        return record

    streams = [asyncio.create_task(send(index, 64, options.stream_tokens)) for index in range(options.streams)]
    long = []
    for number in range(2):
        await asyncio.sleep(options.head_start)
        long.append(await send(100 + number, options.prompt_tokens, 2))
    records = await asyncio.gather(*streams)
    gaps = [
        (record.start + before, record.start + now)
        for record in records
        for (before, _), (now, _) in itertools.pairwise(record.pieces)
    ]
    if min(record.start + record.latency for record in records) < long[-1].start + long[-1].ttft:
        raise SystemExit("a stream ended before the long prompts: raise --stream-tokens")
    early = [end - begin for begin, end in gaps if end < long[0].start]
    if not early:
        raise SystemExit("no stream had two tokens before the first long prompt: raise --head-start")
    usual = statistics.median(early)
    return [
        Prompt(
            ttft=record.ttft,
            gap=max(
                end - begin for begin, end in gaps if end > record.start and begin < record.start + record.ttft + 1.0
            ),
            usual=usual,
        )
        for record in long
    ]


def measure(flags: str, options: argparse.Namespace, seed: int, folder: Path) -> list[Prompt]:
    port = free_port()
    command = [
        *(sys.executable, "-c", "from gllm.apps.cli.main import main; main()", "serve"),
        *("--host", "127.0.0.1", "--port", str(port), "--no-prefix-caching", *shlex.split(flags)),
    ]
    server = ServerCommand(flags or "default", command, port, health="/ready")
    with Server(server, folder / f"{seed}.log"):
        return asyncio.run(drive(server.url, options, seed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flags", nargs="+", default=["--tpot-target 100", ""], help="flags of the servers to compare")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--stream-tokens", type=int, default=600)
    parser.add_argument("--prompt-tokens", type=int, default=6000)
    parser.add_argument("--head-start", type=float, default=2.0, help="seconds of streams before each long prompt")
    options = parser.parse_args()
    found: dict[str, list[list[Prompt]]] = {flags: [] for flags in options.flags}
    with tempfile.TemporaryDirectory() as name:
        for seed in range(options.repeats):
            for flags in options.flags:
                found[flags].append(measure(flags, options, seed, Path(name)))
    rows = []
    for flags, runs in found.items():
        for order, label in enumerate(("first", "second")):
            ratios = [
                run[order].ttft / other[order].ttft for run, other in zip(runs, found[options.flags[0]], strict=True)
            ]
            rows.append(
                [
                    flags or "(none)",
                    label,
                    f"{1e3 * statistics.median(run[order].usual for run in runs):.0f}",
                    " ".join(f"{1e3 * run[order].gap:.0f}" for run in runs),
                    " ".join(f"{1e3 * run[order].ttft:.0f}" for run in runs),
                    f"{statistics.median(ratios):.2f}",
                ]
            )
    print_table(["flags", "prompt", "gap before, ms", "longest gap, ms", "TTFT, ms", "ratio"], rows)


if __name__ == "__main__":
    main()
