"""`gllm top`: the figures of running servers in the terminal."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Annotated

import typer

from gllm.apps.cli.engine_start import errors_in_one_line
from gllm.apps.cli.parsing import Command


def top(
    urls: Annotated[
        list[str] | None,
        typer.Argument(metavar="URL...", help="Servers: `gllm serve` and `gllm gateway`.", show_default=False),
    ] = None,
    *,
    api_key: Annotated[
        str, typer.Option("--api-key", envvar=["GLLM_API_KEY", "OPENAI_API_KEY"], help="The servers' key.")
    ] = "",
    interval: Annotated[float, typer.Option("--interval", min=0.1, help="Seconds between two looks.")] = 1.0,
    once: Annotated[
        bool, typer.Option("--once", help="Print the figures of one interval; status 1 if a server does not answer.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="With --once: print JSON.")] = False,
) -> None:
    """Show what servers do: requests, stages, KV pages, latencies, from their /metrics.  [default: 127.0.0.1:8000]"""
    from gllm.apps.top.screen import show_live, show_once
    from gllm.apps.top.watch import Watch

    if json and not once:
        raise typer.BadParameter("it goes with --once", param_hint="--json")
    with errors_in_one_line():
        watch = Watch(urls or ["http://127.0.0.1:8000"], api_key)
        if not once:
            with contextlib.suppress(KeyboardInterrupt):
                asyncio.run(show_live(watch, interval))
            return
        all_answered = asyncio.run(show_once(watch, interval, as_json=json))
    raise typer.Exit(0 if all_answered else 1)


def register(parent: typer.Typer) -> None:
    """Add the command to `gllm`."""
    parent.command("top", cls=Command)(top)
