"""Stop patterns: regular expressions that end a text when one of them matches."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from gllm.sampling_params import ParameterError

if TYPE_CHECKING:  # imported where it is used, because few requests need it
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

MAX_PATTERNS = 16
MAX_PATTERN_CHARS = 4096
_EOS = 256


class PatternTooComplexError(ValueError):
    """A pattern needs more states on this text than it may have."""


class StopPatterns:
    """Compiled patterns, shared by all answers of a request.

    They are matched by llguidance's lexer: the time per byte does not grow with the text, whatever the pattern. The
    syntax is Rust's: no look-around, no back references, and of the anchors only `$`, the end of the text so far.
    """

    def __init__(self, patterns: Sequence[str] = ()) -> None:
        """Raises ParameterError("stop_regex")."""
        if len(patterns) > MAX_PATTERNS:
            raise ParameterError(
                "stop_regex", f"stop_regex has {len(patterns)} patterns; at most {MAX_PATTERNS} are allowed"
            )
        self._patterns = [(pattern, _compile(pattern, index)) for index, pattern in enumerate(patterns)]

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def scanner(self) -> PatternScanner:
        return PatternScanner([(pattern, matcher.deep_copy()) for pattern, matcher in self._patterns])


class PatternScanner:
    """Searches for the patterns in one text that comes in pieces."""

    def __init__(self, matchers: list[tuple[str, LLMatcher]]) -> None:
        self._matchers = matchers

    def feed(self, text: str, *, ignore: bool = False) -> str | None:
        """Return the first pattern with a match that ends in `text`. ignore: matches that end in `text` do not count.

        Raises PatternTooComplexError.
        """
        data = text.encode()
        for pattern, matcher in self._matchers:
            for byte in data:
                if not matcher.consume_token(byte):
                    raise PatternTooComplexError("stop_regex: the pattern needs too many states on this answer")
                if not ignore and matcher.is_accepting():
                    return pattern
        return None


def _compile(pattern: str, index: int) -> LLMatcher:
    """Return a matcher that accepts whenever a match of the pattern ends. Raises ParameterError."""
    from llguidance import LLMatcher

    if not 0 < len(pattern) <= MAX_PATTERN_CHARS:
        raise ParameterError("stop_regex", f"stop_regex[{index}] must have 1 to {MAX_PATTERN_CHARS} characters")
    # Compile it alone first: inside the group, `a)(b` would be valid.
    for regex in (pattern, f"(?s:.*)(?:{pattern})"):
        matcher = LLMatcher(_byte_tokenizer(), LLMatcher.grammar_from_regex(regex), log_level=0, limits=_limits())
        if matcher.is_error():
            raise ParameterError("stop_regex", f"stop_regex[{index}]: {_reason(matcher.get_error())}")
    return matcher


def _reason(error: str) -> str:
    """Return the reason that llguidance or its regex parser gives, without the pattern."""
    for line in error.splitlines():
        head, found, reason = line.strip().partition("error: ")
        if found and not head.strip():
            return reason
    if "lookarounds not supported" in error:
        return "\\b, ^ and other assertions are not supported"
    return "the pattern is too complex"


def _limits() -> LLParserLimits:
    """Return limits: milliseconds of work for a byte, and some megabytes of states."""
    from llguidance import LLParserLimits

    return LLParserLimits(
        initial_lexer_fuel=500_000,
        step_lexer_fuel=50_000,
        max_lexer_states=2000,
        max_grammar_size=200_000,
        verbose_errors=False,
    )


class _Bytes:
    """A vocabulary of single bytes, in the form that llguidance reads."""

    def __init__(self) -> None:
        self.eos_token_id = _EOS
        self.bos_token_id: int | None = None
        self.tokens = [*(bytes([byte]) for byte in range(256)), b"<eos>"]
        self.special_token_ids = [_EOS]

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text if isinstance(text, bytes) else text.encode())


@cache
def _byte_tokenizer() -> LLTokenizer:
    from llguidance import LLTokenizer, TokenizerWrapper

    return LLTokenizer(TokenizerWrapper(_Bytes()))
