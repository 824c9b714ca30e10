"""`--dataset-name sharegpt`: the first question of each conversation, and as many tokens as its answer had."""

from __future__ import annotations

import random
from pathlib import Path

from gllm.apps.bench.datasets.item import DEFAULT_COUNT, Item, Order
from gllm.apps.bench.prompt_writer import MIN_LENGTH
from gllm.apps.sharegpt import first_exchanges

LONGEST_PROMPT, LONGEST_REQUEST = 1024, 2048
"""Bounds in tokens; as in `vllm bench serve`, conversations beyond them are left out."""


def read(path: Path, order: Order) -> list[Item]:
    """Return the questions in random order; they repeat if the file has fewer. Raises ValueError."""
    exchanges = list(first_exchanges(path))
    if not exchanges:
        raise ValueError(f"{path} has no conversation with a question and an answer")
    random.Random(f"{order.seed}/sharegpt").shuffle(exchanges)
    count = order.count or DEFAULT_COUNT
    longest = min(order.max_model_len or LONGEST_REQUEST, LONGEST_REQUEST)
    items: list[Item] = []
    for _, prompt, answer in exchanges:
        if len(items) == count:
            break
        tokens, answer_len = order.count_tokens(prompt), order.output_len or order.count_tokens(answer)
        short = tokens < MIN_LENGTH or (answer_len < MIN_LENGTH and order.output_len is None)
        if not short and tokens <= LONGEST_PROMPT and tokens + answer_len <= longest:
            items.append(Item(prompt, tokens, answer_len))
    if not items:
        raise ValueError(f"{path} has no conversation of {MIN_LENGTH} to {longest} tokens")
    return [items[index % len(items)] for index in range(order.count or len(items))]
