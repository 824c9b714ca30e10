"""The simulator agrees with long prompts measured on GPUs; the script compares the other loads, too."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "benchmarks"))

import simulator_vs_measured
from gllm.apps.bench.workloads import WORKLOADS
from gllm.apps.simulate.presets import PRESETS
from simulator_vs_measured import Measured

ROWS = simulator_vs_measured.read_rows()


def test_rows_name_what_exists_and_have_figures() -> None:
    for row in ROWS:
        assert row.preset in PRESETS
        assert row.figures
        if row.load == "prompt":
            assert row.tokens
        else:
            assert row.workload in WORKLOADS
            assert row.requests


@pytest.mark.parametrize("row", [row for row in ROWS if row.load == "prompt"], ids=lambda row: row.name)
def test_the_first_token_of_a_long_prompt(row: Measured) -> None:
    assert simulator_vs_measured.simulate(row, row.seeds[0])["ttft_ms"] == pytest.approx(row.ttft_ms, rel=0.15)
