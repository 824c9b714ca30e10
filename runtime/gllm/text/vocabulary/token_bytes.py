"""The bytes that each token adds to the text; decoding, streaming and logprobs use this table."""

from __future__ import annotations

from typing import Any

import msgspec

SPIECE_SPACE = "\u2581"


class TokenTable(msgspec.Struct, frozen=True):
    """`pieces[id]` are the bytes of a token; the concatenated pieces are the UTF-8 of the text."""

    pieces: list[bytes]
    strip_leading_space: bool
    """Whether decoding drops one leading space: SentencePiece marks the start of a word with a space."""


def byte_level_alphabet() -> dict[str, int]:
    """Return GPT-2's bijection from printable characters to bytes.

    Printable Latin-1 characters stand for their own bytes, the characters from U+0100 on for the other 68 bytes.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def token_table(tokens: list[str | None], added: dict[int, str], decoder: dict[str, Any] | None) -> TokenTable:
    """Return the bytes of all tokens for the `decoder` section of a tokenizer.json.

    `tokens[id]` is the spelling in the vocabulary, None for an id without a token; `added` are the added tokens. In
    byte-level BPE an added token is its own text. In SentencePiece its space and bytes are decoded as in other tokens,
    as in transformers. Raises ValueError for other decoders.
    """
    steps = _flatten(decoder)
    kinds = {step["type"] for step in steps}
    if kinds == {"ByteLevel"}:
        pieces = _byte_level_pieces(tokens)
        for token, text in added.items():
            pieces[token] = text.encode()
        return TokenTable(pieces, False)
    if kinds and kinds <= {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}:
        strip = any(
            step["type"] == "Strip" or (step["type"] == "Metaspace" and step.get("prepend_scheme", "always") != "never")
            for step in steps
        )
        return TokenTable(_sentencepiece_pieces(tokens, steps), strip)
    raise ValueError(
        f"tokenizer.json has the decoder {sorted(kinds) or None}; "
        "only byte-level BPE and SentencePiece tokenizers are supported"
    )


def _flatten(decoder: dict[str, Any] | None) -> list[dict[str, Any]]:
    if decoder is None:
        return []
    if decoder["type"] == "Sequence":
        return [step for inner in decoder["decoders"] for step in _flatten(inner)]
    return [decoder]


def _byte_level_pieces(tokens: list[str | None]) -> list[bytes]:
    alphabet = byte_level_alphabet()
    # Latin-1 characters outside the alphabet become U+FFFD, which Latin-1 cannot encode: that raises the error below.
    table = {code: chr(alphabet.get(chr(code), 0xFFFD)) for code in range(256)}
    table |= {ord(char): chr(byte) for char, byte in alphabet.items()}
    pieces = []
    for token in tokens:
        try:
            pieces.append((token or "").translate(table).encode("latin-1"))
        except UnicodeEncodeError:  # not in the alphabet: `tokenizers` takes the token itself
            pieces.append((token or "").encode())
    return pieces


def _sentencepiece_pieces(tokens: list[str | None], steps: list[dict[str, Any]]) -> list[bytes]:
    """Apply the steps that work on single tokens to each token."""
    replacements = [_replacement(step) for step in steps if step["type"] in ("Replace", "Metaspace")]
    has_bytes = any(step["type"] == "ByteFallback" for step in steps)
    byte_tokens = {f"<0x{byte:02X}>": bytes([byte]) for byte in range(256)} if has_bytes else {}
    pieces = []
    for token in tokens:
        text = token or ""
        for old, new in replacements:
            text = text.replace(old, new)
        pieces.append(byte_tokens.get(text) or text.encode())
    return pieces


def _replacement(step: dict[str, Any]) -> tuple[str, str]:
    if step["type"] == "Metaspace":
        return step.get("replacement", SPIECE_SPACE), " "
    pattern = step["pattern"].get("String")
    if not pattern:
        raise ValueError(
            f"tokenizer.json has a decoder that replaces {step['pattern']}; only plain strings are supported"
        )
    return pattern, step["content"]
