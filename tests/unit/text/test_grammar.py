from __future__ import annotations

import json
import os
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import numpy as np
import pytest

from gllm.sampling_params import MAX_GRAMMAR_BYTES, ParameterError
from gllm.text.grammar import (
    GrammarChecker,
    any_json_object,
    build_ll_tokenizer,
    check_grammar,
    grammar_for_tools,
    grammar_from_choices,
    grammar_from_json_schema,
    grammar_from_lark,
    grammar_from_regex,
    grammar_from_text,
    new_matcher,
)
from gllm.text.grammar import check as check_module
from gllm.text.grammar.json_schema import ENFORCED_FORMATS
from gllm.text.tokenizer import Tokenizer
from gllm.text.tool_parsers import HERMES, LLAMA, PLAIN_JSON, ToolFormat, ToolParser

WIDTH = 49160
"""Wider than SmolLM2's vocabulary, as padded embeddings are."""


@pytest.fixture(scope="module")
def ll_tokenizer(smollm: Tokenizer) -> Any:
    return build_ll_tokenizer(smollm, WIDTH)


def allowed(mask: bytes) -> list[int]:
    found: list[int] = np.flatnonzero(np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little")).tolist()
    return found


def random_text(tokenizer: Tokenizer, ll_tokenizer: Any, grammar: str, seed: int, steps: int = 4000) -> str:
    """Text of random allowed tokens until EOS; prefers tokens that close things, so that it ends."""
    matcher = new_matcher(ll_tokenizer, grammar)
    assert not matcher.is_error(), matcher.get_error()
    rng = random.Random(seed)
    ids: list[int] = []
    for step in range(steps):
        tokens = allowed(matcher.compute_bitmask())
        assert tokens
        assert max(tokens) < tokenizer.vocab_size
        ends = [token for token in tokens if token in tokenizer.eos_token_ids]
        if len(tokens) > 1000:
            tokens = rng.sample(tokens, 1000)
        closers = [token for token in tokens if tokenizer.token_bytes(token)[:1] in (b'"', b"}", b"]")]
        token = rng.choice(ends if ends and step > 20 else closers if closers and rng.random() < 0.5 else tokens)
        assert matcher.consume_token(token)
        if token in tokenizer.eos_token_ids:
            return tokenizer.decode(ids)
        ids.append(token)
    raise AssertionError(f"no end after {steps} tokens: {tokenizer.decode(ids)[-200:]}")


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "mood": {"enum": ["good", "bad", None]},
        "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}, "maxItems": 3},
    },
    "required": ["name", "age", "mood", "tags"],
    "additionalProperties": False,
    "$defs": {"tag": {"type": "string", "pattern": "^[a-z]{1,5}$"}},
}


@pytest.mark.parametrize("seed", range(6))
def test_random_output_is_valid_under_the_schema(smollm: Tokenizer, ll_tokenizer: Any, seed: int) -> None:
    text = random_text(smollm, ll_tokenizer, grammar_from_json_schema(PERSON), seed)
    jsonschema_rs.validate(PERSON, json.loads(text))


@pytest.mark.parametrize("seed", range(3))
def test_random_json_objects_parse(smollm: Tokenizer, ll_tokenizer: Any, seed: int) -> None:
    assert isinstance(json.loads(random_text(smollm, ll_tokenizer, any_json_object(), seed)), dict)


@pytest.mark.parametrize("seed", range(3))
def test_regex_choices_and_lark(smollm: Tokenizer, ll_tokenizer: Any, seed: int) -> None:
    regex = r"\d{3}-[a-f]+(x|yz)\?"
    assert re.fullmatch(regex, random_text(smollm, ll_tokenizer, grammar_from_regex(regex), seed))
    choices = ["yes", 'no "or"\n', "caf\u00e9 \\ /"]
    assert random_text(smollm, ll_tokenizer, grammar_from_choices(choices), seed) in choices
    lark = 'start: "a" b*\nb: /[bc]/ | "(" b ")"'
    text = random_text(smollm, ll_tokenizer, grammar_from_lark(lark), seed)
    assert text[0] == "a"
    assert set(text[1:]) <= set("bc()")


def accepts(tokenizer: Tokenizer, ll_tokenizer: Any, grammar: str, text: str) -> bool:
    matcher = new_matcher(ll_tokenizer, grammar)
    assert not matcher.is_error(), matcher.get_error()
    ids = tokenizer.encode(text)
    return matcher.validate_tokens(ids) == len(ids) and matcher.consume_tokens(ids) and matcher.is_accepting()


def test_white_space_is_bounded(smollm: Tokenizer, ll_tokenizer: Any) -> None:
    grammar = any_json_object()
    assert accepts(smollm, ll_tokenizer, grammar, '{\n    "a": 1\n}')
    assert not accepts(smollm, ll_tokenizer, grammar, "{" + "\n" * 9 + "}")
    compact = grammar_from_json_schema({"type": "array"}, compact=True)
    assert accepts(smollm, ll_tokenizer, compact, "[1,[2,3]]")
    assert not accepts(smollm, ll_tokenizer, compact, "[1, 2]")


def needs(name: str) -> dict[str, Any]:
    return {"type": "object", "properties": {name: {"type": "integer"}}, "required": [name]}


NODE = {
    "type": "object",
    "properties": {"value": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
    "required": ["value", "next"],
}


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        # Objects that list properties have no others; no key comes twice.
        (needs("a"), ['{"a": 1}'], ['{"a": 1, "b": 2}', '{"a": 1, "a": 2}']),
        (needs("a") | {"additionalProperties": True}, ['{"a": 1}', '{"a": 1, "b": 2}'], ['{"a": 1, "a": 2}']),
        (needs("a") | {"additionalProperties": {"type": "null"}}, ['{"a": 1, "b": null}'], ['{"a": 1, "b": 2}']),
        (needs("a") | {"patternProperties": {"^x": {"type": "integer"}}}, ['{"a": 1, "x1": 2}'], []),
        (needs("a") | {"unevaluatedProperties": False}, ['{"a": 1}'], ['{"a": 1, "b": 2}']),
        ({"type": "object", "properties": {}}, ["{}"], ['{"a": 1}']),
        ({"type": "object", "properties": {"b": {}}, "required": ["a"]}, ['{"b": 1, "a": 2}'], ['{"b": 1}']),
        ({"type": "object", "properties": {"o": needs("a")}}, ['{"o": {"a": 1}}', "{}"], ['{"o": {"a": 1, "b": 2}}']),
        ({"properties": {"properties": {"type": "integer"}}}, ['{"properties": 1}'], ['{"other": 1}']),
        # Optional properties may be left out, in the order of the schema.
        (
            {"type": "object", "properties": {name: {"type": "integer"} for name in "abc"}},
            ["{}", '{"a": 1}', '{"a": 1, "c": 2}', '{"b": 1, "c": 2}'],
            ['{"b": 1, "b": 2}', '{"c": 1, "a": 2}'],
        ),
        # Composed objects have the properties of all their parts.
        ({"allOf": [needs("a"), needs("b")]}, ['{"a": 1, "b": 2}'], ['{"a": 1}', '{"a": 1, "b": 2, "c": 3}']),
        (
            {"$defs": {"base": needs("a")}, "allOf": [{"$ref": "#/$defs/base"}, needs("b")]},
            ['{"a": 1, "b": 2}'],
            ['{"a": 1, "b": 2, "c": 3}'],
        ),
        ({"$defs": {"base": needs("a")}, "$ref": "#/$defs/base"}, ['{"a": 1}'], ['{"a": 1, "b": 2}']),
        (
            {
                "$defs": {"base": needs("a")},
                "allOf": [{"$ref": "#/$defs/base"}],
                "description": "as pydantic 1 says it",
            },
            ['{"a": 1}'],
            ['{"a": 1, "b": 2}'],
        ),
        (
            needs("t") | {"anyOf": [needs("a"), needs("b")]},
            ['{"t": 1, "a": 2}', '{"t": 1, "b": 2}'],
            ['{"t": 1}', '{"t": 1, "a": 2, "z": 3}'],
        ),
        ({"anyOf": [needs("a"), needs("b")]}, ['{"a": 1}', '{"b": 1}'], ['{"a": 1, "b": 2}']),
        (
            {"$defs": {"node": NODE}, "$ref": "#/$defs/node"},
            ['{"value": 1, "next": {"value": 2, "next": null}}'],
            ['{"value": 1, "next": {"value": 2, "next": null, "x": 1}}'],
        ),
        # Names of properties.
        ({"type": "object", "propertyNames": {"type": "string"}}, ['{"a": 1}'], ["[]"]),
        (
            {"type": "object", "propertyNames": {"enum": ["a"]}, "additionalProperties": {"type": "integer"}},
            ['{"a": 1}', "{}"],
            ['{"b": 1}', '{"a": ""}'],
        ),
        (
            {"$defs": {"n": {"const": "a"}}, "type": "object", "propertyNames": {"$ref": "#/$defs/n"}},
            ['{"a": 1}'],
            ['{"b": 1}'],
        ),
        ({"type": "object", "propertyNames": {"pattern": "^a+$"}}, ['{"aa": 1}'], ['{"b": 1}']),
        ({"type": "object", "propertyNames": {"minLength": 2, "maxLength": 3}}, ['{"ab": 1}'], ['{"a": 1}']),
        # Annotations.
        ({"type": "array", "items": {"type": "string"}, "uniqueItems": True}, ['["a", "b"]'], ["[1]"]),
        ({"type": "string", "format": "password", "minLength": 2}, ['"ab"'], ['"a"']),
        ({"enum": [{"format": "x", "uniqueItems": True}]}, ['{"format": "x", "uniqueItems": true}'], ["{}"]),
        ({"type": "object", "properties": {"a": {"not": {}}, "b": {}}}, ['{"b": 1}'], ['{"a": 1}']),
    ],
)
def test_values_that_a_schema_allows(
    smollm: Tokenizer, ll_tokenizer: Any, schema: dict[str, Any], good: list[str], bad: list[str]
) -> None:
    grammar = grammar_from_json_schema(schema)
    assert [text for text in good if not accepts(smollm, ll_tokenizer, grammar, text)] == []
    assert [text for text in bad if accepts(smollm, ll_tokenizer, grammar, text)] == []


def test_a_long_chain_of_references() -> None:
    chain = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}, needs(f"p{i}")]} for i in range(300)}
    schema = {"$defs": {**chain, "d300": needs("last")}, "allOf": [{"$ref": "#/$defs/d0"}, needs("first")]}
    made = json.loads(grammar_from_json_schema(schema))["grammars"][0]["json_schema"]
    assert set(made["properties"]) == {"first", "last", *(f"p{i}" for i in range(300))}
    assert made["additionalProperties"] is False


def test_the_schema_of_the_caller_is_not_changed() -> None:
    schema = {"$defs": {"base": needs("a")}, "allOf": [{"$ref": "#/$defs/base"}, needs("b")]}
    before = json.dumps(schema)
    grammar_from_json_schema(schema)
    assert json.dumps(schema) == before


@pytest.mark.parametrize("known", sorted(ENFORCED_FORMATS))
def test_known_formats_are_enforced(smollm: Tokenizer, ll_tokenizer: Any, known: str) -> None:
    grammar = grammar_from_json_schema({"type": "string", "format": known})
    assert not accepts(smollm, ll_tokenizer, grammar, '"no such thing, surely!"')


@pytest.mark.parametrize(
    "name",
    [*("password", "binary", "byte", "path", "file-path", "directory-path", "json-string", "base64", "url"),
     *("uri-reference", "regex", "uuid4", "int64", "", "x" * 300)],
)  # fmt: skip
def test_other_formats_are_annotations(smollm: Tokenizer, ll_tokenizer: Any, name: str) -> None:
    for schema in ({"type": "string", "format": name}, {"format": name}):
        assert accepts(smollm, ll_tokenizer, grammar_from_json_schema(schema), '"anything"')


def test_a_client_cannot_loosen_the_options() -> None:
    grammar = json.loads(grammar_from_json_schema({"type": "object", "x-guidance": {"lenient": True}}))
    assert grammar["grammars"][0]["json_schema"]["x-guidance"]["lenient"] is False


# --- tools -----------------------------------------------------------------------------------------

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"$ref": "#/$defs/city"}, "days": {"type": "integer", "maximum": 9}},
                "required": ["city", "days"],
                "additionalProperties": False,
                "$defs": {"city": {"enum": ["K\u00f6ln", "Bonn"]}},
            },
        },
    },
    {"type": "function", "function": {"name": "now"}},
]
SCHEMAS = {"weather": TOOLS[0]["function"]["parameters"], "now": {"maxProperties": 0}}  # type: ignore[index]  # a literal


def parse_calls(form: ToolFormat, text: str) -> tuple[str, list[tuple[str, Any]]]:
    parser = ToolParser(form)
    calls: list[list[str]] = []
    content = ""
    for delta in (parser.feed(text), parser.finish()):
        content += delta.content
        for call in delta.tool_calls:
            if call.name is not None:
                calls.append([call.name, ""])
            calls[call.index][1] += call.arguments
    return content, [(name, json.loads(arguments)) for name, arguments in calls]


@pytest.mark.parametrize("form", [HERMES, LLAMA, PLAIN_JSON])
@pytest.mark.parametrize("seed", range(4))
def test_required_gives_calls_that_the_parser_reads(
    smollm: Tokenizer, ll_tokenizer: Any, form: ToolFormat, seed: int
) -> None:
    grammar = grammar_for_tools(TOOLS, "required", form)
    assert grammar is not None
    content, calls = parse_calls(form, random_text(smollm, ll_tokenizer, grammar, seed))
    assert content == ""
    assert calls
    for name, arguments in calls:
        jsonschema_rs.validate(SCHEMAS[name], arguments)


@pytest.mark.parametrize("form", [HERMES, LLAMA, PLAIN_JSON])
def test_named_gives_exactly_one_call(smollm: Tokenizer, ll_tokenizer: Any, form: ToolFormat) -> None:
    choice = {"type": "function", "function": {"name": "weather"}}
    grammar = grammar_for_tools(TOOLS, choice, form)
    assert grammar is not None
    content, calls = parse_calls(form, random_text(smollm, ll_tokenizer, grammar, 1))
    assert (content, [name for name, _ in calls]) == ("", ["weather"])
    one = grammar_for_tools(TOOLS, "required", form, parallel=False)
    assert one is not None
    assert len(parse_calls(form, random_text(smollm, ll_tokenizer, one, 2))[1]) == 1


def test_auto_constrains_only_strict_tools(smollm: Tokenizer, ll_tokenizer: Any) -> None:
    assert grammar_for_tools(TOOLS, "auto", HERMES) is None
    assert grammar_for_tools(TOOLS, "none", HERMES) is None
    strict = [{"type": "function", "function": {**TOOLS[0]["function"], "strict": True}}, TOOLS[1]]  # type: ignore[dict-item]  # a literal
    good = '{"name": "weather", "%s": {"city": "Bonn", "days": 3}}'
    bad = '{"name": "weather", "%s": {"city": "Rome", "days": 3}}'
    free = '{"name": "now", "%s": {"anything": 1}}'
    hermes = grammar_for_tools(strict, "auto", HERMES)
    llama = grammar_for_tools(strict, "auto", LLAMA)
    assert hermes is not None
    assert llama is not None
    for call, fits in ((good, True), (bad, False), (free, True)):
        text = "<tool_call>\n" + call % "arguments" + "\n</tool_call>"
        assert accepts(smollm, ll_tokenizer, hermes, text) is fits
        assert accepts(smollm, ll_tokenizer, hermes, "Let me see. " + text) is fits
        assert accepts(smollm, ll_tokenizer, hermes, text + "\n" + text) is fits
        assert accepts(smollm, ll_tokenizer, llama, call % "parameters") is fits
    for grammar in (hermes, llama):
        assert accepts(smollm, ll_tokenizer, grammar, "Just an answer.\n\nWith < and {braces}.")
        assert accepts(smollm, ll_tokenizer, grammar, "")


@pytest.mark.parametrize(
    ("tools", "choice", "param", "message"),
    [
        (TOOLS, {"type": "function", "function": {"name": "f"}}, "tool_choice", "'f'"),
        (TOOLS, "always", "tool_choice", "must be"),
        ([], "required", "tools", "no tools"),
        ([{"type": "function"}], "required", "tools", r"tools\[0\]"),
        (
            [{"function": {"name": "f", "parameters": {"type": "array"}}}],
            "required",
            "tools[0].function.parameters",
            "type object",
        ),
    ],
)
def test_bad_tools_are_named(tools: list[dict[str, Any]], choice: Any, param: str, message: str) -> None:
    with pytest.raises(ParameterError, match=message) as caught:
        grammar_for_tools(tools, choice, HERMES)
    assert caught.value.param == param


ANSWERS = [
    (grammar_from_json_schema(PERSON), '{"name": "A", "age": 3, "mood": null, "tags": []}', '{"name": "A"}'),
    (grammar_from_regex("[a-z/]+"), "a/b", "1"),
    (grammar_from_choices(["yes", "no"]), "yes", "perhaps"),
    (grammar_from_text('root ::= "x" [0-9]+'), "x12", "12"),
    (grammar_from_json_schema({"type": "array"}), "[1]", "text"),
]


@pytest.mark.parametrize(("answer", "good", "bad"), ANSWERS)
@pytest.mark.parametrize("form", [HERMES, LLAMA])
def test_an_answer_is_constrained_and_calls_stay_possible(
    smollm: Tokenizer, ll_tokenizer: Any, form: ToolFormat, answer: str, good: str, bad: str
) -> None:
    grammar = grammar_for_tools(TOOLS, "auto", form, answer=answer)
    assert grammar is not None
    call = f'{{"name": "weather", "{form.arguments_key}": {{"city": "Bonn", "days": 3}}}}'
    call = call if form.bare else f"<tool_call>\n{call}\n</tool_call>"
    assert accepts(smollm, ll_tokenizer, grammar, good)
    assert accepts(smollm, ll_tokenizer, grammar, call)
    assert not accepts(smollm, ll_tokenizer, grammar, bad)
    assert not accepts(smollm, ll_tokenizer, grammar, good + call)
    assert not accepts(smollm, ll_tokenizer, grammar, call.replace("weather", "whether"))
    assert [name for name, _ in parse_calls(form, call)[1]] == ["weather"]
    forced = grammar_for_tools(TOOLS, "required", form, answer=answer)
    assert forced is not None
    assert accepts(smollm, ll_tokenizer, forced, call)
    assert not accepts(smollm, ll_tokenizer, forced, good)
    assert grammar_for_tools(TOOLS, "none", form, answer=answer) == answer


def test_an_answer_that_looks_like_a_call(smollm: Tokenizer, ll_tokenizer: Any) -> None:
    thing = {"type": "object", "properties": {"name": {"type": "string"}, "of": {"$ref": "#/$defs/n"}}}
    answer = grammar_from_json_schema({**thing, "required": ["name", "of"], "$defs": {"n": {"type": "integer"}}})
    grammar = grammar_for_tools(TOOLS, "auto", LLAMA, answer=answer)
    assert grammar is not None
    for text in ('{"name": "weather", "of": 1}', '{"name": "x", "of": 1}', '{"name": "now", "parameters": {"a": 1}}'):
        assert accepts(smollm, ll_tokenizer, grammar, text)
    assert not accepts(smollm, ll_tokenizer, grammar, '{"name": "other", "parameters": {}}')


# --- bad and hostile grammars ----------------------------------------------------------------------


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (nested(100_000), "deeper than"),
        ({"enum": ["x" * 100] * 1000}, "bytes"),
        ({"$ref": "http://example.com/schema"}, r"\$ref may only"),
        ({"properties": {"a": {"$ref": "file:///etc/passwd"}}}, r"\$ref may only"),
        ([], "must be an object"),
        (None, "must be an object"),
        ({"minimum": float("nan")}, "not plain JSON"),
    ],
)
def test_schemas_refused_at_once(schema: Any, message: str) -> None:
    with pytest.raises(ParameterError, match=message) as caught:
        grammar_from_json_schema(schema)
    assert caught.value.param == "response_format"


@pytest.mark.parametrize("text", ["", "x" * (MAX_GRAMMAR_BYTES + 1)])
def test_texts_refused_at_once(text: str) -> None:
    for make in (grammar_from_regex, grammar_from_lark, grammar_from_text):
        with pytest.raises(ParameterError):
            make(text)
    with pytest.raises(ParameterError, match="choice"):
        grammar_from_choices([])


WRONG = [
    (grammar_from_regex("(a"), "regex"),
    (grammar_from_regex("(" * 20000 + ")" * 20000), "regex"),
    (grammar_from_lark("start: nothing"), "nothing"),
    (grammar_from_lark("start: " + "(" * 9000 + '"a"' + ")" * 9000), "nested"),
    (grammar_from_json_schema({"type": "string", "not": {"const": "a"}}), "not"),
    (grammar_from_json_schema({"type": "nonsense"}), "nonsense"),
    (grammar_from_json_schema({"$ref": "#"}), "refers only to itself"),
    (grammar_from_lark("start: start"), "refers only to itself"),
    (grammar_from_text("root ::= root"), "refers only to itself"),
    (grammar_from_regex(r"[^\s\S]"), "accepts no text"),
    (grammar_from_json_schema({"type": "number", "minimum": 1e308}), "too large; use at most"),
    ("x" * (MAX_GRAMMAR_BYTES + 1), "bytes"),
    ("{}", ""),
    ("", ""),
]
GOOD = [
    any_json_object(),
    grammar_from_json_schema(PERSON),
    grammar_from_regex("[a-z]+"),
    grammar_from_lark("start: <|im_start|> /[a-z]+/"),
]


@pytest.fixture(scope="module")
def checker(smollm: Tokenizer) -> Iterator[GrammarChecker]:
    checker = GrammarChecker(smollm, WIDTH)
    yield checker
    checker.close()


def test_good_grammars_pass(checker: GrammarChecker, ll_tokenizer: Any) -> None:
    for grammar in GOOD:
        checker.check(grammar)
        check_grammar(grammar, ll_tokenizer)


@pytest.mark.parametrize(("grammar", "message"), WRONG)
def test_wrong_grammars_are_parameter_errors(
    checker: GrammarChecker, ll_tokenizer: Any, grammar: str, message: str
) -> None:
    for check in (lambda: checker.check(grammar, param="f"), lambda: check_grammar(grammar, ll_tokenizer, param="f")):
        with pytest.raises(ParameterError, match=f"^f: .*{message}") as caught:
            check()
        assert caught.value.param == "f"
        assert len(str(caught.value)) < 400


def test_a_slow_grammar_is_cut_off_and_the_next_one_served(
    checker: GrammarChecker, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = {"type": "object", "properties": {f"k{i}" * 5: {"type": "string"} for i in range(1200)}}
    slow = grammar_from_json_schema(schema)
    monkeypatch.setattr(check_module, "CHECK_SECONDS", 0.001)
    with pytest.raises(ParameterError, match="too complex"):
        checker.check(slow, param="response_format")
    monkeypatch.undo()
    checker.check(grammar_from_regex("[0-9]+"))


def test_the_child_runs_nothing_from_the_current_folder_and_sees_no_secret(
    smollm: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("resource", "struct", "msgspec", "json", "gllm"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GLLM_API_KEY", "secret")
    monkeypatch.setenv("GLLM_CONFIG", "secret")
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("PYTHONPATH", os.pathsep + os.environ.get("PYTHONPATH", ""))
    checker = GrammarChecker(smollm, WIDTH)
    try:
        checker.check(grammar_from_regex("a+"))
        child = checker._child
        assert child is not None
        assert "secret" not in Path(f"/proc/{child.pid}/environ").read_text()
    finally:
        checker.close()
    assert not (tmp_path / "ran").exists()


def test_a_killed_child_leaves_no_zombie(smollm: Tokenizer) -> None:
    checker = GrammarChecker(smollm, WIDTH)
    try:
        checker.check(grammar_from_regex("a+"))
        child = checker._child
        assert child is not None
        child.kill()
        deadline = time.monotonic() + 10
        while Path(f"/proc/{child.pid}").exists():
            assert time.monotonic() < deadline, "it was not waited for"
            time.sleep(0.01)
        checker.check(grammar_from_regex("b+"))
    finally:
        checker.close()


def test_results_of_checks_are_cached(smollm: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    checker = GrammarChecker(smollm, WIDTH)
    monkeypatch.setattr(checker, "_ask", lambda grammar: asked.append(grammar) or ("bad" if grammar == "b" else ""))
    monkeypatch.setattr(check_module, "MAX_CACHED", 2)
    for grammar in ("a", "a", "c", "a", "d", "a", "c"):
        checker.check(grammar)
    assert asked == ["a", "c", "d", "c"]
    for _ in range(2):
        with pytest.raises(ParameterError, match="bad"):
            checker.check("b")
    assert asked.count("b") == 1


# --- tokenizers ------------------------------------------------------------------------------------


def test_masks_have_the_width_of_the_logits(smollm: Tokenizer, ll_tokenizer: Any) -> None:
    assert ll_tokenizer.vocab_size == WIDTH
    mask = new_matcher(ll_tokenizer, grammar_from_regex("(.|\n)*")).compute_bitmask()
    tokens = allowed(mask)
    assert max(tokens) < smollm.vocab_size
    assert smollm.special_token_ids & set(tokens) == set(smollm.eos_token_ids)


def test_sentencepiece_tokenizer(sentencepiece: Tokenizer) -> None:
    ll_tokenizer = build_ll_tokenizer(sentencepiece, sentencepiece.vocab_size + 5)
    for text in ("hello world", "the a", "h\u00e9"):
        ids = sentencepiece.encode(text, add_special_tokens=False)
        matcher = new_matcher(ll_tokenizer, grammar_from_choices([" " + text]))
        assert matcher.consume_tokens(ids)
        assert allowed(matcher.compute_bitmask()) == [2]


def test_unsuitable_tokenizers_are_refused(smollm: Tokenizer) -> None:
    with pytest.raises(ValueError, match="logits"):
        build_ll_tokenizer(smollm, 100)
