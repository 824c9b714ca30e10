"""Tokenizers for the tests of text: the default model's, and a small SentencePiece one in a synthetic GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
from transformers import AutoTokenizer

from gllm.hub.default_model import default_model_path
from gllm.text.tokenizer import Tokenizer, load_tokenizer

SPACE = "\u2581"
WORDS = ["hello", "world", "low", "lower", "the", "then", "a", "of"]


def sentencepiece_vocabulary() -> tuple[list[str], list[float], list[int]]:
    """Tokens, scores and types as in Llama 2: specials, bytes, pieces by falling score, characters."""
    tokens, scores, types = ["<unk>", "<s>", "</s>"], [0.0] * 3, [2, 3, 3]
    for byte in range(256):
        tokens.append(f"<0x{byte:02X}>")
        scores.append(0.0)
        types.append(6)
    pieces: dict[str, None] = {}
    for word in WORDS:
        spelled = SPACE + word
        for end in range(2, len(spelled) + 1):
            pieces.setdefault(spelled[:end])
        for end in range(2, len(word) + 1):
            pieces.setdefault(word[:end])
    pieces |= dict.fromkeys(SPACE + "abcdefghijklmnopqrstuvwxyz,.")
    for rank, piece in enumerate(dict.fromkeys(pieces)):
        tokens.append(piece)
        scores.append(-float(rank))
        types.append(1)
    tokens.append("<tool>")
    scores.append(0.0)
    types.append(4)
    return tokens, scores, types


@pytest.fixture(scope="session")
def sentencepiece_scores() -> dict[str, float]:
    """Score of every piece that can take part in a merge."""
    return {token: score for token, score, kind in zip(*sentencepiece_vocabulary(), strict=True) if kind == 1}


@pytest.fixture(scope="session")
def smollm() -> Tokenizer:
    return load_tokenizer(default_model_path())


@pytest.fixture(scope="session")
def reference() -> Any:
    """What transformers makes of the same GGUF file; slow to load."""
    path = default_model_path()
    return AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)


@pytest.fixture(scope="session")
def sentencepiece_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "sentencepiece.gguf"
    tokens, scores, types = sentencepiece_vocabulary()
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template("{{ messages[0].content }}")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


@pytest.fixture(scope="session")
def sentencepiece(sentencepiece_path: Path) -> Tokenizer:
    return load_tokenizer(sentencepiece_path)
