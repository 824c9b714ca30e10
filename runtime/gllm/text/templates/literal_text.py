"""Special tokens that a client spells in a message stay text: they cannot end a turn or begin another.

Before a chat template runs, `SpecialSpellings.mark` marks each such spelling inside the messages. In the rendered text
the marks show which spellings come from the client (`unmark`); the template's own spellings are special tokens.
`LiteralEncoder` encodes a text that has both kinds.
"""

from __future__ import annotations

import bisect
import itertools
import json
import re
import secrets
from collections.abc import Iterable, Iterator
from typing import Any

import tokenizers

from gllm.text.templates.template_values import ToolArguments, map_arguments

# The mark is random, so that no client can write it. Templates and JSON do not change private-use characters.
_MARK = "".join(chr(secrets.choice(range(0xE100, 0xF800))) for _ in range(8))
_ESCAPED_MARK = _MARK.encode("ascii", "backslashreplace").decode()
"""The mark as `tojson(ensure_ascii=true)` in a template writes it."""
_SLICE = 1 << 20
"""Characters that one call searches; no other Python thread runs during a call."""


class RenderedPrompt(str):
    """The text of a prompt. A special token whose spelling spans a position of `literal_at` is text."""

    literal_at: tuple[int, ...] = ()
    """Positions in the text, ascending."""


class SpecialSpellings:
    """Finds the spellings of special tokens."""

    def __init__(self, spellings: Iterable[str]) -> None:
        # A single character cannot be distinguished from text.
        words = {spelling for spelling in spellings if len(spelling) > 1}
        self._longest = max(map(len, words), default=0)
        self._beginnings = frozenset(word[:length] for word in words for length in range(1, len(word)))
        trie = _trie(words)
        firsts = [(re.escape(char), _pattern(rest)) for char, rest in trie.items()]
        self._first_char = re.compile("|".join(f"{char}(?={rest})" for char, rest in firsts) or "(?!)", re.DOTALL)
        self._whole = re.compile("|".join(char + rest for char, rest in firsts) or "(?!)", re.DOTALL)

    def mark(self, value: Any) -> Any:
        """Return `value` (strings, lists and dicts) with a mark in each spelling, after its first character.

        The beginning of a spelling at the end of a string is marked too: a template may write the rest after it.
        """
        if isinstance(value, str):
            return self._mark_text(value)
        if isinstance(value, list):
            return [self.mark(entry) for entry in value]
        if isinstance(value, ToolArguments):
            return map_arguments(value, self.mark)
        if isinstance(value, dict):
            return {self.mark(key): self.mark(entry) for key, entry in value.items()}
        return value

    def whole(self, text: str, start: int) -> re.Match[str] | None:
        """Return the first spelling from `start` on; of several at one position, the longest."""
        return self._whole.search(text, start)

    def _mark_text(self, text: str) -> str:
        cuts = list(self._cuts(text))
        if not cuts:
            return text
        return _MARK.join(text[start:end] for start, end in itertools.pairwise([0, *cuts, len(text)]))

    def _cuts(self, text: str) -> Iterator[int]:
        tail = max(0, len(text) - self._longest + 1)
        for start in range(0, len(text), _SLICE):
            stop = min(start + _SLICE, tail)
            for match in self._first_char.finditer(text, start, stop + self._longest):
                if match.start() < stop:
                    yield match.end()
        for start in range(tail, len(text)):
            if text[start:] in self._beginnings or self._first_char.match(text, start):
                yield start + 1


def unmark(text: str) -> RenderedPrompt:
    """Return the text without marks, and their positions."""
    pieces = text.replace(_ESCAPED_MARK, _MARK).split(_MARK)
    prompt = RenderedPrompt("".join(pieces))
    prompt.literal_at = tuple(itertools.accumulate(map(len, pieces[:-1])))
    return prompt


class LiteralEncoder:
    """A second tokenizer, in which special tokens have spellings that no client can write.

    Building it takes as long as loading a tokenizer.
    """

    def __init__(self, backend: tokenizers.Tokenizer, spellings: Iterable[str]) -> None:
        names = {spelling: _MARK + spelling + _MARK for spelling in spellings if len(spelling) > 1}
        content = json.loads(backend.to_str())
        for entry in content["added_tokens"]:
            if entry["content"] in names:
                entry |= {"content": names[entry["content"]], "normalized": False}
        model = content["model"]
        if model.get("unk_token") in names:
            model["unk_token"] = names[model["unk_token"]]
        if isinstance(model["vocab"], dict):
            model["vocab"] = {names.get(piece, piece): token for piece, token in model["vocab"].items()}
        else:
            model["vocab"] = [[names.get(piece, piece), score] for piece, score in model["vocab"]]
        self.backend = tokenizers.Tokenizer.from_str(json.dumps(content, ensure_ascii=False))
        """For texts from `spell_specials`."""
        added = {entry.content: token for token, entry in backend.get_added_tokens_decoder().items()}
        own = {token: self.backend.token_to_id(names.get(text, text)) for text, token in added.items()}
        self._ids = {mine: token for token, mine in own.items() if mine != token}
        """Ids here to ids of the first tokenizer, where they differ."""

    def model_ids(self, ids: list[int]) -> list[int]:
        """Translate ids of `backend` to ids of the first tokenizer."""
        return [self._ids.get(token, token) for token in ids] if self._ids else ids


def spell_specials(prompt: RenderedPrompt, spellings: SpecialSpellings) -> str | None:
    """Return the prompt with its special tokens as `LiteralEncoder` spells them; None if no spelling in it is text."""
    text, literals = str(prompt), prompt.literal_at
    pieces, end, start, found_literal = [], 0, 0, False
    while match := spellings.whole(text, start):
        inside = bisect.bisect_right(literals, match.start())
        if inside < len(literals) and literals[inside] < match.end():
            found_literal = True
            start = literals[inside]
            continue
        pieces += [text[end : match.start()], _MARK, match[0], _MARK]
        start = end = match.end()
    return "".join([*pieces, text[end:]]) if found_literal else None


Trie = dict[str, Any]


def _trie(words: Iterable[str]) -> Trie:
    """Return a trie of the words, nested by character; the key "" marks the end of a word."""
    root: Trie = {}
    for word in words:
        node = root
        for char in word:
            node = node.setdefault(char, {})
        node[""] = {}
    return root


def _pattern(node: Trie) -> str:
    """Return a regular expression for the longest path from this node to the end of a word."""
    prefix = ""
    while len(node) == 1 and "" not in node:
        [(char, node)] = node.items()
        prefix += re.escape(char)
    branches = [re.escape(char) + _pattern(rest) for char, rest in node.items() if char]
    if not branches:
        return prefix
    return f"{prefix}(?:{'|'.join(branches)}){'?' if '' in node else ''}"
