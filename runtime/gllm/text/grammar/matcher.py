"""llguidance's tokenizer and matchers, under limits on what a grammar may cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from gllm.sampling_params import MAX_GRAMMAR_BYTES, ParameterError
from gllm.text.grammar.errors import explain

if TYPE_CHECKING:
    from gllm.text.tokenizer import Tokenizer


def build_ll_tokenizer(tokenizer: Tokenizer, logits_width: int) -> LLTokenizer:
    """The tokenizer as llguidance needs it; takes about half a second, so keep it.

    logits_width: the model's vocabulary with padding. Masks have that many bits; ids the tokenizer does not know
    are never allowed. Raises ValueError if the logits are narrower than the vocabulary or there is no EOS.
    """
    if logits_width < tokenizer.vocab_size:
        raise ValueError(f"the tokenizer has {tokenizer.vocab_size} tokens, but the model only {logits_width} logits")
    if not tokenizer.eos_token_ids:
        raise ValueError("the tokenizer has no EOS token: constrained generation could not end")
    return LLTokenizer(tokenizer.to_json(), n_vocab=logits_width, eos_token=list(tokenizer.eos_token_ids))


def grammar_limits() -> LLParserLimits:
    """About 10 ms of lexer work to begin with and for a step, and some 100 MB of lexer states at most."""
    return LLParserLimits(
        initial_lexer_fuel=500_000,
        step_lexer_fuel=150_000,
        max_lexer_states=50_000,
        max_grammar_size=200_000,
        verbose_errors=False,
    )


def new_matcher(ll_tokenizer: LLTokenizer, grammar: str) -> LLMatcher:
    """The state of one request. It never raises: see `LLMatcher.is_error` and `get_error`."""
    return LLMatcher(ll_tokenizer, grammar, log_level=0, limits=grammar_limits())


def check_grammar(grammar: str, ll_tokenizer: LLTokenizer, *, param: str = "grammar") -> None:
    """Compiles the grammar and its first mask in this process, under `grammar_limits`.

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
