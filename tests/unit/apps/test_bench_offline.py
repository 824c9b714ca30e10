"""`gllm bench prefix` and `gllm bench throughput` over a fake engine, and the rounds of conversations."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
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


class Offline:
    """The commands of `gllm bench` with a fake engine in place of the real one."""

    def __init__(self, llm: LLM, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.configs: list[Config] = []
        self.output = folder / "out.json"
        self._model = folder / "Tiny"
        self._model.mkdir()
        (self._model / "config.json").write_text("{}")

        @contextlib.contextmanager
        def offline_llm(config: Config) -> Iterator[LLM]:
            self.configs.append(config)
            yield llm

        monkeypatch.setattr("gllm.apps.cli.engine_start.offline_llm", offline_llm)

    def __call__(self, command: str, *flags: str) -> dict:
        result = CliRunner().invoke(app, ["bench", command, str(self._model), *flags, "-o", str(self.output)])
        assert result.exit_code == 0, result.output
        self.said = result.output
        return json.loads(self.output.read_text())


@pytest.fixture
def offline(llm: LLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Offline:
    return Offline(llm, tmp_path, monkeypatch)


def test_prefix_runs_with_and_without_the_cache(offline: Offline) -> None:
    lengths = ("--prefix-len", "5", "--input-len", "5", "--output-len", "4")
    saved = offline("prefix", "--users", "3", "--rounds", "2", *lengths)
    assert [config.engine.enable_prefix_caching for config in offline.configs] == [True, False]
    for name in ("with_prefix_cache", "without_prefix_cache"):
        assert [(one["number"], one["requests"]) for one in saved[name]] == [(1, 3), (2, 3)]
    assert "without prefix cache" in offline.said


def test_throughput_reads_data_sets(offline: Offline, tmp_path: Path) -> None:
    talks = [
        {"conversations": [{"from": "human", "value": f"question {index}"}, {"from": "gpt", "value": "answer"}]}
        for index in range(3)
    ]
    path = tmp_path / "sharegpt.json"
    path.write_text(json.dumps(talks))
    saved = offline("throughput", "--dataset-name", "sharegpt", "--dataset-path", str(path))
    # The fake tokenizer has a token for each byte.
    assert (saved["completed"], saved["total_input_tokens"]) == (3, 3 * len("question 0"))
    lines = tmp_path / "own.jsonl"
    lines.write_text('{"messages": [{"role": "user", "content": "abc"}], "max_tokens": 5}\n{"prompt": [1, 2, 3]}\n')
    saved = offline("throughput", "--dataset-name", "jsonl", "--dataset-path", str(lines), "--num-prompts", "2")
    assert saved["total_input_tokens"] == len("user:abc\n") + 3
