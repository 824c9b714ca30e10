"""What each token id adds to the text, as bytes: the ground on which decoding, streaming and logprobs stand."""

from __future__ import annotations

from typing import Any

import msgspec

SPIECE_SPACE = "\u2581"


class TokenTable(msgspec.Struct, frozen=True):
    """`pieces[id]` is what the token decodes to; concatenated pieces are the text's UTF-8."""

    pieces: list[bytes]
    strip_leading_space: bool
    """Whether decoding drops one leading space (SentencePiece marks a word's start by a space)."""


def byte_level_alphabet() -> dict[str, int]:
    """GPT-2's bijection from printable characters to bytes.

    Printable Latin-1 characters stand for themselves, the other 68 bytes for the characters from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def token_table(tokens: list[str | None], added: dict[int, str], decoder: dict[str, Any] | None) -> TokenTable:
    """Bytes of all tokens for the `decoder` section of a tokenizer.json.

    `tokens[id]` is the vocabulary's spelling (None for a hole); `added` are the added tokens, which mean
    themselves. Raises ValueError for decoders other than byte-level BPE and SentencePiece.
    """
    steps = _flatten(decoder)
    kinds = {step["type"] for step in steps}
    if kinds == {"ByteLevel"}:
        pieces = _byte_level_pieces(tokens)
        strip = False
    elif kinds and kinds <= {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}:
        pieces = _sentencepiece_pieces(tokens)
        strip = any(
            step["type"] == "Strip" or (step["type"] == "Metaspace" and step.get("prepend_scheme", "always") != "never")
            for step in steps
        )
    else:
        raise ValueError(
            f"tokenizer.json has the decoder {sorted(kinds) or None}; "
            "only byte-level BPE and SentencePiece tokenizers are supported"
        )
    for token, text in added.items():
        pieces[token] = text.encode()
    return TokenTable(pieces, strip)


def _flatten(decoder: dict[str, Any] | None) -> list[dict[str, Any]]:
    if decoder is None:
        return []
    if decoder["type"] == "Sequence":
        return [step for inner in decoder["decoders"] for step in _flatten(inner)]
    return [decoder]


def _byte_level_pieces(tokens: list[str | None]) -> list[bytes]:
    alphabet = byte_level_alphabet()
    # Latin-1 characters outside the alphabet are sent where Latin-1 cannot encode them, to be told apart below.
    table = {code: chr(alphabet.get(chr(code), 0xFFFD)) for code in range(256)}
    table |= {ord(char): chr(byte) for char, byte in alphabet.items()}
    pieces = []
    for token in tokens:
        try:
            pieces.append((token or "").translate(table).encode("latin-1"))
        except UnicodeEncodeError:  # not in the alphabet: `tokenizers` takes such a token as it stands
            pieces.append((token or "").encode())
    return pieces


def _sentencepiece_pieces(tokens: list[str | None]) -> list[bytes]:
    byte_tokens = {f"<0x{byte:02X}>": bytes([byte]) for byte in range(256)}
    return [
        byte_tokens.get(token or "") or (token or "").replace(SPIECE_SPACE, " ").encode("utf-8") for token in tokens
    ]
