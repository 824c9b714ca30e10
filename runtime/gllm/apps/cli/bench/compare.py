"""`gllm bench compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gllm.apps.bench.compare import COLUMNS, read_points, rows
from gllm.apps.cli.engine_start import errors_in_one_line
from gllm.terminal import print_table


def compare(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Results: --output of bench serve, sweep and simulate.")
    ],
    plots: Annotated[
        Path | None,
        typer.Option("--plots", help="Folder for latency.png, rate.png and attainment.png; needs matplotlib."),
    ] = None,
) -> None:
    """Compare result files as a table and as plots: latency against throughput, SLO attainment against the rate.

    A curve is a --label, a policy or a file.
    """
    with errors_in_one_line():
        points = read_points(files)
        print_table(COLUMNS, rows(points))
        if plots is not None:
            from gllm.apps.bench.plots import plot_attainment, plot_by_rate, plot_latencies

            plots.mkdir(parents=True, exist_ok=True)
            plot_latencies(points, plots / "latency.png")
            plot_by_rate(points, plots / "rate.png")
            plot_attainment(points, plots / "attainment.png")
