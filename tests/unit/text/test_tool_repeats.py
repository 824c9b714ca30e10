"""A call that repeats an earlier one ends the answer; nothing else is lost, in pieces of any size."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gllm.text.tool_parsers import HERMES, ToolParser, WithoutRepeats


def call(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>\n'


ROME, PARIS, NONE = call("weather", '{"city": "Rome"}'), call("weather", '{"city": "Paris"}'), call("dice", "{}")
ROMEO = call("weather", '{"city": "Romeo"}')


def read(text: str, size: int) -> tuple[list[tuple[str, str]], bool]:
    """Calls, and whether the answer was ended."""
    parser = WithoutRepeats(ToolParser(HERMES))
    calls: dict[int, list[str]] = {}
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    for delta in [*[parser.feed(piece) for piece in pieces], parser.finish()]:
        for piece in delta.tool_calls:
            kept = calls.setdefault(piece.index, ["", ""])
            kept[0] += piece.name or ""
            kept[1] += piece.arguments
    return [(name, arguments) for name, arguments in calls.values()], parser.ended


def test_a_repeat_ends_the_answer() -> None:
    for size in (1, 3, 1000):
        assert read(ROME + ROME + PARIS, size) == ([("weather", '{"city": "Rome"}')], True)
        assert read(ROME + PARIS + ROME, size)[0] == [("weather", '{"city": "Rome"}'), ("weather", '{"city": "Paris"}')]
        assert read(NONE + NONE, size) == ([("dice", "{}")], True)


def test_a_call_that_only_begins_like_an_earlier_one_is_a_call() -> None:
    for size in (1, 7, 1000):
        assert read(ROME + ROMEO, size) == (
            [("weather", '{"city": "Rome"}'), ("weather", '{"city": "Romeo"}')],
            False,
        )
        cut_off = ROME[: ROME.index("ome")]
        assert read(ROME + cut_off, size) == ([("weather", '{"city": "Rome"}'), ("weather", '{"city": "R')], False)


@given(st.lists(st.sampled_from([ROME, PARIS, ROMEO, NONE]), unique=True), st.integers(1, 50))
def test_different_calls_are_all_returned(calls: list[str], size: int) -> None:
    plain = ToolParser(HERMES)
    fed = plain.feed("".join(calls)).tool_calls + plain.finish().tool_calls
    found, ended = read("".join(calls), size)
    assert not ended
    assert len(found) == len(calls)
    for index, (name, arguments) in enumerate(found):
        assert name == "".join(delta.name or "" for delta in fed if delta.index == index)
        assert arguments == "".join(delta.arguments for delta in fed if delta.index == index)
