"""EBNF grammars: texts that match, texts that do not, and errors."""

from __future__ import annotations

from typing import Any

import pytest

from gllm.sampling_params import ParameterError
from gllm.text.grammar import build_ll_tokenizer, grammar_from_text, new_matcher
from gllm.text.grammar.ebnf import is_ebnf
from gllm.text.tokenizer import Tokenizer

JSON = r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) # escapes
  )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
"""
SQL = """
# a comment
root ::= select-statement  # used before it is defined
select-statement ::=
   "SELECT " column " from " table
   | "none"
column ::= "col_1 " | "col_2 "
table ::= "table_1 " | "table_2 "
"""


@pytest.fixture(scope="module")
def ll_tokenizer(smollm: Tokenizer) -> Any:
    return build_ll_tokenizer(smollm, smollm.vocab_size)


@pytest.mark.parametrize(
    ("grammar", "good", "bad"),
    [
        ('root ::= "Hello" | "Hi"', ["Hello", "Hi"], ["H", "HelloHi"]),
        ('root ::= 2nd | r-1\n2nd ::= "b"\nr-1 ::= "a"', ["a", "b"], ["ab"]),
        (SQL, ["SELECT col_1  from table_2 ", "none"], ["SELECT", "select-statement"]),
        (JSON, ['{"a": [1, 2.5, true, null, "x\\n"]}', "{}"], ['{"a"}', "[1]"]),
        ('root ::= [a-z]+ "x"', ["abx", "xx"], ["ab", "x"]),  # the class must not swallow the last x
        ('root ::= ("if" | [a-z]+) ";"', ["ifx;", "if;", "i;"], [";"]),
        ('root ::= "" | "(" root ")"', ["", "(())"], ["("]),
        ('root ::= expr\nexpr ::= expr "+" num | num\nnum ::= [0-9]+', ["1+22+3"], ["1+"]),
        ('root ::= . "/" [/"]', ["a//", '\n/"'], ["ab/"]),
        (r'root ::= "caf\u00e9" "\U0001F600" "\x41\t\\\""', ['caf\u00e9\U0001f600A\t\\"'], []),
        (r"root ::= [^\]\-a-c]{2,3}", ["xyz", "--"[:0] + "de"], ["x", "]x", "-x", "ax", "wxyz"]),
        ('root ::= [0-9]{3} "a"{,2} "b"{1,}', ["123b", "123aabb"], ["12b", "123aaab", "123a"]),
        ('root ::= fooBar foo_bar foo-bar\nfooBar ::= "a"\nfoo_bar ::= "b"\nfoo-bar ::= "c"', ["abc"], ["ab"]),
        ('root ::= "\u4f60\u597d" [\u4e00-\u9fff]*', ["\u4f60\u597d\u4e16"], ["\u4f60"]),
    ],
)
def test_texts(smollm: Tokenizer, ll_tokenizer: Any, grammar: str, good: list[str], bad: list[str]) -> None:
    made = grammar_from_text(grammar)

    def accepts(text: str) -> bool:
        matcher = new_matcher(ll_tokenizer, made)
        assert not matcher.is_error(), matcher.get_error()
        ids = smollm.encode(text)
        return matcher.validate_tokens(ids) == len(ids) and matcher.consume_tokens(ids) and matcher.is_accepting()

    assert [text for text in good if not accepts(text)] == []
    assert [text for text in bad if accepts(text)] == []


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        ("root ::= a", "line 1: no rule 'a'"),
        ('x ::= "a"', "no rule 'root'"),
        ('root ::= "a"\n\nb ::= "', "line 3: cannot read"),
        ("root ::= [z-a]", "backwards"),
        ('root ::= ("a"', r"'\)' expected, found the end"),
        ('root ::= "a" )', "found '\\)'"),
        ('root ::= "a"{}', "needs a number"),
        ('root ::= "a"{3,2}', "must rise"),
        ('root ::= "a"{1,999999}', "at most"),
        ('root ::= "a"\nroot ::= "b"', "line 2: .* twice"),
        (r'root ::= "\q"', "escape"),
        (r'root ::= "\ud800"', "not a character"),
        ("root ::= []", "empty"),
        ("root ::= " + "(" * 5000, "nested"),
    ],
)
def test_errors_name_the_line(grammar: str, message: str) -> None:
    with pytest.raises(ParameterError, match=f"^guided_grammar: .*{message}") as caught:
        grammar_from_text(grammar, param="guided_grammar")
    assert caught.value.param == "guided_grammar"


def test_lark_stays_lark() -> None:
    assert not is_ebnf('start: a\na: "root ::= x"')
    assert is_ebnf("  root::= x")
