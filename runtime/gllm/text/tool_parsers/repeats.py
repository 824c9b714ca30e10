"""Ends an answer at a call that the model has made before, word for word.

A model that was not trained on tools repeats its calls until `max_tokens`, when a grammar makes it call at all.
"""

from __future__ import annotations

from gllm.text.tool_parsers.stream import ParsedDelta, ToolCallDelta, ToolParser


class WithoutRepeats:
    """A tool parser that holds a call back while it may be a repeat; once one is, nothing more comes out."""

    def __init__(self, parser: ToolParser) -> None:
        self._parser = parser
        self._calls: list[tuple[str, str]] = []
        """Name and arguments of each call, as far as they are written."""
        self._held: list[ToolCallDelta] = []
        self.ended = False
        """A call was repeated: the answer should end."""

    def feed(self, text: str) -> ParsedDelta:
        return self._without(self._parser.feed(text))

    def finish(self) -> ParsedDelta:
        """A call that the end cut off is no repeat yet: it comes out as it is."""
        last = self._without(self._parser.finish())
        if not self.ended:
            last.tool_calls += self._release()
        return last

    def _without(self, parsed: ParsedDelta) -> ParsedDelta:
        if self.ended:
            return ParsedDelta()
        passed: list[ToolCallDelta] = []
        for delta in parsed.tool_calls:
            if delta.index == len(self._calls):
                passed += self._release()
                self._calls.append(("", ""))
            name, arguments = self._calls[-1]
            name, arguments = delta.name if delta.name is not None else name, arguments + delta.arguments
            self._calls[-1] = (name, arguments)
            self._held.append(delta)
            earlier = [call for call in self._calls[:-1] if call[0] == name and call[1].startswith(arguments)]
            # The earlier call's arguments are a whole JSON object, which nothing can follow.
            if (name, arguments) in earlier:
                self.ended = True
                break
            if not earlier:
                passed += self._release()
        parsed.tool_calls = passed
        return parsed

    def _release(self) -> list[ToolCallDelta]:
        held, self._held = self._held, []
        return held
