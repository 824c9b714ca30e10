"""`gllm bench prefix`: rounds of conversations, and the command over a fake engine."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_engine import Fakes
from typer.testing import CliRunner

from gllm import LLM
from gllm.apps.bench.datasets.load import Dataset, load_requests
from gllm.apps.bench.record import RequestRecord
from gllm.apps.bench.requests import BenchRequest
from gllm.apps.bench.rounds import by_round, columns, rows
from gllm.apps.cli.main import app
from gllm.config import Config


def test_rounds() -> None:
    requests = [BenchRequest(index, [1], 1, 0.0, conversation=index // 2) for index in range(6)]
    records = [
        RequestRecord(
            index=index,
            prompt_tokens=100 + 50 * (index % 2),
            output_tokens=1,
            cached_tokens=None if index == 0 else 75 * (index % 2),
            pieces=[(0.1 * (index + 1), 1.0)],
            error="no" if index == 4 else "",
        )
        for index in range(6)
    ]
    first, second = by_round(requests, records)
    assert (first.number, first.requests, first.prompt_tokens, first.hit_rate) == (1, 2, 200, 0.0)
    assert (second.requests, second.prompt_tokens, second.hit_rate) == (3, 450, 0.5)
    assert second.mean_ttft_ms == pytest.approx(400.0)
    table = rows([first, second], [first])
    assert len(table[0]) == len(columns(compared=True))
    assert table[0][-1] == "1.00x"
    assert table[1][-2:] == ["-", "-"]
    assert len(rows([first])[0]) == len(columns(compared=False))


def test_users_share_system_prompts_in_turn() -> None:
    requests = load_requests(
        Dataset(name="multi-turn", turns=1, system_len=9, system_prompts=2),
        5,
        seed=0,
        arrivals=lambda count: [0.0] * count,
        token_range=(0, 1),
        text=True,
    )
    systems = [request.messages[0]["content"] for request in requests]
    assert systems == [systems[0], systems[1]] * 2 + [systems[0]]
    assert systems[0] != systems[1]


def test_the_command_runs_with_and_without_the_cache(
    llm: LLM, fakes: Fakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caching: list[bool] = []

    @contextlib.contextmanager
    def offline_llm(config: Config) -> Iterator[LLM]:
        caching.append(config.engine.enable_prefix_caching)
        yield llm

    monkeypatch.setattr("gllm.apps.cli.engine_start.offline_llm", offline_llm)
    model, out = tmp_path / "Tiny", tmp_path / "out.json"
    model.mkdir()
    (model / "config.json").write_text("{}")
    flags = ("--users", "3", "--rounds", "2", "--prefix-len", "5", "--input-len", "5", "--output-len", "4")
    result = CliRunner().invoke(app, ["bench", "prefix", str(model), *flags, "-o", str(out)])
    assert result.exit_code == 0, result.output
    assert caching == [True, False]
    saved = json.loads(out.read_text())
    for name in ("with_prefix_cache", "without_prefix_cache"):
        assert [(one["number"], one["requests"]) for one in saved[name]] == [(1, 3), (2, 3)]
    assert "without prefix cache" in result.output
