"""Schemas of libraries with keywords that llguidance does not take: values that match, and values that do not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gllm.sampling_params import ParameterError
from gllm.text.grammar import build_ll_tokenizer, check_grammar, grammar_from_json_schema, new_matcher
from gllm.text.tokenizer import Tokenizer

DECIMAL = r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"
BOUNDED_DECIMAL = r"^(?!^[-+.]*$)[+-]?0*(?:\d{0,8}|(?=[\d.]{1,11}0*$)\d{0,8}\.\d{0,2}0*$)"
EMAIL = r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$"
A = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
B = {"type": "object", "properties": {"b": {"type": "integer"}}, "required": ["b"]}


@pytest.fixture(scope="module")
def ll_tokenizer(smollm: Tokenizer) -> Any:
    return build_ll_tokenizer(smollm, smollm.vocab_size)


def text(pattern: str) -> dict[str, Any]:
    return {"type": "string", "pattern": pattern}


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        (text(DECIMAL), ["1", "-1.5", "1.", ".5"], ["", ".", "+", "1.2.3"]),
        ({"anyOf": [{"type": "number"}, text(DECIMAL)]}, [1.5, "1.5"], ["."]),
        ({"anyOf": [{"type": "number"}, text(BOUNDED_DECIMAL), {"type": "null"}]}, [1.5, None], ["1.5"]),
        (text(EMAIL), ["a@b.co", "a.b'c.d@b.co"], [".a@b.co", "a..b@b.co", "a.@b.co", "a@b"]),
        (text(r"^(?=.*[A-Z])(?=.*[()\d])[A-Za-z\d]{4,}$"), ["abC1"], ["abcd", "AB1", "abC1-"]),
        ({"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}, [-5, 0, 2**60], [1.5]),
        ({"type": "number", "maximum": 1e308}, [1e15], ["a"]),
        ({"allOf": [A, B], "unevaluatedProperties": False}, [{"a": 1, "b": 2}], [{"a": 1}, {"a": 1, "b": 2, "c": 3}]),
        ({"allOf": [A], "unevaluatedProperties": False}, [{"a": 1}], [{"a": 1, "b": 2}]),
        ({"$defs": {"Page[Item]": A}, "$ref": "#/$defs/Page[Item]"}, [{"a": 1}], [{}]),
        ({"$defs": {"List`1 <é>": A}, "$ref": "#/$defs/List`1 <é>"}, [{"a": 1}], [{}]),
        (
            {**A, "title": None, "$defs": None, "additionalProperties": None, "required": None, "minProperties": None},
            [{"a": 1}, {}],
            [{"b": 1}],
        ),
        ({"type": "integer", "minimum": None, "enum": None, "format": None}, [5], ["a"]),
        ({"const": None}, [None], [1]),
        ({"properties": {"const": {"const": None}, "enum": A, "$ref": {}, "pattern": {"enum": ["("]}}},
         [{"const": None, "enum": {"a": 1}, "$ref": 1, "pattern": "("}], [{"const": 1}]),
    ],
)  # fmt: skip
def test_values_that_match_a_schema(
    smollm: Tokenizer, ll_tokenizer: Any, schema: Any, good: list[Any], bad: list[Any]
) -> None:
    grammar = grammar_from_json_schema(schema)
    check_grammar(grammar, ll_tokenizer)
    for value in [*good, *bad]:
        ids = smollm.encode(json.dumps(value), False)
        matcher = new_matcher(ll_tokenizer, grammar)
        fits = matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()
        assert fits == (value in good), value


@pytest.mark.parametrize("pattern", [r"^(?!a)b$", r"a(?=b)", r"^(?=a)b|c$", r"(?<!a)b", r"^(?=a"])
def test_other_look_around_is_refused(ll_tokenizer: Any, pattern: str) -> None:
    with pytest.raises(ParameterError, match="grammar"):
        check_grammar(grammar_from_json_schema(text(pattern)), ll_tokenizer)
