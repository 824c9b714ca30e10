"""Grammars that constrain generation: from schemas and texts to llguidance's strings, their check, and matchers.

`SamplingParams.grammar` holds such a string.
"""

from __future__ import annotations

from gllm.text.grammar.build import (
    any_json_object,
    grammar_from_choices,
    grammar_from_json_schema,
    grammar_from_lark,
    grammar_from_regex,
    grammar_from_text,
)
from gllm.text.grammar.check import GrammarChecker
from gllm.text.grammar.matcher import build_ll_tokenizer, check_grammar, new_matcher
from gllm.text.grammar.tools import grammar_for_tools

__all__ = [
    "GrammarChecker",
    "any_json_object",
    "build_ll_tokenizer",
    "check_grammar",
    "grammar_for_tools",
    "grammar_from_choices",
    "grammar_from_json_schema",
    "grammar_from_lark",
    "grammar_from_regex",
    "grammar_from_text",
    "new_matcher",
]
