"""Separates tool calls from the content of a text while it streams, in one pass without backtracking."""

from __future__ import annotations

import uuid

import msgspec

from gllm.text.tool_parsers.call_scanner import CallScanner, Progress
from gllm.text.tool_parsers.formats import ToolFormat


class ToolCallDelta(msgspec.Struct):
    """An addition to the call `index`: the first one has `id` and `name`, all may have more of `arguments`."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


class ParsedDelta(msgspec.Struct):
    content: str = ""
    tool_calls: list[ToolCallDelta] = msgspec.field(default_factory=list)


class ToolParser:
    """The tool calls of one generation. The sum of all deltas does not depend on how the text is divided into pieces.

    Content is all text outside calls, without white space and separators between calls. Text that begins like a call
    but is not one is content, unless the end of the text cuts it off right after another call. Once the name of a call
    is returned, it stays a call: if the model breaks off inside the arguments, they are incomplete; content follows.
    """

    def __init__(self, tool_format: ToolFormat) -> None:
        self.format = tool_format
        self.ended = False
        """Never True here; `WithoutRepeats` sets it."""
        self.num_calls = 0
        self._tags = tuple(tag for tag in (tool_format.open_tag, tool_format.close_tag) if tag)
        self._call: CallScanner | None = None
        self._announced = False
        """Whether the name of the current call has been returned."""
        self._raw: list[str] = []
        """Text of the current call, while it may still be content."""
        self._gap: list[str] | None = []
        """White space since the start or the last call; None after other content."""
        self._tag = ""
        """Held text that may be the beginning of a tag."""
        self._close_expected = False
        self._delta = ParsedDelta()
        self._content: list[str] = []

    def feed(self, text: str) -> ParsedDelta:
        """Return what is certain after `text`."""
        for char in text:
            self._feed(char)
        return self._take()

    def finish(self) -> ParsedDelta:
        """Return the held text when no more comes. After a call, the beginning of another one is not content."""
        cut_off = self.num_calls and self._gap is not None
        if not cut_off:
            self._content += self._gap or ()
            self._content += self._raw
            self._content.append(self._tag)
        self._call, self._raw, self._gap, self._tag = None, [], None, ""
        return self._take()

    def _take(self) -> ParsedDelta:
        if self._call is not None and self._announced:
            self._add_arguments(self._call)
        delta, self._delta = self._delta, ParsedDelta()
        delta.content = "".join(self._content)
        self._content.clear()
        return delta

    def _feed(self, char: str) -> None:
        if self._call is not None:
            self._inside_call(self._call, char)
        elif self._tag:
            self._inside_tag(char)
        elif char == "<":
            self._tag = char
        elif self._gap is not None and (char.isspace() or (self.num_calls and char == self.format.separator)):
            self._gap.append(char)
        elif self._gap is not None and self.format.bare and char == "{":
            self._begin_call("")
            self._feed(char)
        else:
            self._add_content(char)

    def _inside_tag(self, char: str) -> None:
        candidate = self._tag + char
        if not any(tag.startswith(candidate) for tag in self._tags):
            tag, self._tag = self._tag, ""
            self._add_content(tag)
            self._feed(char)
        elif candidate == self.format.open_tag:
            self._begin_call(candidate)
        elif candidate != self.format.close_tag:
            self._tag = candidate
        else:
            self._tag = ""
            if self._close_expected:
                self._close_expected = False
                self._gap = []
            else:
                self._add_content(candidate)

    def _add_content(self, text: str) -> None:
        if self._gap:
            self._content += self._gap
        self._gap = None
        self._content.append(text)

    def _begin_call(self, tag: str) -> None:
        self._tag = ""
        self._call, self._announced, self._raw = CallScanner(), False, [tag]

    def _inside_call(self, call: CallScanner, char: str) -> None:
        progress = call.feed(char)
        if progress is Progress.REJECTED:
            self._end_call(call, complete=False)
            self._feed(char)
            return
        if not self._announced:
            self._raw.append(char)
            if call.name is not None and (self.format.name_is_enough or call.has_arguments):
                self._announce(call.name)
        if progress is Progress.DONE:
            self._end_call(call, complete=True)

    def _announce(self, name: str) -> None:
        self._announced, self._raw = True, []
        self._gap = []
        self._delta.tool_calls.append(ToolCallDelta(self.num_calls, f"call_{uuid.uuid4().hex[:24]}", name))
        self.num_calls += 1

    def _end_call(self, call: CallScanner, complete: bool) -> None:
        if self._announced:
            self._add_arguments(call, "{}" if complete and not call.has_arguments else "")
            self._gap = []
            self._close_expected = bool(self.format.close_tag)
        else:
            self._add_content("".join(self._raw))
        self._call, self._raw = None, []

    def _add_arguments(self, call: CallScanner, otherwise: str = "") -> None:
        text = call.take_arguments() or otherwise
        if not text:
            return
        index = self.num_calls - 1
        deltas = self._delta.tool_calls
        if deltas and deltas[-1].index == index:
            deltas[-1].arguments += text
        else:
            deltas.append(ToolCallDelta(index, arguments=text))


class WithoutRepeats:
    """A tool parser that ends an answer at a call that repeats an earlier one word for word.

    A model that was not trained on tools repeats its calls until `max_tokens`, if a grammar makes it call at all. A
    call is held back while it may be a repeat; after a repeat nothing more comes out.
    """

    def __init__(self, parser: ToolParser) -> None:
        self._parser = parser
        self._calls: list[tuple[str, str]] = []
        """Name and arguments so far of each call."""
        self._held: list[ToolCallDelta] = []
        self.ended = False
        """Whether a call was repeated: the answer should end."""

    def feed(self, text: str) -> ParsedDelta:
        return self._without(self._parser.feed(text))

    def finish(self) -> ParsedDelta:
        """Return the rest. A call that the end cut off is not a repeat."""
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
            # The arguments of the earlier call are a whole JSON object, so no more text can belong to them.
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
