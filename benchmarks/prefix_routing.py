"""What prefix-aware routing gives in conversations: `python benchmarks/prefix_routing.py`.

The program serves SmolLM2-135M-Instruct as two groups of one CPU thread each, with `gllm gateway` in front of both.
Each client holds a conversation: every turn sends the whole conversation so far and some new tokens, and the next turn
follows the answer at once. The same load runs with `--routing round-robin` and `--routing prefix`, in turns. Each run
has a `cache_salt` of its own, so that it begins with nothing cached. It reports the share of prompt tokens that were
cached and the time to first token of the turns after the first.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

from gllm.terminal import print_table
from gllm.wire.curve import make_keys
from servers import Server, ServerCommand, free_port

ROUTINGS = ("round-robin", "prefix")


@dataclass
class Turn:
    number: int
    prompt: int
    cached: int
    ttft: float
    """Seconds."""


async def turn(client: httpx.AsyncClient, number: int, tokens: list[int], salt: str, output: int) -> Turn:
    body = {
        "prompt": tokens,
        "max_tokens": output,
        "ignore_eos": True,
        "temperature": 0,
        "cache_salt": salt,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    began, first, usage = time.perf_counter(), 0.0, {}
    async with client.stream("POST", "/v1/completions", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                event = json.loads(line.removeprefix("data: "))
                first = first or time.perf_counter() - began
                usage = event.get("usage") or usage
    return Turn(number, usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"], first)


async def drive(url: str, options: argparse.Namespace, salt: str) -> list[Turn]:
    """Hold all conversations at once."""

    async def converse(index: int) -> list[Turn]:
        rng = random.Random(f"{salt} {index}")
        tokens: list[int] = []
        turns = []
        for number in range(options.turns):
            # The answer counts as part of the new tokens: only their number matters.
            tokens += [rng.randrange(1000, 32000) for _ in range(rng.randint(1, 2 * options.tokens - 1))]
            turns.append(await turn(client, number, tokens, salt, options.output))
        return turns

    async with httpx.AsyncClient(base_url=url, timeout=600.0, limits=httpx.Limits(max_connections=None)) as client:
        found = await asyncio.gather(*(converse(index) for index in range(options.conversations)))
    return [one for turns in found for one in turns]


def command(name: str, *arguments: str) -> ServerCommand:
    port = free_port()
    start = (sys.executable, "-c", "from gllm.apps.cli.main import main; main()")
    return ServerCommand(name, [*start, *arguments, "--port", str(port)], port, health="/ready")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conversations", type=int, default=6)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=200, help="mean of the new tokens of a turn")
    parser.add_argument("--output", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    runs: dict[str, list[list[Turn]]] = {routing: [] for routing in ROUTINGS}
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as servers:
        folder = Path(name)
        (folder / "keys").write_text(make_keys().text())
        places = []
        for group in range(2):
            places.append(f"127.0.0.1:{free_port()}")
            link = ("--engine-port", places[-1].rpartition(":")[2], "--keys-file", str(folder / "keys"))
            servers.enter_context(Server(command("group", "serve", "--threads", "1", *link), folder / f"{group}.log"))
        gateways = {}
        for routing in ROUTINGS:
            flags = ("--engines", ",".join(places), "--keys-file", str(folder / "keys"), "--routing", routing)
            gateway = servers.enter_context(Server(command(routing, "gateway", *flags), folder / f"{routing}.log"))
            gateways[routing] = gateway.command.url
        for repeat in range(-1, options.repeats):
            for routing in ROUTINGS:
                turns = asyncio.run(drive(gateways[routing], options, f"{routing} {repeat}"))
                if repeat >= 0:  # The first run is the warm-up.
                    runs[routing].append(turns)
    rows = []
    for routing, found in runs.items():
        later = [[one for one in turns if one.number] for turns in found]
        hits = [sum(one.cached for one in turns) / sum(one.prompt for one in turns) for turns in later]
        halves = [statistics.median(one.ttft for one in turns) for turns in later]
        tails = [statistics.quantiles([one.ttft for one in turns], n=10)[-1] for turns in later]
        rows.append(
            [
                routing,
                f"{statistics.median(hits):.0%}",
                f"{1e3 * statistics.median(halves):.0f}",
                f"{1e3 * statistics.median(tails):.0f}",
            ]
        )
    print_table(["--routing", "cached prompt tokens", "TTFT p50, ms", "TTFT p90, ms"], rows)


if __name__ == "__main__":
    main()
