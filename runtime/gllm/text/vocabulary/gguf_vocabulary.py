"""Makes a tokenizer.json from GGUF metadata, so that both kinds of checkpoint use the library `tokenizers`."""

from __future__ import annotations

from typing import Any

from gllm.text.vocabulary.pretokenizers import (
    ADDS_BOS,
    IGNORES_MERGES,
    NORMALIZES_NFC,
    byte_level_pretokenizer,
    pretokenizer_name,
)
from gllm.text.vocabulary.token_bytes import SPIECE_SPACE

CONTROL, _USER_DEFINED = 3, 4
"""Values of `tokenizer.ggml.token_type`."""


def tokenizer_json_from_gguf(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a tokenizer.json that encodes as the original tokenizer of the model does.

    Raises ValueError if the metadata has no vocabulary or one of an unsupported kind.
    """
    kind = metadata.get("tokenizer.ggml.model")
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens:
        raise ValueError("the GGUF file has no vocabulary (tokenizer.ggml.tokens)")
    vocab = {token: index for index, token in enumerate(tokens)}
    if len(vocab) != len(tokens):
        raise ValueError("the GGUF vocabulary (tokenizer.ggml.tokens) names a token twice")
    if kind == "gpt2":
        name = pretokenizer_name(metadata.get("tokenizer.ggml.pre"), tokens)
        metadata = {**metadata, "tokenizer.ggml.pre": name}
        parts = _byte_level(metadata, vocab)
    elif kind == "llama":
        parts = _sentencepiece(metadata, tokens, vocab)
    else:
        raise ValueError(
            f"tokenizer.ggml.model is {kind!r}; only 'gpt2' (byte-level BPE) and 'llama' (SentencePiece) are supported"
        )
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(metadata, tokens),
        **parts,
        "post_processor": _post_processor(metadata, tokens),
    }


def _byte_level(metadata: dict[str, Any], vocab: dict[str, int]) -> dict[str, Any]:
    pre = metadata["tokenizer.ggml.pre"]
    merges = metadata.get("tokenizer.ggml.merges")
    if not isinstance(merges, list):
        raise ValueError("the GGUF file has a BPE vocabulary without merges (tokenizer.ggml.merges)")
    return {
        "normalizer": {"type": "NFC"} if pre in NORMALIZES_NFC else None,
        "pre_tokenizer": byte_level_pretokenizer(pre),
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        "model": {
            "type": "BPE",
            "vocab": vocab,
            # The space is the separator; inside a piece it is spelled with a letter of the byte-level alphabet.
            "merges": [merge.split(" ", 1) for merge in merges],
            "ignore_merges": pre in IGNORES_MERGES,
        },
    }


def _sentencepiece(metadata: dict[str, Any], tokens: list[str], vocab: dict[str, int]) -> dict[str, Any]:
    scores = metadata.get("tokenizer.ggml.scores")
    if not isinstance(scores, list) or len(scores) != len(tokens):
        raise ValueError("the GGUF file has a SentencePiece vocabulary without scores (tokenizer.ggml.scores)")
    unknown = metadata.get("tokenizer.ggml.unknown_token_id", 0)
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPIECE_SPACE}
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPIECE_SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    normalizers: list[dict[str, Any]] = [spaces]
    if metadata.get("tokenizer.ggml.add_space_prefix", True):
        normalizers.insert(0, {"type": "Prepend", "prepend": SPIECE_SPACE})
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE",
            "vocab": vocab,
            "merges": _merges_from_scores(metadata, tokens, vocab, scores),
            "unk_token": tokens[unknown] if 0 <= unknown < len(tokens) else None,
            "fuse_unk": True,
            "byte_fallback": True,
        },
    }


def _merges_from_scores(
    metadata: dict[str, Any], tokens: list[str], vocab: dict[str, int], scores: list[float]
) -> list[list[str]]:
    """Return the merges of a SentencePiece vocabulary. It merges the adjacent pair whose union has the best score.

    Pairs with the same union are ordered by the ids of their parts, as in the conversion of Hugging Face. Special
    tokens are matched before BPE, so they have no merges.
    """
    types = metadata.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    pairs: list[tuple[float, int, int, int]] = []
    for index, token in enumerate(tokens):
        if types[index] != 1:
            continue
        for cut in range(1, len(token)):
            left, right = vocab.get(token[:cut]), vocab.get(token[cut:])
            if left is not None and right is not None:
                pairs.append((-scores[index], index, left, right))
    pairs.sort()
    return [[tokens[left], tokens[right]] for _, _, left, right in pairs]


def _added_tokens(metadata: dict[str, Any], tokens: list[str]) -> list[dict[str, Any]]:
    types = metadata.get("tokenizer.ggml.token_type") or []
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [
        {"id": index, "content": tokens[index], **special, "special": kind == CONTROL}
        for index, kind in enumerate(types[: len(tokens)])
        if kind in (CONTROL, _USER_DEFINED) and tokens[index]
    ]


def _post_processor(metadata: dict[str, Any], tokens: list[str]) -> dict[str, Any] | None:
    sentencepiece = metadata.get("tokenizer.ggml.model") == "llama"
    default_bos = sentencepiece or metadata.get("tokenizer.ggml.pre") in ADDS_BOS
    adds = {
        "bos": metadata.get("tokenizer.ggml.add_bos_token", default_bos),
        "eos": metadata.get("tokenizer.ggml.add_eos_token", False),
    }
    specials: dict[str, int] = {}
    for name, is_added in adds.items():
        token = special_token_id(metadata, name)
        if is_added and token is not None:
            specials[name] = token
    if not specials:
        return None
    pieces: list[dict[str, Any]] = [{"Sequence": {"id": "A", "type_id": 0}}]
    for name, token in specials.items():
        piece = {"SpecialToken": {"id": tokens[token], "type_id": 0}}
        pieces.insert(0 if name == "bos" else len(pieces), piece)
    return {
        "type": "TemplateProcessing",
        "single": pieces,
        "pair": [*pieces, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            tokens[token]: {"id": tokens[token], "ids": [token], "tokens": [tokens[token]]}
            for token in specials.values()
        },
    }


def special_token_id(metadata: dict[str, Any], name: str) -> int | None:
    """Return the id under `tokenizer.ggml.NAME_token_id` (bos, unknown, ...); None if it is absent or out of range."""
    token = metadata.get(f"tokenizer.ggml.{name}_token_id")
    size = len(metadata.get("tokenizer.ggml.tokens") or ())
    return token if isinstance(token, int) and 0 <= token < size else None
