"""Sweeps, the search for saturation, and the comparison of result files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fixtures.completions_server import TinyServer, serving
from gllm.apps.bench.compare import markdown, ordered, read_points, rows
from gllm.apps.bench.record import RequestRecord
from gllm.apps.bench.saturation import PRECISION, highest_rate, keeps_up, worthwhile_concurrency
from gllm.apps.cli.main import app


@pytest.mark.parametrize("limit", [0.3, 1.0, 7.0, 900.0])
def test_the_search_finds_the_limit(limit: float) -> None:
    tried: list[float] = []

    def holds(rate: float) -> bool:
        tried.append(rate)
        return rate <= limit

    found = highest_rate(holds, 1.0)
    assert limit / PRECISION <= found <= limit
    assert len(tried) <= 16
    assert highest_rate(lambda rate: False, 1.0) == 0.0


def test_concurrency_beyond_which_nothing_is_gained() -> None:
    assert worthwhile_concurrency(lambda concurrency: min(concurrency, 12), 1) == 16
    assert worthwhile_concurrency(lambda concurrency: 5.0, 4) == 4


def test_a_growing_queue_is_saturation() -> None:
    def run(latency: float, growth: float) -> list[RequestRecord]:
        return [
            RequestRecord(index=index, prompt_tokens=1, start=0.1 * index, latency=latency + growth * index)
            for index in range(100)
        ]

    assert keeps_up(run(0.3, 0.0))
    assert not keeps_up(run(0.3, 0.1))  # each request waits longer than the one before
    assert not keeps_up([RequestRecord(index=i, prompt_tokens=1, start=0.1 * i, error="no") for i in range(20)])


def result(label: str, rate: float | str, **more: Any) -> dict[str, Any]:
    latencies = {f"{s}_{name}_ms": 10.0 * rate if rate != "inf" else 1.0 for s in ("mean", "p99") for name in NAMES}  # type: ignore[operator]
    return {
        **{"label": label, "request_rate": rate, "max_concurrency": None, "completed": 9, "failed": 1},
        **{"output_throughput": 100.0, "total_token_throughput": 150.0, "request_throughput": 2.0},
        **{"request_goodput": 1.0, "trace": "cpu", **latencies, **more},
    }


NAMES = ("ttft", "tpot", "e2el")


def test_points_of_every_kind_of_file(tmp_path: Path) -> None:
    one, lines, many = tmp_path / "one.json", tmp_path / "lines.jsonl", tmp_path / "many.json"
    unlabelled = result("", "inf", max_concurrency=8, steady={**result("", "inf"), "output_throughput": 7.0})
    one.write_text(json.dumps(unlabelled, indent=1))
    lines.write_text("".join(json.dumps(result("a", rate)) + "\n" for rate in (4.0, 2.0)))
    simulated = {**result("", 2.0), "policy": "balanced", "backend": "simulation"}
    many.write_text(json.dumps([simulated]))
    points = ordered(read_points([lines, one, many]))
    assert [(point.label, point.load, point.simulated) for point in points] == [
        ("a", "2/s", False),
        ("a", "4/s", False),
        ("one", "8 in flight", False),
        ("balanced", "2/s", True),
    ]
    assert points[0].attainment == pytest.approx(0.45)  # half of the completed ones; a tenth failed
    assert points[2].output_throughput == 7.0
    assert rows(points)[3][0] == "balanced (simulated)"
    assert markdown(points).count("\n") == 6


def test_files_that_are_no_results(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for content, error in (("{", "neither JSON nor"), ("[1]", "something else"), ('{"a": 1}', "is no result")):
        path.write_text(content)
        with pytest.raises(ValueError, match=error):
            read_points([path])


@pytest.fixture(scope="module")
def server_url() -> Iterator[str]:
    server = TinyServer()
    with serving(server) as url:
        yield url


def test_a_sweep_and_its_comparison(server_url: str, tmp_path: Path) -> None:
    out, plots = tmp_path / "out.jsonl", tmp_path / "plots"
    common = ("--url", server_url, "--workload", "cpu", "--output-len", "4", "-o", str(out), "--label", "tiny")
    run = CliRunner()
    swept = run.invoke(
        app,
        ["bench", "sweep", *common, "--request-rates", "100,200", "--num-prompts", "20", "--goodput", "ttft:5000"],
    )
    assert swept.exit_code == 0, swept.output
    ladder = run.invoke(app, ["bench", "sweep", *common, "--concurrencies", "2,4", "--num-prompts", "12"])
    assert ladder.exit_code == 0, ladder.output
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(line["request_rate"], line["max_concurrency"]) for line in found] == [
        (100.0, None),
        (200.0, None),
        ("inf", 2),
        ("inf", 4),
    ]
    assert len({line["seed"] for line in found[:2]}) == 2  # other prompts at each level
    compared = run.invoke(app, ["bench", "compare", str(out), "--plots", str(plots)])
    assert compared.exit_code == 0, compared.output
    assert "4 in flight" in compared.output
    assert {path.name for path in plots.iterdir()} == {"latency.png", "rate.png", "attainment.png"}


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((), "needs one of --request-rates"),
        (("--search", "rate", "--concurrencies", "2"), "needs one of --request-rates"),
        (("--request-rates", "2,x"), "--request-rates must look like 1,2,4"),
    ],
)
def test_wrong_sweeps(server_url: str, arguments: tuple[str, ...], error: str) -> None:
    result = CliRunner().invoke(app, ["bench", "sweep", "--url", server_url, *arguments])
    assert result.exit_code == 1
    assert error in " ".join(result.stderr.split())


def test_lines_are_appended_with_metadata(server_url: str, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    flags = ("--dataset-name", "random", "--num-prompts", "3", "--output-len", "2", "--text", "--append-result")
    more = (
        "--metadata",
        "gpu=none",
        "run=1",
        "--header",
        "X-A=b",
        "--extra-body",
        '{"top_k": 1, "stream_options": null}',
    )
    for _ in range(2):
        done = CliRunner().invoke(
            app, ["bench", "serve", "--url", server_url, *flags, *more, "-o", str(out), "--metric-percentiles", "50,90"]
        )
        assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(lines) == 2
    assert (lines[0]["gpu"], lines[0]["run"], lines[0]["dataset_name"]) == ("none", "1", "random")
    assert lines[0]["p90_ttft_ms"] >= lines[0]["p50_ttft_ms"] > 0
    assert "P90 TTFT (ms):" in done.output
    assert "P99" not in done.output
