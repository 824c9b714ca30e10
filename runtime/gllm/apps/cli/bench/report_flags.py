"""The flags that say which figures are printed and where they are written, and the end of every run."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from gllm import __version__
from gllm.apps.bench import report
from gllm.apps.bench.record import RequestRecord
from gllm.apps.bench.steady import SteadyLoad, measure_steady, steady_json, steady_rows
from gllm.apps.cli.bench.load_flags import warn_of_window
from gllm.apps.cli.bench.style_flags import parse_pairs
from gllm.apps.cli.engine_start import errors_in_one_line
from gllm.terminal import print_table


def _option(*names: str, help: str, **settings: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel="Figures", **settings)


@dataclass(frozen=True, kw_only=True)
class ReportFlags:
    """Figures, files and metadata."""

    goodput: Annotated[
        list[str] | None, _option("--goodput", help="Count requests within bounds in ms: ttft:200 tpot:50 e2el:5000.")
    ] = None
    percentile_metrics: Annotated[
        str, _option("--percentile-metrics", help="Latencies to print, separated by commas.")
    ] = ",".join(report.LATENCIES)
    metric_percentiles: Annotated[
        str, _option("--metric-percentiles", help="Their percentiles, separated by commas, such as 50,90,99.9.")
    ] = "99"
    output: Annotated[
        Path | None,
        _option(
            *("--output", "-o", "--result-filename"),
            help="Also write the figures and the settings as JSON to this file.",
        ),
    ] = None
    append_result: Annotated[bool, _option("--append-result", help="Append to --output, one JSON object a line.")] = (
        False
    )
    save_requests: Annotated[
        bool, _option("--save-requests", "--save-detailed", help="Put a record of every request into --output.")
    ] = False
    label: Annotated[str, _option("--label", help="Name of the curve in `gllm bench compare`.")] = ""
    metadata: Annotated[list[str] | None, _option("--metadata", help="NAME=VALUE, put into --output; repeatable.")] = (
        None
    )

    def check(self) -> None:
        """Raise ValueError, which names the flag, for a wrong value: before the run."""
        self.bounds()
        self.shown()
        parse_pairs("--metadata", self.metadata)
        if self.append_result and self.output is None:
            raise ValueError("--append-result needs --output FILE")

    def bounds(self) -> dict[str, float]:
        return report.parse_goodput(self.goodput or [])

    def shown(self) -> report.Shown:
        """Return the latencies and percentiles of the table."""
        return report.parse_shown(self.percentile_metrics, self.metric_percentiles)

    def finish(
        self,
        records: Sequence[RequestRecord],
        duration: float,
        settings: dict[str, Any],
        *,
        title: str,
        load: SteadyLoad | None = None,
    ) -> dict[str, Any]:
        """Print the table, write the JSON, and return it. Exits with status 1 if a request failed.

        load: of a steady run; the table then has the figures of its window, and the JSON has these beside the whole
        run's.
        """
        bounds, shown = self.bounds(), self.shown()
        printed = summary = report.summarize(records, duration, bounds, percentiles=shown.percentiles)
        about = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "gllm_version": __version__,
            **({"label": self.label} if self.label else {}),
            **parse_pairs("--metadata", self.metadata),
            **({"goodput_bounds": bounds} if bounds else {}),
        }
        result = report.as_json(summary, {**about, **settings}, records if self.save_requests else ())
        more: list[report.Row] = []
        errors = [record for record in records if not record.ok]
        if errors:
            print(f"{len(errors)} requests failed; the first: {errors[0].error}", file=sys.stderr)
        uncounted = sum(not record.counted for record in records)
        if uncounted:
            print(
                f"gllm: warning: the server sent no usage for {uncounted} requests: each event counts as one token",
                file=sys.stderr,
            )
        if load is not None:
            with errors_in_one_line():
                found = measure_steady(records, load, bounds, shown.percentiles)
            warn_of_window(found, load)
            printed, more = found.summary, steady_rows(found)
            result["steady"] = steady_json(found)
        self._write(result)
        print_table(
            report.columns(shown),
            report.cells(printed, more, shown),
            title=title,
            plain=report.as_text(printed, title, more, shown),
        )
        if errors:
            raise typer.Exit(1)
        return result

    def _write(self, result: dict[str, Any]) -> None:
        if self.output is None:
            return
        if self.append_result:
            with self.output.open("a", encoding="utf-8") as file:
                file.write(json.dumps(result) + "\n")
        else:
            self.output.write_text(json.dumps(result, indent=1) + "\n")
