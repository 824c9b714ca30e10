from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gllm.text.tool_parsers import HERMES, LLAMA, ToolFormat, ToolParser, tool_format_for

Calls = list[tuple[str, str]]


def parse(tool_format: ToolFormat, pieces: list[str]) -> tuple[str, Calls]:
    """Content and (name, arguments) of all deltas added up; checks that deltas come in order."""
    parser = ToolParser(tool_format)
    content, calls = "", []
    for delta in [*(parser.feed(piece) for piece in pieces), parser.finish()]:
        content += delta.content
        for call in delta.tool_calls:
            if call.name is not None:
                assert call.index == len(calls)
                assert call.id is not None
                calls.append([call.name, ""])
            else:
                assert call.id is None
            assert call.index == len(calls) - 1
            calls[call.index][1] += call.arguments
    return content, [(name, arguments) for name, arguments in calls]


def hermes(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


TRICKY = '{"a": "}</tool_call>\\"{", "b": [1, {"c": null}], "d": "\\\\"}'

CASES: list[tuple[ToolFormat, str, str, Calls]] = [
    (HERMES, "", "", []),
    (HERMES, "Just text <b>.", "Just text <b>.", []),
    (HERMES, "  \n", "  \n", []),
    (HERMES, hermes("f", '{"x": 1}'), "", [("f", '{"x": 1}')]),
    (HERMES, "\n" + hermes("f", TRICKY) + "\n", "", [("f", TRICKY)]),
    (HERMES, hermes("f", "{}") + "\n" + hermes("g", "{}"), "", [("f", "{}"), ("g", "{}")]),
    (HERMES, "Let me see.\n" + hermes("f", "{}") + "\nDone.", "Let me see.\n\nDone.", [("f", "{}")]),
    (HERMES, '<tool_call>{"arguments": {"x": 1}, "name": "f"}</tool_call>', "", [("f", '{"x": 1}')]),
    (HERMES, '<tool_call>{"name": "f"}</tool_call>', "", [("f", "{}")]),
    (HERMES, '<tool_call>{"name": "f", "arguments": null}</tool_call>', "", [("f", "")]),
    (HERMES, '<tool_call>{"id": 7, "name": "f", "arguments": "{\\"x\\": 1}"}</tool_call>', "", [("f", '{"x": 1}')]),
    (HERMES, '<tool_call>{"name": "f", "arguments": [1, 2]}</tool_call>', "", [("f", "[1, 2]")]),
    (HERMES, '<tool_call>{"name": "f", "parameters": {"x": 1}}</tool_call>', "", [("f", '{"x": 1}')]),
    (HERMES, '<tool_call>{"na\\u006de": "\\u0066", "arguments": {}}</tool_call>', "", [("f", "{}")]),
    (HERMES, '<tool_call>{"name": "f", "arguments": {"x": 1}}}</tool_call>', "}", [("f", '{"x": 1}')]),
    (HERMES, '<tool_call>{"name": "f", "arguments": {"x": ', "", [("f", '{"x": ')]),
    (HERMES, '<tool_call>{"name": "f", "arguments": {"x": 1]} rest', "]} rest", [("f", '{"x": 1')]),
    (HERMES, "<tool_call>call f</tool_call>", "<tool_call>call f</tool_call>", []),
    (HERMES, '<tool_call>{"name": 3}</tool_call>', '<tool_call>{"name": 3}</tool_call>', []),
    (HERMES, '<tool_call>{"name": "\\q"}', '<tool_call>{"name": "\\q"}', []),
    (HERMES, '<tool_call>{"title": "x"}</tool_call>', '<tool_call>{"title": "x"}</tool_call>', []),
    (HERMES, '<tool_call>{"na', '<tool_call>{"na', []),
    (HERMES, "<tool_ca", "<tool_ca", []),
    (HERMES, hermes("f", "{}") + "\n<tool_ca", "", [("f", "{}")]),
    (HERMES, hermes("f", "{}") + '\n<tool_call>\n{"name": "g', "", [("f", "{}")]),
    (HERMES, hermes("f", "{}")[:-3], "", [("f", "{}")]),
    (HERMES, hermes("f", "{}") + " then <tool_ca", " then <tool_ca", [("f", "{}")]),
    (HERMES, "a < b <<tool_call", "a < b <<tool_call", []),
    (HERMES, "<tool_call><tool_call>" + hermes("f", "{}"), "<tool_call><tool_call>", [("f", "{}")]),
    (HERMES, "x</tool_call>", "x</tool_call>", []),
    (LLAMA, '{"name": "f", "parameters": {"x": 1}}', "", [("f", '{"x": 1}')]),
    (LLAMA, '<|python_tag|>{"name": "f", "parameters": {"x": 1}}', "", [("f", '{"x": 1}')]),
    (
        LLAMA,
        '{"name": "f", "parameters": {}}; {"name": "g", "parameters": {"y": ";"}}',
        "",
        [("f", "{}"), ("g", '{"y": ";"}')],
    ),
    (LLAMA, '{"type": "function", "name": "f", "parameters": {}}', "", [("f", "{}")]),
    (LLAMA, '{"name": "Bob", "age": 3}', '{"name": "Bob", "age": 3}', []),
    (LLAMA, 'Text {"name": "f", "parameters": {}}', 'Text {"name": "f", "parameters": {}}', []),
    (LLAMA, 'Text <|python_tag|>{"name": "f", "parameters": {}}', "Text ", [("f", "{}")]),
    (LLAMA, "<|python_tag|>print(1)", "<|python_tag|>print(1)", []),
    (LLAMA, '{"name": "f", "parameters": {}}; and', "; and", [("f", "{}")]),
    (LLAMA, '{"answer": [1, 2]}', '{"answer": [1, 2]}', []),
    (LLAMA, "{not json}", "{not json}", []),
]


@pytest.mark.parametrize(("tool_format", "text", "content", "calls"), CASES)
def test_the_result_does_not_depend_on_the_pieces(
    tool_format: ToolFormat, text: str, content: str, calls: Calls
) -> None:
    assert parse(tool_format, [text]) == (content, calls)
    assert parse(tool_format, list(text)) == (content, calls)
    for cut in range(1, len(text)):
        assert parse(tool_format, [text[:cut], text[cut:]]) == (content, calls)


FRAGMENTS = [
    "<tool_call>", "</tool_call>", "<|python_tag|>", '{"name": "f"', ', "arguments": ', ', "parameters": ', '{"x": 1}',
    "{", "}", "[", "]", '"', "\\", ",", ":", ";", " ", "\n", "<", "a", "null", "12",
]  # fmt: skip


@settings(max_examples=150)
@given(
    tool_format=st.sampled_from([HERMES, LLAMA]),
    parts=st.lists(st.sampled_from(FRAGMENTS), max_size=14),
    cuts=st.lists(st.integers(0, 60), max_size=5),
)
def test_fuzz_the_result_does_not_depend_on_the_pieces(
    tool_format: ToolFormat, parts: list[str], cuts: list[int]
) -> None:
    text = "".join(parts)
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    whole = parse(tool_format, [text])
    assert parse(tool_format, [text[a:b] for a, b in itertools.pairwise(bounds)]) == whole
    assert parse(tool_format, list(text)) == whole
    content, calls = whole
    if not calls:
        assert content == text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60)
@given(
    calls=st.lists(
        st.tuples(st.text(min_size=1, max_size=8), st.dictionaries(st.text(max_size=5), JSON, max_size=3)), max_size=3
    ),
    ascii_only=st.booleans(),
)
def test_valid_calls_are_parsed_completely(calls: list[tuple[str, dict[str, object]]], ascii_only: bool) -> None:
    def dump(value: object) -> str:
        return json.dumps(value, ensure_ascii=ascii_only)

    hermes_text = "".join(
        f"<tool_call>\n{dump({'name': name, 'arguments': arguments})}\n</tool_call>\n" for name, arguments in calls
    )
    llama_text = "; ".join(dump({"name": name, "parameters": arguments}) for name, arguments in calls)
    for tool_format, text in ((HERMES, hermes_text), (LLAMA, llama_text)):
        content, parsed = parse(tool_format, list(text))
        assert content == ""
        assert [(name, json.loads(arguments)) for name, arguments in parsed] == calls


def test_name_comes_before_the_arguments_are_complete() -> None:
    parser = ToolParser(HERMES)
    assert parser.feed('<tool_call>{"name": "f').tool_calls == []
    (first,) = parser.feed('", "arg').tool_calls
    assert (first.index, first.name, first.arguments) == (0, "f", "")
    (second,) = parser.feed('uments": {"a": [1,').tool_calls
    assert (second.name, second.arguments) == (None, '{"a": [1,')
    assert parser.feed(" 2]").tool_calls[0].arguments == " 2]"
    assert parser.feed("}}").tool_calls[0].arguments == "}"
    assert parser.feed("</tool_call>") == parser.finish()


def test_content_is_not_held_back() -> None:
    parser = ToolParser(HERMES)
    assert parser.feed("Hello <").content == "Hello "
    assert parser.feed("b> ").content == "<b> "


def test_format_choice() -> None:
    assert tool_format_for("auto", "... <tool_call> ...") is HERMES
    assert tool_format_for("auto", "... <|python_tag|> ...") is LLAMA
    assert tool_format_for("auto", '<|start_header_id|> {"name": x, "parameters": y}') is LLAMA
    assert tool_format_for("auto", "plain") is None
    assert tool_format_for("auto", "plain", reads_tools=False) is HERMES
    assert tool_format_for("none", "plain", reads_tools=False) is None
    assert tool_format_for("none", "<tool_call>") is None
    assert tool_format_for("llama", "<tool_call>") is LLAMA
    with pytest.raises(ValueError, match="tool_parser must be"):
        tool_format_for("xml", "")
