"""Where tokens begin in a text, in characters."""

from __future__ import annotations

import codecs

from gllm.gateway.shared.interfaces import Tokenizer

_UTF8 = codecs.getincrementaldecoder("utf-8")


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
