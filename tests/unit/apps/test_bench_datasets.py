"""Data sets of the benchmark: their files, lengths and shared prefixes; the same seed gives the same bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gllm.apps.bench.arrivals import Arrivals
from gllm.apps.bench.datasets.load import DATASETS, Dataset, check, dataset_name, load_requests
from gllm.apps.bench.payload import Style, body_of
from gllm.apps.bench.prompt_writer import estimate_tokens, word_writer
from gllm.apps.bench.requests import BenchRequest
from gllm.apps.bench.workloads import WORKLOADS, make_requests

SHAREGPT = [
    {
        "id": f"c{index}",
        "conversations": [
            {"from": "system", "value": "Be kind."},
            {"from": "human", "value": f"Question {index} " + "why " * 20},
            {"from": "gpt", "value": "because " * (5 + index)},
        ],
    }
    for index in range(6)
] + [
    {"id": "alone", "conversations": [{"from": "human", "value": "nobody answers this one"}]},
    {"id": "long", "conversations": [{"from": "human", "value": "w " * 9000}, {"from": "gpt", "value": "x " * 30}]},
]
AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,374,44
2023-11-16 18:17:04.0319600,396,109
2023-11-16 18:17:05.9799600,5000,55
"""


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    paths = {name: tmp_path / name for name in ("sharegpt", "azure", "jsonl")}
    paths["sharegpt"].write_text(json.dumps(SHAREGPT))
    paths["azure"].write_text(AZURE)
    lines: list[dict[str, Any]] = [
        {"prompt": "Once upon a time", "max_tokens": 9},
        {"messages": [{"role": "user", "content": "Hi"}]},
        {"custom_id": "1", "url": "/v1/completions", "body": {"prompt": [5, 6, 7], "max_tokens": 3}},
    ]
    paths["jsonl"].write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    return paths


def load(dataset: Dataset, count: int | None = None, *, seed: int = 0, **more: Any) -> list[BenchRequest]:
    arrivals: Callable[[int], list[float]] = lambda count: Arrivals(rate=4.0).times(count, seed)  # noqa: E731
    settings = {"arrivals": arrivals, "token_range": (10, 5000), **more}
    return load_requests(dataset, count, seed=seed, **settings)


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("name", DATASETS)
def test_the_same_seed_gives_the_same_bytes(name: str, text: bool, files: dict[str, Path]) -> None:
    dataset = Dataset(name=name, path=files.get(name))
    style = Style(api="chat" if text and name != "jsonl" else "completions")

    def sent(seed: int) -> list[bytes]:
        return [body_of(request, "m", style) for request in load(dataset, 3, seed=seed, text=text)]

    assert sent(5) == sent(5)
    if name != "jsonl":
        assert sent(5) != sent(6)


def test_the_synthetic_workloads_have_not_changed() -> None:
    """Published figures were measured with these draws: another hash means that they can no longer be compared."""
    digest = hashlib.sha256()
    for workload in WORKLOADS.values():
        for settings in ({}, {"rate": 5.0}, {"max_model_len": 600}, {"input_len": 50, "output_len": 7}):
            for request in make_requests(workload, 40, seed=3, **settings):  # type: ignore[arg-type]
                digest.update(repr((request.index, request.token_ids, request.output_len, request.arrival)).encode())
    assert digest.hexdigest() == "a632899ed546629d013f353754d16d5028c710f2af8baaba79e553dae4e71742"


def test_sharegpt_takes_first_questions_and_the_lengths_of_their_answers(files: dict[str, Path]) -> None:
    dataset = Dataset(name="sharegpt", path=files["sharegpt"])
    requests = load(dataset)
    assert len(requests) == 6  # one question has no answer, another is too long
    assert len(load(dataset, 8)) == 8  # they repeat
    assert {request.text.split(" why")[0] for request in requests} == {f"Question {index}" for index in range(6)}
    by_text = {request.text: request.output_len for request in requests}
    words = load(dataset, count_tokens=lambda text: len(text.split()))
    assert {r.output_len for r in words} == set(range(5, 11))
    assert all(request.text_tokens == 22 for request in words)
    assert by_text != {request.text: request.output_len for request in words}
    assert {r.output_len for r in load(Dataset(name="sharegpt", path=files["sharegpt"], output_len=2))} == {2}


def test_azure_has_lengths_and_arrivals(files: dict[str, Path]) -> None:
    dataset = Dataset(name="azure", path=files["azure"])
    requests = load(dataset, arrivals=None)
    assert [(len(r.token_ids), r.output_len) for r in requests] == [(374, 44), (396, 109), (5000, 55)]
    assert [r.arrival for r in requests] == pytest.approx([0.0, 0.052, 2.0])
    assert load(dataset)[2].arrival != requests[2].arrival
    clipped = load(dataset, max_model_len=400)
    assert all(len(r.token_ids) + r.output_len <= 400 for r in clipped)
    with pytest.raises(ValueError, match="only 3 rows: set --num-prompts to 3"):
        load(dataset, 4)


def test_jsonl_keeps_order_and_kinds(files: dict[str, Path]) -> None:
    requests = load(Dataset(name="jsonl", path=files["jsonl"]), 4)
    assert [r.prompt for r in requests] == [
        "Once upon a time",
        [{"role": "user", "content": "Hi"}],
        [5, 6, 7],
        "Once upon a time",
    ]
    assert [r.output_len for r in requests] == [9, 256, 3, 9]
    assert json.loads(body_of(requests[0], "m", Style(api="chat")))["messages"][0]["content"] == "Once upon a time"
    with pytest.raises(ValueError, match="--endpoint completions"):
        body_of(requests[2], "m", Style(api="chat"))


def test_random_lengths_and_prefix() -> None:
    dataset = Dataset(name="random", input_len=100, output_len=20, range_ratio=0.5, random_prefix_len=30)
    requests = load(dataset, 60)
    assert {tuple(r.token_ids[:30]) for r in requests} == {tuple(requests[0].token_ids[:30])}
    assert len({tuple(r.token_ids[30:40]) for r in requests}) == 60
    assert all(80 <= len(r.token_ids) <= 180 and 10 <= r.output_len <= 30 for r in requests)
    assert len({len(r.token_ids) for r in requests}) > 20
    fixed = load(Dataset(name="random", input_len=7, output_len=3), 2)
    assert [(len(r.token_ids), r.output_len) for r in fixed] == [(7, 3)] * 2
    with pytest.raises(ValueError, match="--random-prefix-len 95 leaves no room"):
        load(Dataset(name="random", input_len=10, random_prefix_len=95), 1, max_model_len=100)


def test_prefix_repetition_shares_prefixes_evenly() -> None:
    dataset = Dataset(name="prefix-repetition", prefix_len=16, suffix_len=8, num_prefixes=3)
    requests = load(dataset, 30)
    prefixes = [tuple(r.token_ids[:16]) for r in requests]
    assert sorted(prefixes.count(prefix) for prefix in set(prefixes)) == [10, 10, 10]
    assert prefixes != sorted(prefixes)  # shuffled
    assert len({tuple(r.token_ids[16:]) for r in requests}) == 30


def test_conversations_grow_and_share_the_system_prompt() -> None:
    requests = load(Dataset(name="multi-turn", turns=3, system_len=12, input_len=5, output_len=4), 6)
    assert [r.conversation for r in requests] == [0, 0, 0, 1, 1, 1]
    assert len({r.messages[0]["content"] for r in requests}) == 1
    for before, after in ((0, 1), (1, 2), (3, 4), (4, 5)):
        assert requests[after].messages[: len(requests[before].messages)] == requests[before].messages
        assert requests[after].messages[-2]["role"] == "assistant"
    assert requests[0].messages[1] != requests[3].messages[1]
    assert [r.prompt_tokens for r in requests[:3]] == [17, 26, 35]
    assert [r.arrival for r in requests[:3]] == [0.0] * 3  # the turns of a conversation wait for each other
    assert requests[3].arrival > 0


def test_words_have_the_length_that_is_asked_for() -> None:
    assert len(str(word_writer(0)(50)).split()) == 50

    def odd(text: str) -> int:  # a tokenizer that needs two tokens for words of more than five letters
        return sum(1 + (len(word) > 5) for word in text.split())

    exact = word_writer(0, odd)
    assert [odd(str(exact(count))) for count in (10, 100, 333)] == pytest.approx([10, 100, 333], abs=1)
    assert estimate_tokens("") == 1


@pytest.mark.parametrize(
    ("dataset", "error"),
    [
        (Dataset(name="sharegpt"), "--dataset-name sharegpt needs its file: add --dataset-path FILE, or --workload"),
        (Dataset(name="random", path=Path("x")), "--dataset-path belongs to"),
        (Dataset(name="azure", path=Path("nowhere.csv")), "there is no such file"),
        (Dataset(name="jsonl", path=Path(__file__), input_len=5), "--input-len has no effect"),
        (Dataset(range_ratio=0.5), "--random-range-ratio is for --dataset-name random"),
        (Dataset(name="multi-turn", random_prefix_len=5), "--random-prefix-len is for --dataset-name random"),
        (Dataset(name="random", num_prefixes=5), "--prefix-repetition-num-prefixes is for --dataset-name prefix"),
        (Dataset(name="random", turns=5), "--multi-turn-turns is for --dataset-name multi-turn"),
    ],
)
def test_flags_that_do_not_fit(dataset: Dataset, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        check(dataset)


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("sharegpt", '{"a": 1}', "is not a ShareGPT file"),
        ("sharegpt", "[]", "no conversation with a question"),
        ("azure", "A,B\n1,2\n", "has no column"),
        ("azure", "TIMESTAMP,ContextTokens,GeneratedTokens\nnow,1,2\n", "row 2"),
        ("jsonl", '{"prompt": "a"}\n{"prompt": 5}\n', ":2: "),
        ("jsonl", '{"prompt": "a", "messages": [{"role": "user", "content": "b"}]}\n', "either prompt or messages"),
    ],
)
def test_wrong_files_name_the_place(name: str, content: str, error: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text(content)
    with pytest.raises(ValueError, match=error) as raised:
        load(Dataset(name=name, path=path))
    assert str(path) in str(raised.value)


def test_names() -> None:
    assert dataset_name("prefix_repetition") == "prefix-repetition"
    assert dataset_name("custom") == "jsonl"
    with pytest.raises(ValueError, match="there is no data set 'sonnet'"):
        dataset_name("sonnet")
    with pytest.raises(ValueError, match="only --dataset-name azure"):
        load(Dataset(name="random"), 2, arrivals=None)
    with pytest.raises(ValueError, match="only --dataset-name azure"):
        load(Dataset(workload="cpu"), 2, arrivals=None)
