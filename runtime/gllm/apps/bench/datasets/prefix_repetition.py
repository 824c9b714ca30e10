"""`--dataset-name prefix-repetition`: prompts of one of a few long prefixes and a suffix of their own."""

from __future__ import annotations

import random

from gllm.apps.bench.datasets.item import DEFAULT_COUNT, Item, Order
from gllm.apps.bench.prompt_writer import joined

OUTPUT_LEN = 128


def draw(order: Order, *, prefix_len: int, suffix_len: int, num_prefixes: int) -> list[Item]:
    """Return prompts in random order; every prefix has the same number of them, give or take one."""
    count, output_len = order.count or DEFAULT_COUNT, order.output_len or OUTPUT_LEN
    total = prefix_len + suffix_len
    if order.max_model_len is not None and total + output_len > order.max_model_len:
        raise ValueError(
            f"prefix, suffix and output have {total + output_len} tokens, but the context has {order.max_model_len}: "
            "lower --prefix-repetition-prefix-len, --prefix-repetition-suffix-len or --output-len"
        )
    prefixes = [order.write(prefix_len) for _ in range(num_prefixes)]
    items = [
        Item(joined(prefixes[index % num_prefixes], order.write(suffix_len)), total, output_len)
        for index in range(count)
    ]
    random.Random(f"{order.seed}/prefixes").shuffle(items)
    return items
