"""Grammar-constrained rows: an llguidance matcher per sequence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
                raise ValueError(_first_line(self._matcher))

    def allowed(self, eos_token_ids: tuple[int, ...]) -> npt.NDArray[np.bool_]:
        """[vocab] which tokens may come next; when the grammar is complete, only EOS."""
        if self._matcher.is_stopped():
            mask = np.zeros(self._vocab_size, np.bool_)
            mask[list(eos_token_ids)] = True
            return mask
        llguidance.numpy.fill_next_token_bitmask(self._matcher, self._bitmask, 0)
        if self._matcher.is_error():
            raise ValueError(_first_line(self._matcher))
        bits = np.unpackbits(self._bitmask.view(np.uint8)[0], bitorder="little")
        return bits[: self._vocab_size].astype(np.bool_)


class GrammarFactory:
    """Builds matchers; the tokenizer behind them is loaded when the first grammar arrives."""

    def __init__(self, load: Callable[[], Callable[[str], Any]], vocab_size: int) -> None:
        """`load()` returns a function from a grammar to an llguidance matcher."""
        self._load = load
        self._new_matcher: Callable[[str], Any] | None = None
        self._vocab_size = vocab_size

    def start(self, grammar: str, output: list[int]) -> GrammarState:
        """A matcher that has consumed `output`. Raises ValueError on a bad grammar."""
        if self._new_matcher is None:
            self._new_matcher = self._load()
        matcher = self._new_matcher(grammar)
        if matcher.is_error():
            raise ValueError(_first_line(matcher))
        state = GrammarState(matcher, self._vocab_size)
        state.advance(output)
        return state


def _first_line(matcher: Any) -> str:
    """llguidance's reason without the dump of its state that may follow."""
    reason = str(matcher.get_error() or "the token is not allowed").splitlines()[0]
    return f"grammar: {reason[:300]}"
