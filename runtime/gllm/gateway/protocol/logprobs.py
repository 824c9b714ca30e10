"""Log-probabilities in the three formats that clients know."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any

from gllm.text.tokenizer import Tokenizer
from gllm.wire.messages import TokenLogprob

_UTF8 = codecs.getincrementaldecoder("utf-8")

LOWEST = -9999.0
"""The value that OpenAI sends for -inf, which JSON lacks."""


def finite(value: float) -> float:
    return value if value > LOWEST else LOWEST


class TokenNames:
    """Names tokens in logprobs: by text or, with `return_tokens_as_token_ids`, by id."""

    def __init__(self, tokenizer: Tokenizer, *, as_ids: bool) -> None:
        self._tokenizer = tokenizer
        self._as_ids = as_ids

    def __call__(self, token: int) -> str:
        return f"token_id:{token}" if self._as_ids else self._tokenizer.token_text(token)


def chat_logprobs(entries: list[TokenLogprob], tokenizer: Tokenizer, names: TokenNames) -> list[dict[str, Any]]:
    """Return `choices[].logprobs.content` of a chat: token, logprob, bytes and alternatives."""

    def one(token: int, logprob: float) -> dict[str, Any]:
        return {"token": names(token), "logprob": finite(logprob), "bytes": list(tokenizer.token_bytes(token))}

    return [
        {**one(entry.token_id, entry.logprob), "top_logprobs": [one(token, value) for token, value in entry.top]}
        for entry in entries
    ]


class TextOffsets:
    """Character offsets of tokens in the text that they decode to.

    A character may span several tokens. It counts when it is complete, so all its tokens have the offset of the
    character.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool) -> None:
        """skip_special_tokens: whether the answer's text leaves special tokens out."""
        self._tokenizer = tokenizer
        self._hidden = tokenizer.special_token_ids if skip_special_tokens else frozenset[int]()
        self._decoder = _UTF8(errors="replace")
        self._offset = 0

    def prompt(self, text: str, token_ids: list[int]) -> list[int]:
        """Return the offsets of a prompt's tokens in its text. The offsets of the answer continue from its end.

        A token that is not in the text has no width: a BOS that the tokenizer added, and the space by which
        SentencePiece marks the first word.
        """
        special = self._tokenizer.special_token_ids
        decode = _UTF8(errors="replace").decode
        offsets: list[int] = []
        at = 0
        for token in token_ids:
            offsets.append(at)
            piece = decode(self._tokenizer.token_bytes(token))
            if not text.startswith(piece, at):
                if token in special:
                    piece = ""
                elif at == 0:
                    piece = piece.removeprefix(" ")
            at = min(at + len(piece), len(text))
        self._offset = len(text)
        return offsets

    def add(self, token: int) -> int:
        """Return the offset of the answer's next token."""
        offset = self._offset
        piece = b"" if token in self._hidden else self._tokenizer.token_bytes(token)
        if piece:
            unfinished = bool(self._decoder.getstate()[0])
            self._offset += len(self._decoder.decode(piece))
            if unfinished and piece[0] & 0xC0 != 0x80:
                offset += 1  # the unfinished character before it becomes U+FFFD
        return offset


class CompletionLogprobs:
    """Renders `choices[].logprobs` of a text completion, and keeps the text offset between chunks."""

    def __init__(self, tokenizer: Tokenizer, names: TokenNames, *, skip_special_tokens: bool) -> None:
        self._names = names
        self._offsets = TextOffsets(tokenizer, skip_special_tokens=skip_special_tokens)

    def prompt(self, text: str, token_ids: list[int], entries: list[TokenLogprob | None]) -> dict[str, Any]:
        """Return the logprobs of an echoed prompt, whose first token has no entry."""
        offsets = self._offsets.prompt(text, token_ids)
        return self._render(token_ids, entries, offsets)

    def answer(self, entries: list[TokenLogprob]) -> dict[str, Any]:
        token_ids = [entry.token_id for entry in entries]
        return self._render(token_ids, entries, [self._offsets.add(token) for token in token_ids])

    def _render(
        self, token_ids: list[int], entries: Sequence[TokenLogprob | None], offsets: list[int]
    ) -> dict[str, Any]:
        tokens = [self._names(token) for token in token_ids]
        values = [None if entry is None else finite(entry.logprob) for entry in entries]
        tops: list[dict[str, float] | None] = []
        for name, entry in zip(tokens, entries, strict=True):
            if entry is None:
                tops.append(None)
                continue
            # The token itself comes first, as in vLLM: clients take the first value for the token's own.
            top = {name: finite(entry.logprob)}
            for token, value in entry.top:
                top.setdefault(self._names(token), finite(value))
            tops.append(top)
        return {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets}


def joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Join several chunks of `CompletionLogprobs`."""
    keys = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
    return {key: [value for part in parts for value in part[key]] for key in keys}


def prompt_logprobs(entries: list[TokenLogprob | None], tokenizer: Tokenizer) -> list[dict[str, Any] | None]:
    """Return vLLM's format: {token id: {logprob, rank, decoded_token}} for each prompt token, null for the first.

    The prompt's own token comes before its alternatives.
    """

    def describe(token: int, value: float, rank: int) -> dict[str, Any]:
        return {"logprob": finite(value), "rank": rank, "decoded_token": tokenizer.token_text(token)}

    def one(entry: TokenLogprob) -> dict[str, Any]:
        found = {str(entry.token_id): describe(entry.token_id, entry.logprob, entry.rank)}
        for rank, (token, value) in enumerate(entry.top, 1):
            found.setdefault(str(token), describe(token, value, rank))
        return found

    return [None if entry is None else one(entry) for entry in entries]
