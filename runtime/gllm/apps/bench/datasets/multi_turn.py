"""`--dataset-name multi-turn`: conversations that share system prompts; each turn repeats the history before it.

The answers in a history are drawn too, so that the requests are the same against every server. A server then finds
all earlier prompts in its prefix cache, but not the answers that it gave itself.
"""

from __future__ import annotations

from gllm.apps.bench.datasets.item import DEFAULT_COUNT, Item, Order
from gllm.apps.bench.prompt_writer import Writer
from gllm.apps.bench.requests import Message

USER_LEN, OUTPUT_LEN = 64, 64


def draw(order: Order, *, turns: int, system_len: int, system_prompts: int, write: Writer) -> list[Item]:
    """Return `turns` requests for each conversation, one conversation after the other.

    Args:
        system_prompts: how many there are; conversations take them in turn.
        write: makes text, since a conversation is made of messages.
    """
    user_len, answer_len = order.input_len or USER_LEN, order.output_len or OUTPUT_LEN
    count = order.count or DEFAULT_COUNT
    longest = system_len + turns * (user_len + answer_len)
    if order.max_model_len is not None and longest > order.max_model_len:
        raise ValueError(
            f"the last turn has {longest} tokens, but the context has {order.max_model_len}: "
            "lower --multi-turn-turns, --multi-turn-system-len, --input-len or --output-len"
        )
    systems: list[list[Message]] = [
        [{"role": "system", "content": _text(write(system_len))}] if system_len else [] for _ in range(system_prompts)
    ]
    items: list[Item] = []
    for number in range(count):
        conversation, turn = divmod(number, turns)
        if turn == 0:
            history = list(systems[conversation % system_prompts])
        history = [*history, {"role": "user", "content": _text(write(user_len))}]
        tokens = system_len + user_len + turn * (user_len + answer_len)
        items.append(Item(history, tokens, answer_len, conversation=conversation))
        history = [*history, {"role": "assistant", "content": _text(write(answer_len))}]
    return items


def _text(written: list[int] | str) -> str:
    assert isinstance(written, str)
    return written
