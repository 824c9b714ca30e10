"""Requests of a data set or of a synthetic workload, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from gllm.apps.bench.datasets import azure, jsonl, multi_turn, prefix_repetition, random_lengths, sharegpt
from gllm.apps.bench.datasets.item import Item, Order
from gllm.apps.bench.prompt_writer import Counter, token_writer, word_writer
from gllm.apps.bench.requests import BenchRequest, as_request
from gllm.apps.bench.workloads import WORKLOADS, make_requests

DATASETS = ("sharegpt", "azure", "jsonl", "random", "prefix-repetition", "multi-turn")
_OTHER_NAMES = {"custom": "jsonl"}
_FILES: dict[str, Callable[[Path, Order], list[Item]]] = {
    "sharegpt": sharegpt.read,
    "azure": azure.read,
    "jsonl": jsonl.read,
}

_SHAPES = {
    "random": {"range_ratio": "--random-range-ratio", "random_prefix_len": "--random-prefix-len"},
    "prefix-repetition": {
        "prefix_len": "--prefix-repetition-prefix-len",
        "suffix_len": "--prefix-repetition-suffix-len",
        "num_prefixes": "--prefix-repetition-num-prefixes",
    },
    "multi-turn": {
        "turns": "--multi-turn-turns",
        "system_len": "--multi-turn-system-len",
        "system_prompts": "--multi-turn-system-prompts",
    },
}
"""The fields of Dataset that matter for one of DATASETS, and their flags."""

ArrivalTimes = Callable[[int], list[float]]
"""Return when each of so many requests is sent, in seconds after the start of the run."""


class Dataset(msgspec.Struct, frozen=True, kw_only=True):
    """A source of requests: `workload` if `name` is empty."""

    workload: str = "sharegpt"
    name: str = ""
    path: Path | None = None
    input_len: int | None = None
    output_len: int | None = None
    range_ratio: float = 0.0
    random_prefix_len: int = 0
    prefix_len: int = 256
    suffix_len: int = 256
    num_prefixes: int = 10
    turns: int = 4
    system_len: int = 256
    system_prompts: int = 1

    @property
    def label(self) -> str:
        """What result files call it."""
        return self.name or self.workload

    @property
    def has_text(self) -> bool:
        """Whether the prompts are text whatever is asked for."""
        return self.name in ("sharegpt", "jsonl", "multi-turn")

    def default_count(self) -> int | None:
        """Return the number of requests if none is given; None: as many as the data set has."""
        return None if self.name else WORKLOADS[self.workload].num_prompts

    def settings(self) -> dict[str, Any]:
        """Return the fields of a result file."""
        return {
            "trace": self.label,  # the key that result files have always had
            **({"dataset_name": self.name} if self.name else {}),
            **({"dataset_path": str(self.path)} if self.path is not None else {}),
            "input_len": self.input_len,
            "output_len": self.output_len,
            **({name: getattr(self, name) for name in _SHAPES[self.name]} if self.name in _SHAPES else {}),
        }


def dataset_name(text: str) -> str:
    """Return a name of DATASETS for one of its spellings. Raises ValueError."""
    name = text.replace("_", "-").lower()
    name = _OTHER_NAMES.get(name, name)
    if name not in DATASETS:
        raise ValueError(f"there is no data set {text!r}: take one of {', '.join(DATASETS)}")
    return name


def check(dataset: Dataset) -> None:
    """Raise ValueError, which names the flag, for a file that is missing or not needed, or a flag without effect."""
    if dataset.name in _FILES and dataset.path is None:
        synthetic = f", or --workload {dataset.name} for its lengths alone" if dataset.name in WORKLOADS else ""
        raise ValueError(f"--dataset-name {dataset.name} needs its file: add --dataset-path FILE{synthetic}")
    if dataset.path is not None and dataset.name not in _FILES:
        raise ValueError(
            f"--dataset-path belongs to --dataset-name {', '.join(_FILES)}: leave it out, or add one of these"
        )
    if dataset.path is not None and not dataset.path.is_file():
        raise ValueError(f"--dataset-path {dataset.path}: there is no such file")
    if dataset.input_len is not None and dataset.name in ("sharegpt", "jsonl"):
        raise ValueError(f"--input-len has no effect on the texts of --dataset-name {dataset.name}: leave it out")
    usual = Dataset()
    for name, flags in _SHAPES.items():
        for field, flag in flags.items():
            if name != dataset.name and getattr(dataset, field) != getattr(usual, field):
                raise ValueError(f"{flag} is for --dataset-name {name}: leave it out, or add that")


def load_requests(
    dataset: Dataset,
    count: int | None,
    *,
    seed: int,
    arrivals: ArrivalTimes | None,
    token_range: tuple[int, int],
    max_model_len: int | None = None,
    text: bool = False,
    count_tokens: Counter | None = None,
) -> list[BenchRequest]:
    """Return the requests; the same arguments give the same ones, byte for byte. Raises ValueError.

    Args:
        count: None means as many as the data set has.
        arrivals: None takes those of the data set itself, which only azure has.
        text: whether drawn prompts are words instead of token ids.
        count_tokens: of the model's tokenizer; without it lengths of text are estimates.
    """
    write = word_writer(seed, count_tokens) if text else token_writer(seed, token_range)
    if not dataset.name:
        workload = WORKLOADS[dataset.workload]
        count = count or workload.num_prompts
        return make_requests(
            workload, count, seed=seed, max_model_len=max_model_len, input_len=dataset.input_len,
            output_len=dataset.output_len, write=write, arrivals=_times(arrivals, count),
        )  # fmt: skip
    order = Order(
        count=count, seed=seed, write=write, max_model_len=max_model_len,
        input_len=dataset.input_len, output_len=dataset.output_len,
    )  # fmt: skip
    if count_tokens is not None:
        order = msgspec.structs.replace(order, count_tokens=count_tokens)
    items = _items(dataset, order, write if text else word_writer(seed, count_tokens))
    if arrivals is None:
        times = [_known(item) for item in items]
    else:
        # The turns of a conversation after the first wait for the one before, not for a time.
        groups = [index if item.conversation is None else item.conversation for index, item in enumerate(items)]
        drawn = _times(arrivals, max(groups) + 1)
        times = [drawn[group] for group in groups]
    return [
        as_request(index, item.prompt, item.prompt_tokens, item.output_len, times[index], item.conversation)
        for index, item in enumerate(items)
    ]


def _items(dataset: Dataset, order: Order, words: Callable[[int], list[int] | str]) -> list[Item]:
    check(dataset)
    if dataset.path is not None:
        return _FILES[dataset.name](dataset.path, order)
    if dataset.name == "random":
        return random_lengths.draw(order, range_ratio=dataset.range_ratio, prefix_len=dataset.random_prefix_len)
    if dataset.name == "prefix-repetition":
        return prefix_repetition.draw(
            order, prefix_len=dataset.prefix_len, suffix_len=dataset.suffix_len, num_prefixes=dataset.num_prefixes
        )
    return multi_turn.draw(
        order, turns=dataset.turns, system_len=dataset.system_len, system_prompts=dataset.system_prompts, write=words
    )


def _times(arrivals: ArrivalTimes | None, count: int) -> list[float]:
    if arrivals is None:
        raise ValueError(NO_TRACE)
    return arrivals(count)


def _known(item: Item) -> float:
    if item.arrival is None:
        raise ValueError(NO_TRACE)
    return item.arrival


NO_TRACE = "--request-rate trace takes the arrivals of the data set, which only --dataset-name azure has"
