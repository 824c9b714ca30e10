"""Stop strings: finds the first of many in a text that comes in pieces."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

_CACHED_STATES = 1024


class StopStrings:
    """A set of stop strings as an automaton. It is immutable: all answers of a request share one.

    A state is the longest end of the text that is the beginning of a stop string. The strings are sorted, and prefixes
    are found by bisection. Building it takes one sort. A character takes two lookups on average: a character makes the
    state one longer, and each lookup that fails makes it one shorter.
    """

    def __init__(self, strings: Iterable[str] = ()) -> None:
        self._set = frozenset(strings)
        self._sorted = sorted(self._set)
        self._lengths = sorted({len(text) for text in self._set}, reverse=True)
        self._last = frozenset(text[-1] for text in self._set)
        self.first = frozenset(text[0] for text in self._set)
        """The first characters of all stop strings."""
        self._ends: dict[str, str | None] = {}
        """A cache of `completed`: state to stop string."""

    def __bool__(self) -> bool:
        return bool(self._sorted)

    def advance(self, state: str, char: str) -> str:
        """Return the state after one more character."""
        if not state and char not in self.first:
            return ""
        state += char
        while state and not self._is_prefix(state):
            state = state[1:]
        return state

    def completed(self, state: str) -> str | None:
        """Return the longest stop string with which the text ends. Such a stop string is always an end of the state."""
        if not state or state[-1] not in self._last:
            return None
        if state not in self._ends:
            if len(self._ends) >= _CACHED_STATES:
                self._ends.clear()
            self._ends[state] = self._find_longest_end(state)
        return self._ends[state]

    def _is_prefix(self, text: str) -> bool:
        index = bisect_left(self._sorted, text)
        return index < len(self._sorted) and self._sorted[index].startswith(text)

    def _find_longest_end(self, state: str) -> str | None:
        for length in self._lengths:
            if length <= len(state) and state[-length:] in self._set:
                return state[-length:]
        return None


class StopScanner:
    """Finds the first stop string in one text, and holds text that may become one."""

    def __init__(self, stops: StopStrings, include: bool) -> None:
        """include: whether the stop string is part of the text."""
        self.matched: str | None = None
        self._stops = stops
        self._include = include
        self._held = ""
        """The automaton's state: text that may become a stop string."""

    def feed(self, text: str, *, ignore: bool = False) -> str:
        """Return the text that cannot be part of a stop string.

        ignore: a stop string that ends in `text` does not count; one that begins in it and ends later does.
        """
        stops = self._stops
        if not self._held and stops.first.isdisjoint(text):
            return text
        state = self._held
        for end, char in enumerate(text, start=1):
            state = stops.advance(state, char)
            if not ignore and (matched := stops.completed(state)) is not None:
                self.matched = matched
                found = self._take(text[:end])
                return found if self._include else found[: -len(matched)]
        text = self._take(text)
        self._held = state
        return text[: len(text) - len(state)]

    def take_held(self) -> str:
        return self._take("")

    def _take(self, text: str) -> str:
        text, self._held = self._held + text, ""
        return text
