"""The load of `gllm bench throughput`, which is all requests at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer


@dataclass(frozen=True, kw_only=True)
class OfflineFlags:
    """Number of the requests, and how they are run."""

    num_prompts: Annotated[
        int | None,
        typer.Option(
            "--num-prompts", min=1, help="Requests to run.", show_default="the workload's own; a data set's, up to 1000"
        ),
    ] = None
    max_concurrency: Annotated[
        int | None, typer.Option("--max-concurrency", min=1, help="Most requests in the engine; the rest wait.")
    ] = None
    ignore_eos: Annotated[
        bool, typer.Option("--ignore-eos/--no-ignore-eos", help="Generate every token that the request asks for.")
    ] = True
    seed: Annotated[int, typer.Option("--seed", help="The same seed runs the same requests.")] = 0
