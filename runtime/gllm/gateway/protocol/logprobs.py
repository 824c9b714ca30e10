"""Log-probabilities in the three shapes that clients know."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any

from gllm.text.tokenizer import Tokenizer
from gllm.wire.messages import TokenLogprob

_UTF8 = codecs.getincrementaldecoder("utf-8")

LOWEST = -9999.0
"""JSON has no -inf; OpenAI sends this."""


def finite(value: float) -> float:
    return value if value > LOWEST else LOWEST


class TokenNames:
    """How logprobs spell a token: by its text or, with `return_tokens_as_token_ids`, by its id."""

    def __init__(self, tokenizer: Tokenizer, *, as_ids: bool) -> None:
        self._tokenizer = tokenizer
        self._as_ids = as_ids

    def __call__(self, token: int) -> str:
        return f"token_id:{token}" if self._as_ids else self._tokenizer.token_text(token)


def chat_logprobs(entries: list[TokenLogprob], tokenizer: Tokenizer, names: TokenNames) -> list[dict[str, Any]]:
    """`choices[].logprobs.content` of a chat: token, logprob, bytes and alternatives."""

    def one(token: int, logprob: float) -> dict[str, Any]:
        return {"token": names(token), "logprob": finite(logprob), "bytes": list(tokenizer.token_bytes(token))}

    return [
        {**one(entry.token_id, entry.logprob), "top_logprobs": [one(token, value) for token, value in entry.top]}
        for entry in entries
    ]


class TextOffsets:
    """Counts the characters of the text that tokens decode to.

    A character may span several tokens: it counts where it is complete, so each of its tokens begins where it does.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool) -> None:
        """skip_special_tokens: the answer's text does not show them."""
        self._tokenizer = tokenizer
        self._hidden = tokenizer.special_token_ids if skip_special_tokens else frozenset[int]()
        self._decoder = _UTF8(errors="replace")
        self._offset = 0

    def prompt(self, text: str, token_ids: list[int]) -> list[int]:
        """Offsets of a prompt's tokens in its text; the answer comes after it.

        A token that the text does not show has no width: a BOS that the tokenizer added, and the space by which
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
        """The offset of the answer's next token."""
        offset = self._offset
        piece = b"" if token in self._hidden else self._tokenizer.token_bytes(token)
        if piece:
            unfinished = bool(self._decoder.getstate()[0])
            self._offset += len(self._decoder.decode(piece))
            if unfinished and piece[0] & 0xC0 != 0x80:
                offset += 1  # the character before it stays unfinished, and shows as U+FFFD
        return offset


class CompletionLogprobs:
    """`choices[].logprobs` of a text completion; keeps the offset from chunk to chunk."""

    def __init__(self, tokenizer: Tokenizer, names: TokenNames, *, skip_special_tokens: bool) -> None:
        self._names = names
        self._offsets = TextOffsets(tokenizer, skip_special_tokens=skip_special_tokens)

    def prompt(self, text: str, token_ids: list[int], entries: list[TokenLogprob | None]) -> dict[str, Any]:
        """Of an echoed prompt, whose first token has no entry."""
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
            # The token itself comes first, as in vLLM: clients take the first value for its own.
            top = {name: finite(entry.logprob)}
            for token, value in entry.top:
                top.setdefault(self._names(token), finite(value))
            tops.append(top)
        return {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets}


def joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Several chunks of `CompletionLogprobs` as one."""
    keys = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
    return {key: [value for part in parts for value in part[key]] for key in keys}


def prompt_logprobs(entries: list[TokenLogprob | None], tokenizer: Tokenizer) -> list[dict[str, Any] | None]:
    """vLLM's shape: {token id: {logprob, rank, decoded_token}} for each prompt token, null for the first.

    The prompt's own token comes before its alternatives.
    """

    def shown(token: int, value: float, rank: int) -> dict[str, Any]:
        return {"logprob": finite(value), "rank": rank, "decoded_token": tokenizer.token_text(token)}

    def one(entry: TokenLogprob) -> dict[str, Any]:
        found = {str(entry.token_id): shown(entry.token_id, entry.logprob, entry.rank)}
        for rank, (token, value) in enumerate(entry.top, 1):
            found.setdefault(str(token), shown(token, value, rank))
        return found

    return [None if entry is None else one(entry) for entry in entries]
