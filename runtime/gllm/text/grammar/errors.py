"""llguidance's error messages in words that a client understands."""

from __future__ import annotations

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
"""What a message of llguidance's contains, and what it means. The first that fits counts."""


def explain(error: str) -> str:
    """Why a grammar failed, without the dumps of llguidance's state that may follow its message."""
    text = error.partition("<state>")[0].partition("<backtrace>")[0].replace("<non-verbose/>", "").strip()
    for sign, meaning in _EXPLANATIONS:
        if sign in text:
            return meaning
    return text if len(text) <= MAX_ERROR_CHARS else text[:MAX_ERROR_CHARS] + "..."
