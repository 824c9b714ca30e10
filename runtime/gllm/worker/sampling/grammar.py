"""Grammar-constrained rows: an llguidance matcher per sequence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llguidance
import llguidance.numpy
import numpy as np
import numpy.typing as npt


class GrammarState:
    """Where one sequence stands in its grammar."""

    def __init__(self, matcher: Any, vocab_size: int) -> None:
        self._matcher = matcher
        self._bitmask = llguidance.numpy.allocate_token_bitmask(1, vocab_size)
        self._vocab_size = vocab_size

    def advance(self, tokens: list[int]) -> None:
        """Consume sampled tokens. Raises ValueError if one does not fit (EOS after the end always does)."""
        for token in tokens:
            if self._matcher.is_stopped():
                return
            if not self._matcher.consume_token(token):
                reason = self._matcher.get_error() or "the token is not allowed by the grammar"
                raise ValueError(f"grammar: {reason}")

    def allowed(self, eos_token_ids: tuple[int, ...]) -> npt.NDArray[np.bool_]:
        """[vocab] which tokens may come next; when the grammar is complete, only EOS."""
        if self._matcher.is_stopped():
            mask = np.zeros(self._vocab_size, np.bool_)
            mask[list(eos_token_ids)] = True
            return mask
        llguidance.numpy.fill_next_token_bitmask(self._matcher, self._bitmask, 0)
        if self._matcher.is_error():
            raise ValueError(f"grammar: {self._matcher.get_error()}")
        bits = np.unpackbits(self._bitmask.view(np.uint8)[0], bitorder="little")
        return bits[: self._vocab_size].astype(np.bool_)


class GrammarFactory:
    """Builds matchers; the tokenizer is loaded when the first grammar arrives."""

    def __init__(self, load_ll_tokenizer: Callable[[], Any], vocab_size: int) -> None:
        self._load = load_ll_tokenizer
        self._tokenizer: Any = None
        self._vocab_size = vocab_size

    def start(self, grammar: str, output: list[int]) -> GrammarState:
        """A matcher that has consumed `output`. Raises ValueError on a bad grammar."""
        if self._tokenizer is None:
            self._tokenizer = self._load()
        matcher = llguidance.LLMatcher(self._tokenizer, grammar)
        if matcher.is_error():
            raise ValueError(f"grammar: {matcher.get_error()}")
        state = GrammarState(matcher, self._vocab_size)
        state.advance(output)
        return state
