"""Grammars of the live requests. The rank that samples compiles each distinct one once, outside its steps."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from gllm.engine.sequence import Sequence
from gllm.wire.messages import DropGrammar, PrepareGrammar

MAX_IDLE = 8
"""Compiled grammars kept for later requests after their last request ended. Most compile within a millisecond; those
that take long may need a hundred megabytes."""


@dataclass(slots=True)
class _Grammar:
    number: int
    text: str
    compiled: bool = False
    num_users: int = 0
    waiting: dict[Sequence, None] = field(default_factory=dict)


class Grammars:
    """Knows whether a request's grammar is compiled, and collects messages for the worker."""

    def __init__(self) -> None:
        self._by_text: dict[str, _Grammar] = {}
        self._by_number: dict[int, _Grammar] = {}
        self._idle: OrderedDict[str, None] = OrderedDict()
        self._count = 0
        self._messages: list[PrepareGrammar | DropGrammar] = []

    def take_messages(self) -> list[PrepareGrammar | DropGrammar]:
        """Return the messages since the last call; they go to the rank that samples before its next step."""
        messages, self._messages = self._messages, []
        return messages

    def claim(self, seq: Sequence) -> bool:
        """Add a new request. Returns whether its grammar is compiled; if not, `compiled` returns the request later."""
        text = seq.sampling.grammar
        if text is None:
            return True
        grammar = self._by_text.get(text)
        if grammar is None:
            self._count += 1
            grammar = self._by_text[text] = self._by_number[self._count] = _Grammar(self._count, text)
            self._messages.append(PrepareGrammar(grammar.number, text, seq.origin.http_id))
        self._idle.pop(text, None)
        grammar.num_users += 1
        seq.grammar = grammar.number
        if not grammar.compiled:
            grammar.waiting[seq] = None
        return grammar.compiled

    def release(self, seq: Sequence) -> None:
        """Remove a request that ended."""
        grammar = self._by_number.get(seq.grammar)
        if grammar is None:
            return
        seq.grammar = 0
        grammar.waiting.pop(seq, None)
        grammar.num_users -= 1
        if not grammar.num_users:
            self._idle[grammar.text] = None
            while len(self._idle) > MAX_IDLE:
                oldest, _ = self._idle.popitem(last=False)
                self._forget(self._by_text[oldest])

    def compiled(self, number: int, *, failed: bool) -> list[Sequence]:
        """Record that a grammar is compiled or has failed. Returns the requests that waited for it, by arrival."""
        grammar = self._by_number.get(number)
        if grammar is None:
            return []
        waiting, grammar.waiting = list(grammar.waiting), {}
        grammar.compiled = not failed
        if failed:
            self._idle.pop(grammar.text, None)
            self._forget(grammar)
        return waiting

    def _forget(self, grammar: _Grammar) -> None:
        del self._by_text[grammar.text], self._by_number[grammar.number]
        self._messages.append(DropGrammar(grammar.number))
