"""llguidance's tokenizer and matchers with limits on time and memory, and its errors in plain words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from gllm.sampling_params import MAX_GRAMMAR_BYTES, ParameterError

if TYPE_CHECKING:
    from gllm.text.tokenizer import Tokenizer

MAX_ERROR_CHARS = 300

_EXPLANATIONS = (
    ("NoExtension", "it accepts no text: nothing fits it, or a rule or $ref refers only to itself"),
    ("panic: ", "it is too large or too complex"),
    ("Failed to generate regex for", "a minimum or maximum of a number is too large; use at most 1e15"),
    ("0(0(0(0(", "a minimum or maximum of a number is too close to zero"),
    ("Current row has", "it is too complex: too many alternatives are possible at one place"),
    ("Too many items", "it is too complex: too many alternatives are possible at one place"),
    ("too many expressions constructed", "it is too complex: following it takes too much memory"),
    ("initial lexer configuration (grammar) too big", "it is too complex"),
    ("fuel exhausted", "it is too complex: following it takes too long"),
    (" lex fuel;", "it is too complex: following it takes too long"),
    ("with total fuel", "it is too complex: following it takes too long"),
)
"""A part of a message of llguidance, and its meaning. The first that is found counts."""


def build_ll_tokenizer(tokenizer: Tokenizer, logits_width: int) -> LLTokenizer:
    """Make llguidance's tokenizer. It takes about half a second: keep it.

    logits_width: the model's vocabulary with padding. Masks have that many bits; ids that the tokenizer does not have
    are never allowed. Raises ValueError if the logits are narrower than the vocabulary or there is no EOS.
    """
    if logits_width < tokenizer.vocab_size:
        raise ValueError(f"the tokenizer has {tokenizer.vocab_size} tokens, but the model only {logits_width} logits")
    if not tokenizer.eos_token_ids:
        raise ValueError("the tokenizer has no EOS token: constrained generation could not end")
    return LLTokenizer(tokenizer.to_json(), n_vocab=logits_width, eos_token=list(tokenizer.eos_token_ids))


def grammar_limits() -> LLParserLimits:
    """Return limits of about 10 ms of lexer work at the start and for each step, and some 100 MB of lexer states."""
    return LLParserLimits(
        initial_lexer_fuel=500_000,
        step_lexer_fuel=150_000,
        max_lexer_states=50_000,
        max_grammar_size=200_000,
        verbose_errors=False,
    )


def new_matcher(ll_tokenizer: LLTokenizer, grammar: str) -> LLMatcher:
    """Make the matcher of one sequence. It never raises: see `LLMatcher.is_error` and `get_error`."""
    return LLMatcher(ll_tokenizer, grammar, log_level=0, limits=grammar_limits())


def check_grammar(grammar: str, ll_tokenizer: LLTokenizer, *, param: str = "grammar") -> None:
    """Compile the grammar and its first mask in this process, under `grammar_limits`.

    For grammars from a client use `GrammarChecker`, which also bounds time and memory. Raises ParameterError(param).
    """
    size = len(grammar.encode("utf-8", "replace"))
    if size > MAX_GRAMMAR_BYTES:
        raise ParameterError(param, f"{param}: the grammar has {size} bytes; at most {MAX_GRAMMAR_BYTES} are allowed")
    matcher = new_matcher(ll_tokenizer, grammar)
    if not matcher.is_error():
        matcher.compute_bitmask()
    if matcher.is_error():
        raise ParameterError(param, f"{param}: {explain(matcher.get_error())}")


def explain(error: str) -> str:
    """Return the reason why a grammar failed, without the dump of llguidance's state that may follow the message."""
    text = error.partition("<state>")[0].partition("<backtrace>")[0].replace("<non-verbose/>", "").strip()
    for sign, meaning in _EXPLANATIONS:
        if sign in text:
            return meaning
    return text if len(text) <= MAX_ERROR_CHARS else text[:MAX_ERROR_CHARS] + "..."
