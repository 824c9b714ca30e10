"""Grammar-constrained rows: a thread compiles grammars; each sequence has its own matcher."""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import llguidance.numpy
import numpy as np
import numpy.typing as npt

from gllm.text.grammar.matcher import explain

logger = logging.getLogger("gllm.worker")

GRACE_SECONDS = 2.0
"""CPU time that all sequences of a grammar together may take to follow it, before the rate counts."""
SECONDS_A_TOKEN = 0.005
"""CPU time for each token beyond that. An ordinary grammar takes a tenth of this."""

Matcher = Any
"""llguidance.LLMatcher"""


class CompiledGrammar:
    """The matcher that sequences copy, and the CPU time that following it has taken so far."""

    def __init__(self, matcher: Matcher) -> None:
        self.matcher = matcher
        self._seconds = 0.0
        self._tokens = 0

    def account(self, seconds: float) -> None:
        """Count one token. Raises ValueError if the grammar takes too long: its own requests fail, not the batch."""
        self._seconds += seconds
        self._tokens += 1
        if self._seconds > GRACE_SECONDS + SECONDS_A_TOKEN * self._tokens:
            raise ValueError("the grammar cannot be followed: it is too complex, each token takes too long")


class GrammarState:
    """The position of one sequence in its grammar."""

    def __init__(self, compiled: CompiledGrammar, vocab_size: int) -> None:
        self._compiled = compiled
        self._matcher = compiled.matcher.deep_copy()
        self._bitmask = llguidance.numpy.allocate_token_bitmask(1, vocab_size)
        self._vocab_size = vocab_size

    def advance(self, tokens: list[int]) -> None:
        """Consume sampled tokens. Raises ValueError if one does not fit (EOS after the end always does)."""
        for token in tokens:
            if self._matcher.is_stopped():
                return
            if not self._matcher.consume_token(token):
                raise ValueError(_reason(self._matcher))

    def allowed(self, eos_token_ids: tuple[int, ...]) -> npt.NDArray[np.bool_]:
        """Return the tokens that may come next, [vocab] bool. Raises ValueError if the grammar cannot be followed.

        After the grammar's end only EOS may come, or any token with ignore_eos.
        """
        if self._matcher.is_error():
            raise ValueError(_reason(self._matcher))
        if self._matcher.is_stopped():
            mask = np.full(self._vocab_size, not eos_token_ids)
            mask[list(eos_token_ids)] = True
            return mask
        began = time.thread_time()
        llguidance.numpy.fill_next_token_bitmask(self._matcher, self._bitmask, 0)
        if self._matcher.is_error():
            raise ValueError(_reason(self._matcher))
        self._compiled.account(time.thread_time() - began)
        bits = np.unpackbits(self._bitmask.view(np.uint8)[0], bitorder="little")
        return bits[: self._vocab_size].astype(np.bool_)


class GrammarStore:
    """Compiled grammars, by the numbers that the engine gave them.

    Compiling releases the interpreter lock and has a low priority, so that steps continue meanwhile. `load` makes
    llguidance's tokenizer in the same thread.
    """

    def __init__(self, load: Callable[[], Callable[[str], Matcher]], vocab_size: int) -> None:
        """load: returns a function from a grammar to a matcher; raises ValueError if the model can have none."""
        self._load = load
        self._vocab_size = vocab_size
        self._new_matcher: Callable[[str], Matcher] | None = None
        self._compiled: dict[int, CompiledGrammar] = {}
        self._live: set[int] = set()
        self._jobs: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        # The thread is a daemon, so that a worker that ends does not wait for a grammar.
        threading.Thread(target=self._work, name="grammar", daemon=True).start()

    def preload(self) -> None:
        """Load the tokenizer now, in the thread: loading may hold the interpreter lock for a while."""
        self._jobs.put(self._ready)

    def prepare(self, number: int, grammar: str, done: Callable[[int, str], None], http_id: str = "") -> None:
        """Compile in the thread, which then calls done(number, error); the error is empty if it succeeded.

        http_id: X-Request-Id of the first request with it, for log lines.
        """
        self._live.add(number)
        self._jobs.put(lambda: done(number, self._compile(number, grammar, http_id)))

    def compile(self, number: int, grammar: str) -> str:
        """Compile in the calling thread. Returns the error, empty if there is none."""
        self._live.add(number)
        return self._compile(number, grammar)

    def _compile(self, number: int, grammar: str, http_id: str = "") -> str:
        try:
            if (new_matcher := self._ready()) is None:
                return "this model's tokenizer cannot follow grammars"
            matcher = new_matcher(grammar)
            if not matcher.is_error():
                matcher.compute_bitmask()  # copies share the caches that the first mask fills
            if matcher.is_error():
                return _reason(matcher)
        except Exception as error:
            logger.exception("a grammar could not be compiled", extra={"request_id": http_id})
            return f"the grammar could not be compiled: {type(error).__name__}"
        if number in self._live:
            self._compiled[number] = CompiledGrammar(matcher)
        return ""

    def drop(self, number: int) -> None:
        """Forget a grammar: no new sequence has it."""
        self._live.discard(number)
        self._compiled.pop(number, None)

    def start(self, number: int, output: list[int]) -> GrammarState:
        """Return the state after `output`. Raises ValueError if the output does not fit."""
        state = GrammarState(self._compiled[number], self._vocab_size)
        state.advance(output)
        return state

    def _work(self) -> None:
        # On Linux each thread has its own priority.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 5)
        while True:
            self._jobs.get()()

    def _ready(self) -> Callable[[str], Matcher] | None:
        if self._new_matcher is None:
            try:
                self._new_matcher = self._load()
            except ValueError as error:
                logger.warning("no grammars: %s", error)
        return self._new_matcher


def _reason(matcher: Matcher) -> str:
    error = matcher.get_error()
    return f"the grammar cannot be followed: {explain(error) if error else 'a token does not fit it'}"
