"""`make paper` on a tiny grid: with a small server for a model, and a simulated trace file for a real one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fixtures.completions_server import TinyServer, serving
from gllm.apps.bench.workloads import WORKLOADS, make_requests
from gllm.apps.simulate.presets import PRESETS
from gllm.apps.simulate.simulation import Simulation
from gllm.config import EngineConfig
from gllm.engine.trace import TraceWriter

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "benchmarks"))

import paper
from paper_page import write_page
from paper_places import Shape, parse_shape


def write_trace(path: Path) -> None:
    """Write the trace file of a simulated pipeline of two stages."""
    writer = TraceWriter(path, 2)
    config = EngineConfig(model="", enable_prefix_caching=False)
    requests = make_requests(WORKLOADS["cpu"], 30, seed=0, rate=20.0)
    Simulation(config, PRESETS["qwen2.5-32b-h200"].hardware(2), requests, trace=writer).run()
    writer.close()


def test_a_tiny_grid_makes_the_page_and_its_plots(tmp_path: Path) -> None:
    served: list[tuple[str, bool]] = []

    @contextmanager
    def serve(shape: Any, policy: str, trace: Path | None) -> Iterator[str]:
        served.append((policy, trace is not None))
        if trace is not None:
            write_trace(trace)
        server = TinyServer()
        server.gap = 0.001
        with serving(server) as url:
            yield url

    grid = paper.Grid(
        policies=("balanced", "chunked_prefill"),
        loads=(0.5, 1.0),
        traces=("cpu",),
        shapes=(Shape(2),),
        minutes=0.01,
        divisor=4,
        concurrency=2,
        max_model_len=512,
        max_num_seqs=16,
        kv_tokens=65536,
        least=4,
    )
    results: list[dict[str, Any]] = []
    said: list[str] = []
    paper.run_grid(grid, serve, tmp_path, results.append, said.append)
    assert served == [("balanced", True), ("balanced", False), ("chunked_prefill", False)]
    assert len(results) == 8
    rates = {(result["load"], result["request_rate"]) for result in results}
    assert len(rates) == 2  # every policy has the same rates
    assert all(result["completed"] == result["num_prompts"] for result in results)

    write_page(results, tmp_path, about="A test", minutes=1.0)
    page = (tmp_path / "README.md").read_text()
    assert page.count("| cpu/4, PP2 |") == 4
    assert "TTFT" in page
    for picture in ("rate.png", "latency.png", "attainment.png"):
        assert f"({picture})" in page
        assert (tmp_path / picture).stat().st_size > 5000


def test_shapes() -> None:
    assert parse_shape("pp4") == Shape(4)
    assert parse_shape("tp2pp2") == Shape(2, 2)
    with pytest.raises(ValueError, match="looks like pp4"):
        parse_shape("4")
