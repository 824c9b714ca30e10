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
from gllm.apps.bench.steady import SteadyFigures, SteadyLoad, measure_steady, steady_json, steady_rows
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

    def output_or(self, name: str) -> Path:
        """Return --output, or a name for messages."""
        return self.output or Path(name)

    def write_result(
        self,
        records: Sequence[RequestRecord],
        duration: float,
        settings: dict[str, Any],
        *,
        load: SteadyLoad | None = None,
    ) -> dict[str, Any]:
        """Return the result of one of several runs, and append it to --output. Failed requests are told on stderr.

        load: of a steady run; the result then has the figures of its window under `steady`.
        """
        result, _ = self._judge(records, duration, settings, load)
        self._write(result, append=True)
        return result

    def finish(
        self,
        records: Sequence[RequestRecord],
        duration: float,
        settings: dict[str, Any],
        *,
        title: str,
        load: SteadyLoad | None = None,
    ) -> None:
        """Write the result of the only run and print its table, for a steady run that of the window.

        Exits with status 1 if a request failed.
        """
        result, found = self._judge(records, duration, settings, load)
        self._write(result, append=self.append_result)
        shown = self.shown()
        printed = report.summarize(records, duration, self.bounds(), percentiles=shown.percentiles)
        more: list[report.Row] = []
        if found is not None:
            printed, more = found.summary, steady_rows(found)
        print_table(
            report.columns(shown),
            report.cells(printed, more, shown),
            title=title,
            plain=report.as_text(printed, title, more, shown),
        )
        if any(not record.ok for record in records):
            raise typer.Exit(1)

    def _judge(
        self, records: Sequence[RequestRecord], duration: float, settings: dict[str, Any], load: SteadyLoad | None
    ) -> tuple[dict[str, Any], SteadyFigures | None]:
        """Return (result, figures of the window of a steady run)."""
        bounds, percentiles = self.bounds(), self.shown().percentiles
        summary = report.summarize(records, duration, bounds, percentiles=percentiles)
        about = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "gllm_version": __version__,
            **({"label": self.label} if self.label else {}),
            **parse_pairs("--metadata", self.metadata),
            **({"goodput_bounds": bounds} if bounds else {}),
        }
        result = report.as_json(summary, {**about, **settings}, records if self.save_requests else ())
        _warn(records)
        if load is None:
            return result, None
        with errors_in_one_line():
            found = measure_steady(records, load, bounds, percentiles)
        warn_of_window(found, load)
        result["steady"] = steady_json(found)
        return result, found

    def _write(self, result: dict[str, Any], *, append: bool) -> None:
        if self.output is None:
            return
        if append:
            with self.output.open("a", encoding="utf-8") as file:
                file.write(json.dumps(result) + "\n")
        else:
            self.output.write_text(json.dumps(result, indent=1) + "\n")


def _warn(records: Sequence[RequestRecord]) -> None:
    """Tell failed requests, and those whose tokens the server did not count."""
    errors = [record for record in records if not record.ok]
    if errors:
        print(f"{len(errors)} requests failed; the first: {errors[0].error}", file=sys.stderr)
    uncounted = sum(not record.counted for record in records)
    if uncounted:
        print(
            f"gllm: warning: the server sent no usage for {uncounted} requests: each event counts as one token",
            file=sys.stderr,
        )
