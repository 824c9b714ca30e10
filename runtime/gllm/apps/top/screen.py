"""Shows the figures: live on a terminal, or once as tables or JSON."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

import msgspec

from gllm.apps.top.figures import ServerFigures
from gllm.apps.top.tables import plain, tables
from gllm.apps.top.watch import WINDOW_SECONDS, Watch
from gllm.terminal import rich_table


async def show_once(watch: Watch, interval: float, *, as_json: bool) -> bool:
    """Print the figures of one interval. Returns whether all servers answered."""
    async with watch:
        await watch.figures()
        await asyncio.sleep(interval)
        figures = await watch.figures()
    print(msgspec.json.encode(figures).decode() if as_json else plain(figures))
    return not any(one.problem for one in figures)


async def show_live(watch: Watch, interval: float) -> None:
    """Draw the figures until Ctrl-C; where stdout is no terminal, print them at intervals."""
    async with watch:
        if not sys.stdout.isatty():
            while True:
                await watch.figures()
                await asyncio.sleep(interval)
                print(plain(await watch.figures()), end="\n\n", flush=True)
        from rich.console import Console, Group
        from rich.live import Live
        from rich.text import Text

        def drawn(figures: Sequence[ServerFigures]) -> Group:
            hint = f"rates and times of the last {WINDOW_SECONDS:g} s, stages of the last 30 s; Ctrl-C ends"
            return Group(*(rich_table(*table) for table in tables(figures)), Text(hint, "dim"))

        with Live(console=Console(markup=False, highlight=False), screen=True, auto_refresh=False) as live:
            while True:
                live.update(drawn(await watch.figures()), refresh=True)
                await asyncio.sleep(interval)
