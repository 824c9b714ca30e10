"""`--dataset-name random`: uniform lengths around given ones, with a prefix that all prompts share."""

from __future__ import annotations

import math
import random

from gllm.apps.bench.datasets.item import DEFAULT_COUNT, Item, Order
from gllm.apps.bench.prompt_writer import clip, joined

INPUT_LEN, OUTPUT_LEN = 1024, 128
"""Defaults, as in `vllm bench serve`."""


def draw(order: Order, *, range_ratio: float, prefix_len: int) -> list[Item]:
    """Draw lengths from [length (1 - ratio), length (1 + ratio)]; the prefix comes on top of the prompt's length."""
    rng = random.Random(f"{order.seed}/lengths")
    prefix = order.write(prefix_len) if prefix_len else []
    items = []
    for _ in range(order.count or DEFAULT_COUNT):
        own, output_len = (
            _length(rng, mean, range_ratio) for mean in (order.input_len or INPUT_LEN, order.output_len or OUTPUT_LEN)
        )
        total, output_len = clip(prefix_len + own, output_len, order.max_model_len)
        own = total - prefix_len
        if own < 1:
            raise ValueError(
                f"--random-prefix-len {prefix_len} leaves no room for a prompt and {output_len} tokens of output "
                f"in the {order.max_model_len} tokens of the context"
            )
        items.append(Item(joined(prefix, order.write(own)), total, output_len))
    return items


def _length(rng: random.Random, mean: int, ratio: float) -> int:
    return max(rng.randint(math.floor(mean * (1 - ratio)), math.ceil(mean * (1 + ratio))), 1)
